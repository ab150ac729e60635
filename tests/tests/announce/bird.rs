//! The configuration of BIRD as a router with two nodes.

use std::fmt::Write as _;

use lab::host::Host;
use lab::router::bird::general;

use crate::router::RouterPlan;
use crate::site::{NODE_AS, ROUTER_AS, ROUTER_V4, ROUTER_V6, node_v4, node_v6};

pub(crate) fn configuration(plan: &RouterPlan, host: &Host) -> String {
    let mut text = general(host, ROUTER_V4);
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(
            text,
            "protocol kernel {{ {family} {{ export all; }}; merge paths on; }}"
        );
    }
    text += "protocol bfd { interface \"br0\" { interval 100 ms; idle tx interval 1 s; multiplier 3; }; }\n";
    for node in 0..2 {
        let (local, remote) = if plan.over_v6 {
            (ROUTER_V6.to_string(), node_v6(node).to_string())
        } else {
            (ROUTER_V4.to_string(), node_v4(node).to_string())
        };
        let _ = writeln!(
            text,
            "protocol bgp node{node} {{
  local {local} as {ROUTER_AS};
  neighbor {remote} as {NODE_AS};
  hold time 9;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};"
        );
        if let Some(password) = plan.password {
            let _ = writeln!(text, "  password \"{password}\";");
        }
        if plan.ttl_security {
            text += "  ttl security on;\n";
        }
        if plan.bfd {
            text += "  bfd on;\n";
        }
        text += "}\n";
    }
    text
}
