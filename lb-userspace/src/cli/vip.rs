//! `evenkeel vip`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{
    argument::{self, Service},
    change::{self, ChangeArgs},
    session::{Output, Session},
    view,
};
use lb_api::{BackendSpec, Change, Edit, VipSpec, client::Client};

/// List, add and remove VIPs.
///
/// Adding and removing make revisions as `apply` does: planned, guarded, baked, and undone by
/// `rollback`. A VIP with more keys than there are options is added by editing the configuration file.
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
    /// Where clients connect to, as in 203.0.113.20:80/tcp; port 0 is any port.
    #[arg(value_name = "ADDRESS:PORT/PROTOCOL", value_parser = Service::parse)]
    service: Service,
    /// How packets get to the backends.
    #[arg(long, value_parser = ["l2", "ipip", "nat"])]
    forward: String,
    /// A backend: name, address, and if need be port, weight (100), and the new flows a second that it can
    /// take. One at least.
    #[arg(
        long = "backend",
        value_name = "NAME=ADDRESS[:PORT][,weight=N][,capacity=N]",
        required = true,
        value_parser = argument::backend
    )]
    backends: Vec<BackendSpec>,
    /// Check health this way, with the defaults of the configuration.
    #[arg(long, value_parser = ["tcp", "http", "https", "udp", "exec"])]
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
        VipCommand::List(args) => return list(&args, client).await,
        VipCommand::Add(args) => added(args),
        VipCommand::Remove(args) => (Edit::RemoveVip { vip: args.name }, args.change),
    };
    let edits = vec![edit];
    change::make(client, Change::Edits { edits }, &change).await
}

async fn list(args: &ListArgs, client: Client) -> Result<ExitCode> {
    let session = Session::new(client, args.output);
    let vips = session.client.vips().await?;
    session.print(&vips, |view| view::members::vips(view, &vips))?;
    Ok(ExitCode::SUCCESS)
}

fn added(args: AddArgs) -> (Edit, ChangeArgs) {
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
