//! `evenkeel fleet`.

mod follow;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};
use lb_api::{
    Change, FleetApplyRequest, FleetInitRequest, FleetPlanRequest, FleetRevisionNumber,
    FleetRollbackRequest, FleetStarted, FleetState, Guard, PlanVerdict,
    client::{Client, ClientError},
};
use serde::Serialize;

use super::{
    argument, change, exit,
    explain::ExplainArgs,
    file,
    session::{Output, Session},
    view::{View, fleet, plan},
};

/// Change the VIPs of all nodes together, through etcd.
///
/// The nodes of a fleet share the `[[vip]]` tables; `[fleet]` of the configuration names the fleet and its
/// etcd. A change is planned by all nodes first; if one refuses it, no node is changed. Then it is made on
/// one node, the canary, which is compared with the others; then in waves on all. If it fails anywhere, all
/// nodes undo it. A node that loses etcd keeps forwarding, and undoes a change that was not confirmed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel fleet init                      # on the first node
  evenkeel fleet join                      # on each other node
  evenkeel fleet plan vips.toml && evenkeel fleet apply vips.toml --why 'ticket 4711'
  evenkeel fleet status
  evenkeel fleet rollback                  # undo a rollout, or restore what was before it")]
pub(super) struct FleetArgs {
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Create the fleet, with the VIPs of this node, and join it.
    Init(InitArgs),
    /// Join the fleet: replace the VIPs of this node by those of the fleet.
    ///
    /// Also accepts a fleet that the node refused, and replaces VIPs that were changed on the node itself.
    Join(OutputArgs),
    /// Remove a node from the fleet. It keeps its VIPs.
    Leave(LeaveArgs),
    /// Show the fleet, its rollout and its nodes.
    Status(OutputArgs),
    /// List the nodes.
    Nodes(OutputArgs),
    /// Plan a change on all nodes.
    ///
    /// Prints the plan of this node, and which nodes refuse the change. Exits with 0 if nothing changes, 2 if
    /// the change may be rolled out, 3 if a node refuses it.
    Plan(PlanArgs),
    /// Explain what every node would do with a packet.
    ///
    /// Exits with 1 if nodes disagree. `evenkeel explain` on a node shows the steps.
    Explain(ExplainArgs),
    /// Roll a change out to all nodes.
    ///
    /// Waits until the rollout has ended. Exits with 0 if all nodes keep the change, 3 if it fails before any
    /// node is changed, 4 if it is undone. Ctrl-C ends the command, not the rollout.
    Apply(ApplyArgs),
    /// Confirm a rollout that was begun with --manual.
    Confirm(OutputArgs),
    /// Hold the next wave of the rollout.
    Pause(OutputArgs),
    /// Continue a paused rollout.
    Resume(OutputArgs),
    /// Undo the rollout, or roll an earlier fleet revision out.
    Rollback(RollbackArgs),
    /// List the fleet revisions, newest first.
    History(OutputArgs),
    /// Show a fleet revision with its VIPs, as a file for `fleet plan` and `fleet apply`.
    Show(ShowArgs),
    /// Show the difference of two fleet revisions.
    Diff(DiffArgs),
    /// Write the fleet into an etcd that was wiped or restored, from what this node confirmed last.
    ///
    /// Nodes that confirmed the same accept it by themselves; on others run `evenkeel fleet join`.
    Import(OutputArgs),
    /// Check etcd, endpoint by endpoint, and the fleet. Exits with 1 if anything is wrong.
    Doctor(OutputArgs),
}

#[derive(Args, Debug)]
struct OutputArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct InitArgs {
    /// Take the VIPs of this file [default: those that the node runs]; - for standard input.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Reason, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct LeaveArgs {
    /// Node to remove, which may be down [default: this one].
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct PlanArgs {
    /// File (TOML) with `[[vip]]` tables, which are taken; others are ignored. - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct Overrides {
    /// Override this guard on all nodes. Can be repeated.
    #[arg(long, value_name = "GUARD", value_parser = argument::guards())]
    force: Vec<Guard>,
    /// Replace VIPs that were changed on a node itself.
    #[arg(long)]
    override_local: bool,
}

#[derive(Args, Debug)]
struct ApplyArgs {
    /// File (TOML) with `[[vip]]` tables, which are taken; others are ignored. - for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Node to change first [default: one is chosen].
    #[arg(long, value_name = "NODE")]
    canary: Option<String>,
    /// Watch each wave for this time [default: change.bake of this node].
    #[arg(long, value_name = "DURATION", value_parser = argument::seconds)]
    bake: Option<u32>,
    /// Change all nodes in one wave: for emergencies.
    #[arg(long, conflicts_with = "canary")]
    now: bool,
    /// Wait for `evenkeel fleet confirm` after the last wave.
    #[arg(long)]
    manual: bool,
    /// Refuse unless this is the head, as shown by `fleet status`.
    #[arg(long, value_name = "REV")]
    base: Option<FleetRevisionNumber>,
    /// Reason for the change, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    following: Following,
}

#[derive(Args, Debug)]
struct Following {
    /// Return once the rollout has begun; do not wait for its end.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct RollbackArgs {
    /// Fleet revision to restore [default: undo the rollout; without one, the parent of the head].
    #[arg(value_name = "REV")]
    revision: Option<FleetRevisionNumber>,
    /// Change all nodes in one wave: for emergencies.
    #[arg(long)]
    now: bool,
    /// Replace VIPs that were changed on a node itself.
    #[arg(long)]
    override_local: bool,
    /// Reason for the rollback, for the history.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    #[command(flatten)]
    following: Following,
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Fleet revision to show [default: the head].
    #[arg(value_name = "REV")]
    revision: Option<FleetRevisionNumber>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct DiffArgs {
    /// Older fleet revision [default: the parent of the newer one].
    #[arg(value_name = "FROM")]
    from: Option<FleetRevisionNumber>,
    /// Newer fleet revision [default: the head].
    #[arg(value_name = "TO")]
    to: Option<FleetRevisionNumber>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: FleetArgs, client: Client) -> Result<ExitCode> {
    match args.command {
        FleetCommand::Init(args) => init(args, client).await,
        FleetCommand::Join(args) => answer(client, args.output, join, fleet::joined).await,
        FleetCommand::Leave(args) => leave(args, client).await,
        FleetCommand::Status(args) => {
            answer(client, args.output, Client::fleet, fleet::status).await
        }
        FleetCommand::Nodes(args) => {
            let nodes = async |client: &Client| Ok(client.fleet().await?.nodes);
            answer(client, args.output, nodes, |view, nodes| {
                fleet::nodes(view, nodes)
            })
            .await
        }
        FleetCommand::Plan(args) => plan(args, client).await,
        FleetCommand::Explain(args) => explain(args, client).await,
        FleetCommand::Apply(args) => apply(args, client).await,
        FleetCommand::Confirm(args) => {
            let session = Session::new(client, args.output);
            let begun = session.client.fleet_confirm().await?;
            follow::to_the_end(&session, begun, false).await
        }
        FleetCommand::Pause(args) => {
            answer(client, args.output, Client::fleet_pause, |_, it| paused(it)).await
        }
        FleetCommand::Resume(args) => {
            answer(client, args.output, Client::fleet_resume, |_, begun| {
                format!("rollout of revision {} continues\n", begun.revision)
            })
            .await
        }
        FleetCommand::Rollback(args) => rollback(args, client).await,
        FleetCommand::History(args) => {
            answer(client, args.output, Client::fleet_revisions, |view, all| {
                fleet::history(view, all)
            })
            .await
        }
        FleetCommand::Show(args) => {
            let revision = async |client: &Client| client.fleet_revision(args.revision).await;
            answer(client, args.output, revision, |_, it| fleet::revision(it)).await
        }
        FleetCommand::Diff(args) => {
            let diff = async |client: &Client| client.fleet_diff(args.from, args.to).await;
            answer(client, args.output, diff, fleet::diff).await
        }
        FleetCommand::Import(args) => {
            answer(client, args.output, Client::fleet_import, |_, head| {
                format!("imported as revision {}, which is the head\n", head.number)
            })
            .await
        }
        FleetCommand::Doctor(args) => doctor(args.output, client).await,
    }
}

/// Makes a request and prints its response.
async fn answer<T: Serialize>(
    client: Client,
    output: Output,
    request: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    text: impl FnOnce(View, &T) -> String,
) -> Result<ExitCode> {
    let session = Session::new(client, output);
    let response = request(&session.client).await?;
    session.print(&response, |view| text(view, &response))
}

fn paused(begun: &FleetStarted) -> String {
    let revision = begun.revision;
    format!("rollout of revision {revision} paused: `evenkeel fleet resume` continues it\n")
}

async fn join(client: &Client) -> Result<FleetState, ClientError> {
    client.fleet_join().await?;
    client.fleet().await
}

async fn leave(args: LeaveArgs, client: Client) -> Result<ExitCode> {
    let left = async |client: &Client| client.fleet_leave(args.node.as_deref()).await;
    answer(client, args.output, left, |_, ()| {
        let who = args.node.as_deref().unwrap_or("this node");
        format!("{who} left the fleet and keeps its VIPs\n")
    })
    .await
}

async fn explain(args: ExplainArgs, client: Client) -> Result<ExitCode> {
    let (session, request) = args.request(client);
    let explained = session.client.fleet_explain(&request).await?;
    session.print(&explained, |view| fleet::explanation(view, &explained))?;
    Ok(u8::from(!explained.agree).into())
}

async fn doctor(output: Output, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, output);
    let found = session.client.fleet_doctor().await?;
    session.print(&found, |view| fleet::doctor(view, &found))?;
    let is_right = found.checks.iter().all(|check| check.ok);
    let answer = found.endpoints.iter().all(|it| it.error.is_none());
    Ok(u8::from(!is_right || !answer).into())
}

/// The text of a file.
fn text_of(file: &std::path::Path) -> Result<String> {
    match file::read(file)? {
        Change::Config { text, .. } => Ok(text),
        _ => unreachable!("a file is a configuration"),
    }
}

async fn init(args: InitArgs, client: Client) -> Result<ExitCode> {
    let text = args.from.as_deref().map(text_of).transpose()?;
    let request = FleetInitRequest {
        text,
        why: args.why,
    };
    let head = async |client: &Client| client.fleet_init(&request).await;
    answer(client, args.output, head, |_, head| {
        format!(
            "fleet created with revision {}; on the other nodes run `evenkeel fleet join`\n",
            head.number
        )
    })
    .await
}

async fn plan(args: PlanArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let request = FleetPlanRequest {
        text: text_of(&args.file)?,
        force: args.overrides.force,
        override_local: args.overrides.override_local,
    };
    let planned = session.client.fleet_plan(&request).await?;
    session.print(&planned, |view| {
        let own = planned.plan.as_ref().map(|own| plan::plan(view, own));
        own.unwrap_or_default() + &fleet::refusals(view, &planned)
    })?;
    let is_refused = planned.nodes.iter().any(|node| node.refusal.is_some());
    let changes = planned.plan.as_ref().map(|plan| plan.verdict);
    Ok(match (is_refused, changes) {
        (true, _) => exit::REFUSED.into(),
        (false, Some(PlanVerdict::Nothing)) => ExitCode::SUCCESS,
        (false, _) => exit::CHANGES.into(),
    })
}

async fn apply(args: ApplyArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.following.output);
    let request = FleetApplyRequest {
        text: text_of(&args.file)?,
        base: args.base,
        canary: args.canary,
        bake_s: args.bake,
        manual: args.manual,
        now: args.now,
        force: args.overrides.force,
        override_local: args.overrides.override_local,
        why: args.why,
    };
    match session.client.fleet_apply(&request).await {
        Ok(begun) => follow::to_the_end(&session, begun, args.following.detach).await,
        Err(error) => change::refused(&session, error),
    }
}

async fn rollback(args: RollbackArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.following.output);
    let request = FleetRollbackRequest {
        revision: args.revision,
        now: args.now,
        override_local: args.override_local,
        why: args.why,
    };
    match session.client.fleet_rollback(&request).await {
        Ok(begun) => follow::to_the_end(&session, begun, args.following.detach).await,
        Err(error) => change::refused(&session, error),
    }
}
