//! The configuration of FRR as a router with two nodes.

use std::fmt::Write as _;

use crate::router::RouterPlan;
use crate::site::{NODE_AS, ROUTER_AS, ROUTER_V4, node_v4, node_v6};

pub(crate) const BFDD: &str = "bfd
 profile fast
  detect-multiplier 3
  receive-interval 100
  transmit-interval 100
 exit
exit
";

pub(crate) fn neighbor(plan: &RouterPlan, node: usize) -> String {
    if plan.over_v6 {
        node_v6(node).to_string()
    } else {
        node_v4(node).to_string()
    }
}

pub(crate) fn configuration(plan: &RouterPlan) -> String {
    let mut text = format!(
        "router bgp {ROUTER_AS}
 bgp router-id {ROUTER_V4}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 timers bgp 3 9
"
    );
    let neighbors = [neighbor(plan, 0), neighbor(plan, 1)];
    for neighbor in &neighbors {
        let _ = writeln!(text, " neighbor {neighbor} remote-as {NODE_AS}");
        let _ = writeln!(text, " neighbor {neighbor} timers connect 1");
        if let Some(password) = plan.password {
            let _ = writeln!(text, " neighbor {neighbor} password {password}");
        }
        if plan.ttl_security {
            let _ = writeln!(text, " neighbor {neighbor} ttl-security hops 1");
        }
        if plan.bfd {
            let _ = writeln!(text, " neighbor {neighbor} bfd profile fast");
        }
    }
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(text, " address-family {family} unicast\n  maximum-paths 8");
        for neighbor in &neighbors {
            let _ = writeln!(text, "  neighbor {neighbor} activate");
        }
        text += " exit-address-family\n";
    }
    text
}
