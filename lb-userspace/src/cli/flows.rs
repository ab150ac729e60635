//! `evenkeel flows`.

use std::{collections::HashSet, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view::{
        View,
        figures::count,
        table::{Cell, Side, Table},
    },
};
use lb_api::{SampledFlow, client::Client};

/// List sampled flows: packets, bytes, SYNs and resets from the client, and the backend.
///
/// The data path samples all flows of a quiet VIP and a fraction of those of a busy one, 4,096 at most.
/// The ones with most bytes come first; with --json, one JSON object per line.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel flows --vip api
  evenkeel flows --follow --backend api-1
  evenkeel flows --json | jq -r .flow")]
pub(super) struct FlowsArgs {
    /// Only flows of this VIP.
    #[arg(long, value_name = "VIP")]
    vip: Option<String>,
    /// Only flows to this backend.
    #[arg(long, value_name = "backend")]
    backend: Option<String>,
    /// Keep running: print flows when they appear.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: FlowsArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let (vip, backend) = (args.vip.as_deref(), args.backend.as_deref());
    let mut known = HashSet::new();
    let step = async || {
        let flows = session.client.flows(vip, backend).await?;
        let new: Vec<&SampledFlow> = flows
            .iter()
            .filter(|flow| !known.contains(&flow.flow))
            .collect();
        print(&session, &new, known.is_empty())?;
        known = flows.into_iter().map(|flow| flow.flow).collect();
        Ok(())
    };
    session.repeat(args.follow, step).await
}

fn print(session: &Session, flows: &[&SampledFlow], titled: bool) -> Result<()> {
    for flow in flows {
        session.print_json(flow)?;
    }
    if flows.is_empty() {
        return Ok(());
    }
    session.print_text(&text(session.view, flows, titled))
}

fn text(view: View, flows: &[&SampledFlow], titled: bool) -> String {
    let mut columns = [
        (Side::Left, "flow"),
        (Side::Left, "backend"),
        (Side::Right, "packets"),
        (Side::Right, "bytes"),
        (Side::Right, "SYN"),
        (Side::Right, "RST"),
        (Side::Right, "age"),
        (Side::Right, "idle"),
    ];
    if !titled {
        for (_, title) in &mut columns {
            *title = "";
        }
    }
    let mut table = Table::new(&columns).shrinking(&[0, 1]);
    for flow in flows {
        table.row([
            Cell::from(flow.flow.clone()),
            format!("{}/{}", flow.vip, flow.backend).into(),
            count(flow.packets).into(),
            count(flow.bytes).into(),
            count(flow.syns.into()).into(),
            count(flow.resets.into()).into(),
            format!("{}s", flow.age_s).into(),
            format!("{}s", flow.idle_s).into(),
        ]);
    }
    table.draw(view)
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::plain, *};

    #[test]
    fn shows_flows() {
        let flow = |source: &str, packets| SampledFlow {
            flow: format!("tcp {source}:40000 > 203.0.113.10:443"),
            vip: "api".into(),
            backend: "api-1".into(),
            packets,
            bytes: packets * 1000,
            syns: 1,
            resets: 0,
            age_s: 12,
            idle_s: 1,
        };
        let flows = [flow("198.51.100.7", 12_345), flow("192.0.2.1", 3)];
        let flows: Vec<&SampledFlow> = flows.iter().collect();
        insta::assert_snapshot!(text(plain(100), &flows, true));
        assert!(!text(plain(100), &flows, false).contains("flow"));
    }
}
