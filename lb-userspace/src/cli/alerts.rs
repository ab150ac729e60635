//! `evenkeel alerts`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use nix::unistd::{User, getuid};

use super::{
    argument,
    session::{Output, Session},
    view::{self, figures::duration},
};
use crate::client::Client;

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
    /// How long, as in 2h.
    #[arg(long = "for", value_name = "T", default_value = "1h", value_parser = argument::some_seconds)]
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
        None => list(Session::new(client, output)).await?,
        Some(AlertsCommand::List(args)) => list(Session::new(client, args.output)).await?,
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
            let time = duration(jiff::SignedDuration::from_secs(args.time.into()));
            session.print(&answer, |_| format!("{} silenced for {time}\n", args.id))?;
        }
        Some(AlertsCommand::Test(args)) => {
            let session = Session::new(client, args.output);
            let answer = session.client.test_alerts().await?;
            session.print(&answer, |_| sent(&answer))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: Session) -> Result<()> {
    let alerts = session.client.alerts().await?;
    session.print(&alerts, |view| match alerts.as_slice() {
        [] => "no alerts\n".into(),
        alerts => view::alerts::alerts(view, alerts, Timestamp::now()),
    })
}

/// What the controller says of the receivers, if it says something.
fn sent(answer: &serde_json::Value) -> String {
    if answer.is_null() {
        "sent\n".into()
    } else {
        format!("{answer:#}\n")
    }
}
