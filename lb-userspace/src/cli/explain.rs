//! `evenkeel explain`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    session::{Output, Session},
    view::{View, paint::Tone},
};
use lb_api::{ExplainRequest, Explanation, client::Client};

/// Explain step by step what the data path would do with a packet.
///
/// Uses the current VIPs, ring, tracking table, members and next hops. No packet is sent and nothing
/// is counted.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel explain 'tcp 198.51.100.7:40000 > 203.0.113.10:443'
  evenkeel explain 'tcp 198.51.100.7:40000 > 203.0.113.10:443' --syn    # a new connection
  evenkeel explain 'udp [2001:db8::7]:5353 > [2001:db8::53]:53'")]
pub(super) struct ExplainArgs {
    /// Packet: protocol, source and destination; IPv6 addresses in brackets.
    #[arg(value_name = "FLOW")]
    flow: String,
    /// The packet is a TCP SYN, which opens a connection.
    #[arg(long)]
    syn: bool,
    #[command(flatten)]
    output: Output,
}

impl ExplainArgs {
    pub(super) fn request(self, client: Client) -> (Session, ExplainRequest) {
        let request = ExplainRequest {
            flow: self.flow,
            syn: self.syn,
        };
        (Session::new(client, self.output), request)
    }
}

pub(super) async fn run(args: ExplainArgs, client: Client) -> Result<ExitCode> {
    let (session, request) = args.request(client);
    let explanation = session.client.explain(&request).await?;
    session.print(&explanation, |view| text(view, &explanation))
}

fn text(view: View, explanation: &Explanation) -> String {
    let steps = &explanation.steps;
    let width = steps.iter().map(|step| step.step.chars().count()).max();
    let width = width.unwrap_or(0);
    let mut text = format!("{}\n", view.paint.apply(Tone::Strong, &explanation.flow));
    for step in steps {
        let indent = " ".repeat(width + 4);
        let finding = view.wrap(&indent, &step.finding);
        let pad = " ".repeat(width - step.step.chars().count());
        let name = view.paint.apply(Tone::Faint, &step.step);
        text += &format!("  {name}{pad}  {}\n", finding.trim_start());
    }
    let tone = match explanation.verdict.as_str() {
        "drop" => Tone::Bad,
        "pass" => Tone::Plain,
        _ => Tone::Good,
    };
    let verdict = view.paint.apply(tone, &explanation.verdict);
    let to = match (&explanation.vip, &explanation.backend) {
        (Some(vip), Some(backend)) => format!(" to {vip}/{backend}"),
        _ => String::new(),
    };
    text + &format!("{verdict}{to}, counted as {}\n", explanation.reason)
}

#[cfg(test)]
mod tests {
    use super::{
        super::view::tests::{fixtures, plain},
        *,
    };

    #[test]
    fn shows_an_explanation() {
        insta::assert_snapshot!(text(plain(80), &fixtures::explanation()));
    }
}
