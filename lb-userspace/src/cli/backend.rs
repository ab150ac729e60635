//! `evenkeel backend`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{
    argument,
    change::{self, ChangeArgs},
    drain::{self, DrainArgs},
    member::BackendPath,
    session::{Output, Session},
    view,
};
use lb_api::{BackendSpec, Edit, WantedState, client::Client};
use lb_model::MemberRef;

/// List, add, remove, drain and weight backends.
///
/// Each change creates a revision, like `apply`: it is planned, guarded and baked, and `rollback`
/// undoes it. A backend is written VIP/BACKEND; the VIP may be omitted where the help shows
/// [VIP/]BACKEND.
#[derive(Args, Debug)]
pub(super) struct BackendArgs {
    #[command(subcommand)]
    command: BackendCommand,
}

#[derive(Debug, Subcommand)]
enum BackendCommand {
    List(ListArgs),
    Add(AddArgs),
    /// Remove a backend from a VIP. It gets no new flows and keeps its flows until they end.
    Remove(OneArgs),
    Drain(DrainArgs),
    /// Enable a backend that was drained or disabled.
    Undrain(AllArgs),
    /// Disable a backend at once: its connections break. See `drain` for the graceful way.
    Disable(AllArgs),
    Weight(WeightArgs),
}

/// List the backends, with rates over the last ten seconds.
#[derive(Args, Debug)]
struct ListArgs {
    /// List the backends of this VIP only.
    #[arg(value_name = "VIP")]
    vip: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Add a backend to a VIP.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel backend add api/api-3 10.0.1.13
  evenkeel backend add api/api-3 10.0.1.13:8443 --weight 50 --capacity 5000")]
struct AddArgs {
    /// Names of the VIP and of the new backend.
    #[arg(value_name = "VIP/BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    /// Address, and the port if it differs from the VIP's.
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = argument::address)]
    address: (std::net::IpAddr, Option<u16>),
    /// Weight [default: 100].
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Capacity, in new flows per second.
    #[arg(long, value_name = "N")]
    capacity: Option<u32>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Debug)]
struct OneArgs {
    /// Backend; the VIP may be omitted if only one VIP has the backend.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Debug)]
struct AllArgs {
    /// Backend; without VIP/, in every VIP that has it.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Set the weight of a backend.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  evenkeel backend weight api/api-1 50")]
struct WeightArgs {
    /// Backend; the VIP may be omitted if only one VIP has the backend.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    /// Weight; 0: no new flows.
    #[arg(value_name = "WEIGHT")]
    weight: u32,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(args: BackendArgs, client: Client) -> Result<ExitCode> {
    let (edit, change) = match args.command {
        BackendCommand::List(args) => return list(args, client).await,
        BackendCommand::Drain(args) => return drain::run(&args, client).await,
        BackendCommand::Add(args) => add(args)?,
        BackendCommand::Remove(args) => {
            let MemberRef { vip, backend } = resolve(&client, args.backend).await?;
            (Edit::RemoveBackend { vip, backend }, args.change)
        }
        BackendCommand::Undrain(args) => (set_state(args.backend, WantedState::Up), args.change),
        BackendCommand::Disable(args) => {
            (set_state(args.backend, WantedState::Disabled), args.change)
        }
        BackendCommand::Weight(args) => {
            let MemberRef { vip, backend } = resolve(&client, args.backend).await?;
            let weight = args.weight;
            let edit = Edit::SetWeight {
                vip,
                backend,
                weight,
            };
            (edit, args.change)
        }
    };
    change::edit(client, edit, &change).await
}

async fn list(args: ListArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let vips = match &args.vip {
        Some(vip) => vec![session.client.vip(vip).await?],
        None => session.client.vips().await?,
    };
    session.print(&vips, |view| view::members::backends(view, &vips))
}

fn add(args: AddArgs) -> Result<(Edit, ChangeArgs)> {
    let BackendPath { vip, backend } = args.backend;
    let Some(vip) = vip else {
        bail!("name the VIP: `evenkeel backend add VIP/{backend} …`");
    };
    let (address, port) = args.address;
    let backend = BackendSpec {
        name: backend,
        address,
        port,
        weight: args.weight,
        capacity: args.capacity,
    };
    Ok((Edit::AddBackend { vip, backend }, args.change))
}

/// The edit that sets the administrative state of a backend.
pub(super) fn set_state(path: BackendPath, state: WantedState) -> Edit {
    let BackendPath { vip, backend } = path;
    Edit::SetState {
        vip,
        backend,
        state,
    }
}

/// Returns the member; without a VIP, the only one with this backend.
async fn resolve(client: &Client, path: BackendPath) -> Result<MemberRef> {
    match path.vip {
        Some(vip) => Ok(MemberRef {
            vip,
            backend: path.backend,
        }),
        None => path.only_member(&client.vips().await?),
    }
}
