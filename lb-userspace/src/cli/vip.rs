//! `evenkeel vip`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, builder::PossibleValuesParser};

use super::{
    argument::{self, Service},
    change::{self, ChangeArgs},
    session::{Output, Session},
    view,
};
use lb_api::{BackendSpec, Edit, VipSpec, client::Client};
use lb_model::config::{Forward, HealthKind};

/// List, add and remove VIPs.
///
/// Each change creates a revision, like `apply`: it is planned, guarded and baked, and `rollback`
/// undoes it. To set keys that have no option here, edit the configuration file.
#[derive(Args, Debug)]
pub(super) struct VipArgs {
    #[command(subcommand)]
    command: VipCommand,
}

#[derive(Debug, Subcommand)]
enum VipCommand {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
}

/// List the VIPs, with rates over the last ten seconds.
#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

/// Add a VIP with its backends.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel vip add web 203.0.113.20:80/tcp --forward nat --health tcp \\
      --backend web-1=10.0.1.21:8080 --backend web-2=10.0.1.22:8080,weight=50
  evenkeel vip add dns '[2001:db8::53]:53/udp' --forward l2 --backend ns-1=fd00::1 --backend ns-2=fd00::2")]
struct AddArgs {
    /// Name of the VIP.
    #[arg(value_name = "VIP")]
    name: String,
    /// Address that clients connect to, as in 203.0.113.20:80/tcp; port 0: any port.
    #[arg(value_name = "ADDRESS:PORT/PROTOCOL", value_parser = Service::parse)]
    service: Service,
    /// Forwarding mode.
    #[arg(long, value_parser = PossibleValuesParser::new(Forward::NAMES))]
    forward: String,
    /// Backend: name, address, and optionally port [default: the VIP's], weight [default: 100] and
    /// capacity in new flows per second. Can be repeated.
    #[arg(
        long = "backend",
        value_name = "NAME=ADDRESS[:PORT][,weight=N][,capacity=N]",
        required = true,
        value_parser = argument::backend
    )]
    backends: Vec<BackendSpec>,
    /// Kind of health check, with default settings [default: no health checks].
    #[arg(long, value_parser = PossibleValuesParser::new(HealthKind::NAMES))]
    health: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Remove a VIP with its backends: its connections break.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  evenkeel vip remove web --force vip_removed    # although it has traffic")]
struct RemoveArgs {
    /// Name of the VIP.
    #[arg(value_name = "VIP")]
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(args: VipArgs, client: Client) -> Result<ExitCode> {
    let (edit, change) = match args.command {
        VipCommand::List(args) => {
            let session = Session::new(client, args.output);
            let vips = session.client.vips().await?;
            return session.print(&vips, |view| view::members::vips(view, &vips));
        }
        VipCommand::Add(args) => add(args),
        VipCommand::Remove(args) => (Edit::RemoveVip { vip: args.name }, args.change),
    };
    change::edit(client, edit, &change).await
}

fn add(args: AddArgs) -> (Edit, ChangeArgs) {
    let Service {
        address,
        port,
        protocol,
    } = args.service;
    let vip = VipSpec {
        name: args.name,
        address,
        port,
        protocol,
        forward: args.forward,
        health: args.health,
        backends: args.backends,
    };
    (Edit::AddVip { vip }, args.change)
}
