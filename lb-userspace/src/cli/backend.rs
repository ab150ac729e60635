//! `evenkeel backend`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{
    argument::{self, BackendPath},
    change::{self, ChangeArgs},
    drain::{self, DrainArgs},
    session::{Output, Session},
    view,
};
use lb_api::{BackendSpec, Change, Edit, VipStatus, WantedState, client::Client};

/// List, add, remove, drain and weigh backends.
///
/// Every change makes a revision as `apply` does: planned, guarded, baked, and undone by `rollback`.
/// A backend is written VIP/BACKEND; where BACKEND alone will do, that is said.
#[derive(Args, Debug)]
pub(super) struct BackendArgs {
    #[command(subcommand)]
    command: BackendCommand,
}

#[derive(Debug, Subcommand)]
enum BackendCommand {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Drain(DrainArgs),
    Undrain(UndrainArgs),
    Disable(DisableArgs),
    Weight(WeightArgs),
}

/// List the backends, with rates over the last ten seconds.
#[derive(Args, Debug)]
struct ListArgs {
    /// Only those of this VIP.
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
    /// Name of the VIP, and of the backend.
    #[arg(value_name = "VIP/BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    /// Its address, and its port if it is not the VIP's.
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = argument::address)]
    address: (std::net::IpAddr, Option<u16>),
    /// Its weight; 100 without it.
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// New flows a second that it can take.
    #[arg(long, value_name = "N")]
    capacity: Option<u32>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Remove a backend from a VIP. It gets no new flows, and keeps those that it has until they end.
#[derive(Args, Debug)]
struct RemoveArgs {
    /// The backend; without VIP/, the VIP that has it, if that is one.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Let a backend that was drained or disabled serve again.
#[derive(Args, Debug)]
struct UndrainArgs {
    /// The backend; without VIP/, in every VIP that has it.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Cut a backend off at once: its connections break. See `drain` for the gentle way.
#[derive(Args, Debug)]
struct DisableArgs {
    /// The backend; without VIP/, in every VIP that has it.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Give a backend another weight.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  evenkeel backend weight api/api-1 50")]
struct WeightArgs {
    /// The backend; without VIP/, the VIP that has it, if that is one.
    #[arg(value_name = "[VIP/]BACKEND", value_parser = BackendPath::parse)]
    backend: BackendPath,
    /// The weight; 0: no new flows.
    #[arg(value_name = "WEIGHT")]
    weight: u32,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(args: BackendArgs, client: Client) -> Result<ExitCode> {
    let (edit, change) = match args.command {
        BackendCommand::List(args) => return list(&args, client).await,
        BackendCommand::Drain(args) => return drain::run(&args, client).await,
        BackendCommand::Add(args) => added(args)?,
        BackendCommand::Remove(args) => {
            let (vip, backend) = only_vip(&client, args.backend).await?;
            (Edit::RemoveBackend { vip, backend }, args.change)
        }
        BackendCommand::Undrain(args) => (state(args.backend, WantedState::Up), args.change),
        BackendCommand::Disable(args) => (state(args.backend, WantedState::Disabled), args.change),
        BackendCommand::Weight(args) => {
            let (vip, backend) = only_vip(&client, args.backend).await?;
            let weight = args.weight;
            let edit = Edit::SetWeight {
                vip,
                backend,
                weight,
            };
            (edit, args.change)
        }
    };
    let edits = vec![edit];
    change::make(client, Change::Edits { edits }, &change).await
}

async fn list(args: &ListArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let vips = match &args.vip {
        Some(vip) => vec![session.client.vip(vip).await?],
        None => session.client.vips().await?,
    };
    session.print(&vips, |view| view::members::backends(view, &vips))?;
    Ok(ExitCode::SUCCESS)
}

fn added(args: AddArgs) -> Result<(Edit, ChangeArgs)> {
    let BackendPath { vip, backend } = args.backend;
    let Some(vip) = vip else {
        bail!("say which VIP gets it: `evenkeel backend add VIP/{backend} …`");
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

/// The edit that gives a backend this state.
pub(super) fn state(path: BackendPath, state: WantedState) -> Edit {
    let BackendPath { vip, backend } = path;
    Edit::SetState {
        vip,
        backend,
        state,
    }
}

/// VIP and backend that are meant: without a VIP, the only one that has the backend.
async fn only_vip(client: &Client, path: BackendPath) -> Result<(String, String)> {
    if let Some(vip) = path.vip {
        return Ok((vip, path.backend));
    }
    let vips = client.vips().await?;
    let vip = only(&vips, &path.backend)?;
    Ok((vip, path.backend))
}

fn only(vips: &[VipStatus], backend: &str) -> Result<String> {
    let has = |vip: &&VipStatus| vip.members.iter().any(|member| member.backend == backend);
    let names: Vec<&str> = vips
        .iter()
        .filter(has)
        .map(|vip| vip.name.as_str())
        .collect();
    match names.as_slice() {
        [vip] => Ok((*vip).to_owned()),
        [] => {
            bail!("no VIP has a backend `{backend}`; `evenkeel backend list` says which there are")
        }
        [first, ..] => bail!(
            "VIPs {} have a backend `{backend}`: say which is meant, as in `{first}/{backend}`",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::fixtures, *};

    #[test]
    fn a_backend_without_its_vip_must_be_the_only_one() {
        let mut vips = fixtures::status().vips;
        assert_eq!(only(&vips, "api-1").unwrap(), "api");
        let error = only(&vips, "api-9").unwrap_err().to_string();
        assert!(error.contains("no VIP has a backend `api-9`"), "{error}");
        vips.push(VipStatus {
            name: "other".into(),
            ..vips[0].clone()
        });
        let error = only(&vips, "api-1").unwrap_err().to_string();
        assert!(
            error.contains("api, other") && error.contains("`api/api-1`"),
            "{error}"
        );
    }
}
