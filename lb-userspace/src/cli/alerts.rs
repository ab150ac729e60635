//! `evenkeel alerts`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use nix::unistd::{User, getuid};

use super::{
    argument,
    session::{Output, Session},
    view::{self, View, figures::duration, paint::Tone},
};
use lb_api::{TestedReceiver, client::Client};

/// List, acknowledge and silence alerts, and test their receivers.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  evenkeel alerts
  evenkeel alerts ack ID
  evenkeel alerts silence ID --for 2h
  evenkeel alerts test        # send a test alert to every receiver"
)]
pub(super) struct AlertsArgs {
    #[command(subcommand)]
    command: Option<AlertsCommand>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// List the firing alerts, the worst first.
    List(ListArgs),
    Ack(AckArgs),
    Silence(SilenceArgs),
    Test(TestArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

/// Acknowledge an alert: it keeps firing but no longer escalates with age.
#[derive(Args, Debug)]
struct AckArgs {
    /// Alert ID, as shown by `evenkeel alerts`.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    output: Output,
}

/// Silence an alert: no notifications are sent.
#[derive(Args, Debug)]
struct SilenceArgs {
    /// Alert ID, as shown by `evenkeel alerts`.
    #[arg(value_name = "ID")]
    id: String,
    /// Duration of the silence, as in 2h; 0 ends it.
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = argument::seconds)]
    time: u32,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    output: Output,
}

/// Send a test alert to every receiver and report the results.
#[derive(Args, Debug)]
struct TestArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct WhoArgs {
    /// Your name, for the record [default: the calling user].
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
}

impl WhoArgs {
    /// The given name, or the user who called sudo, or the user.
    fn name(&self) -> String {
        let sudo = || std::env::var("SUDO_USER").ok();
        let user = || Some(User::from_uid(getuid()).ok()??.name);
        let given = self.who.clone();
        given
            .or_else(|| sudo().filter(|name| !name.is_empty()))
            .or_else(user)
            .unwrap_or_else(|| getuid().to_string())
    }
}

pub(super) async fn run(args: AlertsArgs, client: Client) -> Result<ExitCode> {
    let session = |output| Session::new(client, output);
    match args.command {
        None => list(&session(args.output)).await,
        Some(AlertsCommand::List(args)) => list(&session(args.output)).await,
        Some(AlertsCommand::Ack(args)) => {
            let session = session(args.output);
            let who = args.who.name();
            let alert = session.client.acknowledge(&args.id, &who).await?;
            session.print(&alert, |_| format!("{} acknowledged by {who}\n", args.id))
        }
        Some(AlertsCommand::Silence(args)) => {
            let session = session(args.output);
            let who = args.who.name();
            let alert = session.client.silence(&args.id, args.time, &who).await?;
            session.print(&alert, |_| silenced(&args.id, args.time))
        }
        Some(AlertsCommand::Test(args)) => {
            let session = session(args.output);
            let results = session.client.test_alerts().await?;
            session.print(&results, |view| tested(view, &results))?;
            let failed = results.iter().any(|result| result.error.is_some());
            Ok(u8::from(failed).into())
        }
    }
}

async fn list(session: &Session) -> Result<ExitCode> {
    let alerts = session.client.alerts().await?;
    session.print(&alerts, |view| match alerts.as_slice() {
        [] => "no alerts\n".into(),
        alerts => view::alerts::alerts(view, alerts, Timestamp::now()),
    })
}

fn silenced(id: &str, seconds: u32) -> String {
    if seconds == 0 {
        return format!("silence of {id} ended\n");
    }
    let time = duration(jiff::SignedDuration::from_secs(seconds.into()));
    format!("{id} silenced for {time}\n")
}

/// One line per receiver.
fn tested(view: View, results: &[TestedReceiver]) -> String {
    if results.is_empty() {
        return "no receivers: alerts.alertmanager and alerts.webhook are empty\n".into();
    }
    let lines = results.iter().map(|result| {
        let TestedReceiver {
            kind,
            receiver,
            error,
        } = result;
        match error {
            None => format!("{} {kind} {receiver}\n", view.paint.apply(Tone::Good, "✓")),
            Some(error) => {
                let mark = view.paint.apply(Tone::Bad, "✗");
                format!("{mark} {kind} {receiver}: {error}\n")
            }
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::plain, *};

    #[test]
    fn names_receivers_that_failed() {
        let result = |error: Option<&str>| TestedReceiver {
            kind: "webhook".into(),
            receiver: "http://127.0.0.1:8080".into(),
            error: error.map(str::to_owned),
        };
        let text = tested(
            plain(80),
            &[result(None), result(Some("connection refused"))],
        );
        assert_eq!(
            text,
            "✓ webhook http://127.0.0.1:8080\n\
             ✗ webhook http://127.0.0.1:8080: connection refused\n"
        );
        assert!(tested(plain(80), &[]).contains("no receivers"));
    }
}
