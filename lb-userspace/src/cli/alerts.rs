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
use lb_api::client::{Client, Tested};

/// List alerts, acknowledge and silence them, and try where they go.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  evenkeel alerts
  evenkeel alerts ack ID
  evenkeel alerts silence ID --for 2h
  evenkeel alerts test        # sends one that means nothing to every receiver"
)]
pub(super) struct AlertsArgs {
    #[command(subcommand)]
    command: Option<AlertsCommand>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum AlertsCommand {
    /// List the alerts that are on, the worst first.
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

/// Say that you have seen an alert: it stays on, and does not get worse by its age.
#[derive(Args, Debug)]
struct AckArgs {
    /// What names the alert: `evenkeel alerts` shows it.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    output: Output,
}

/// Send nothing about an alert for a time.
#[derive(Args, Debug)]
struct SilenceArgs {
    /// What names the alert: `evenkeel alerts` shows it.
    #[arg(value_name = "ID")]
    id: String,
    /// How long, as in 2h; 0 ends a silence.
    #[arg(long = "for", value_name = "T", default_value = "1h", value_parser = argument::seconds)]
    time: u32,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    output: Output,
}

/// Send an alert that means nothing to every receiver, and say how that went.
#[derive(Args, Debug)]
struct TestArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct Who {
    /// Who you are; without it, the user who asks.
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
}

impl Who {
    fn name(&self) -> String {
        let sudo = || {
            std::env::var("SUDO_USER")
                .ok()
                .filter(|name| !name.is_empty())
        };
        let user = || {
            User::from_uid(getuid())
                .ok()
                .flatten()
                .map(|user| user.name)
        };
        let given = self.who.clone();
        given
            .or_else(sudo)
            .or_else(user)
            .unwrap_or_else(|| getuid().to_string())
    }
}

pub(super) async fn run(args: AlertsArgs, client: Client) -> Result<ExitCode> {
    let output = args.output;
    match args.command {
        None => list(&Session::new(client, output)).await?,
        Some(AlertsCommand::List(args)) => list(&Session::new(client, args.output)).await?,
        Some(AlertsCommand::Ack(args)) => {
            let session = Session::new(client, args.output);
            let who = args.who.name();
            let answer = session.client.acknowledge(&args.id, &who).await?;
            session.print(&answer, |_| format!("{} acknowledged by {who}\n", args.id))?;
        }
        Some(AlertsCommand::Silence(args)) => {
            let session = Session::new(client, args.output);
            let who = args.who.name();
            let answer = session.client.silence(&args.id, args.time, &who).await?;
            session.print(&answer, |_| silenced(&args.id, args.time))?;
        }
        Some(AlertsCommand::Test(args)) => {
            let session = Session::new(client, args.output);
            let answer = session.client.test_alerts().await?;
            session.print(&answer, |view| tested(view, &answer))?;
            if answer.iter().any(|tested| tested.error.is_some()) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session) -> Result<()> {
    let alerts = session.client.alerts().await?;
    session.print(&alerts, |view| match alerts.as_slice() {
        [] => "no alerts\n".into(),
        alerts => view::alerts::alerts(view, alerts, Timestamp::now()),
    })
}

fn silenced(id: &str, seconds: u32) -> String {
    match seconds {
        0 => format!("{id} is not silenced any more\n"),
        seconds => {
            let time = duration(jiff::SignedDuration::from_secs(seconds.into()));
            format!("{id} silenced for {time}\n")
        }
    }
}

/// How the receivers took it.
fn tested(view: View, answers: &[Tested]) -> String {
    if answers.is_empty() {
        return "nobody gets alerts: alerts.alertmanager and alerts.webhook are empty\n".into();
    }
    let lines = answers.iter().map(|tested| {
        let (mark, tone) = match tested.error {
            None => ("✓", Tone::Good),
            Some(_) => ("✗", Tone::Bad),
        };
        let Tested {
            kind,
            receiver,
            error,
        } = tested;
        let mark = view.paint.apply(tone, mark);
        let error = error.as_ref().map(|error| format!(": {error}"));
        format!("{mark} {kind} {receiver}{}\n", error.unwrap_or_default())
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::plain, *};

    #[test]
    fn receivers_that_fail_are_named() {
        let answer = |error: Option<&str>| Tested {
            kind: "webhook".into(),
            receiver: "http://127.0.0.1:8080".into(),
            error: error.map(str::to_owned),
        };
        let text = tested(
            plain(80),
            &[answer(None), answer(Some("connection refused"))],
        );
        assert_eq!(
            text,
            "✓ webhook http://127.0.0.1:8080\n\
             ✗ webhook http://127.0.0.1:8080: connection refused\n"
        );
        assert!(tested(plain(80), &[]).contains("nobody gets alerts"));
    }
}
