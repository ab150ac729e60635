//! `evenkeel limits`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::session::{Output, Session};
use lb_api::{LimitSuggestion, client::Client};

/// Suggest limits for VIPs and their sources.
#[derive(Args, Debug)]
pub(super) struct LimitsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Suggest(SuggestArgs),
}

/// Print limits for a VIP, or for all, that would have limited nobody in the last hour.
///
/// The limits are twice the highest rates over ten seconds since the controller started, at most one
/// hour ago. Rates of sources are estimated from sampled flows. The output is TOML: paste it below the
/// `[[vip]]`, in place of limits that it has, and look at `evenkeel plan` before you apply it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel limits suggest
  evenkeel limits suggest api
  evenkeel limits suggest --json | jq -r '.warnings[]'")]
struct SuggestArgs {
    /// VIP to suggest limits for [default: all].
    #[arg(value_name = "VIP")]
    vip: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: LimitsArgs, client: Client) -> Result<ExitCode> {
    let Command::Suggest(args) = args.command;
    let session = Session::new(client, args.output);
    let suggestions = session.client.suggest_limits(args.vip.as_deref()).await?;
    for suggestion in &suggestions {
        session.print_json(suggestion)?;
    }
    session.print_text(&text(&suggestions))?;
    Ok(ExitCode::SUCCESS)
}

fn text(suggestions: &[LimitSuggestion]) -> String {
    let vip =
        |suggestion: &LimitSuggestion| format!("# VIP {}\n{}", suggestion.vip, suggestion.toml);
    let vips: Vec<String> = suggestions.iter().map(vip).collect();
    vips.join("\n")
}
