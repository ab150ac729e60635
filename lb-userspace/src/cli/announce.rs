//! `evenkeel announce`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use lb_api::{
    AddressStatus, AnnounceStatus,
    client::{Client, ClientError},
};
use lb_daemon::announcer::{self, Options};
use lb_dataplane::DEFAULT_BPFFS;

use super::{
    DEFAULT_CONFIG, block_on,
    session::{Output, Session},
    view::announce,
};

/// Default path of the announcer's socket.
const DEFAULT_SOCKET: &str = "/run/evenkeel/announce.sock";

/// Announce the addresses of VIPs to routers, for as long as this node forwards their packets.
///
/// Without a subcommand, runs the announcer that `[announce]` of the configuration describes: by BGP, or
/// as routes that a routing daemon of this host exports. Four times a second it sends a packet to each VIP
/// through a copy of the program that counts and records nothing. An address is announced once this has
/// worked for `announce.settle`; it is withdrawn at once when the program is not attached or transmits none of
/// 64 packets to its VIPs, and announced as worse than other nodes when backends are missing or the controller is silent.
///
/// It needs no controller, and restarts of the controller end no BGP session. SIGHUP reads the
/// configuration again; SIGTERM and SIGINT withdraw everything and end it.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  evenkeel announce --config /etc/evenkeel/evenkeel.toml
  evenkeel announce status
  evenkeel announce why 203.0.113.10"
)]
pub(super) struct AnnounceArgs {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Mount point of the BPF file system.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    #[command(subcommand)]
    command: Option<AnnounceCommand>,
}

#[derive(Debug, Subcommand)]
enum AnnounceCommand {
    /// Show peers and addresses, and what keeps an address from being announced.
    Status(StatusArgs),
    /// Show all conditions of an address or a VIP. Exits with 1 unless it is announced.
    Why(WhyArgs),
}

#[derive(Args, Debug)]
struct StatusArgs {
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct WhyArgs {
    /// Address, or name of a VIP.
    #[arg(value_name = "ADDRESS|VIP")]
    what: String,
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    output: Output,
}

/// The socket of the announcer.
#[derive(Args, Debug)]
pub(super) struct SocketArg {
    /// Socket of the announcer (`announce.socket`).
    #[arg(long = "socket", value_name = "PATH", env = "EVENKEEL_ANNOUNCE_SOCKET", default_value = DEFAULT_SOCKET)]
    path: PathBuf,
}

impl SocketArg {
    /// Sends a request to the announcer.
    pub(super) async fn ask<T>(
        &self,
        request: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T> {
        let client = Client::new(&self.path);
        match request(&client).await {
            Err(ClientError::NoController { .. }) => bail!(
                "no announcer is listening on {}: is `evenkeel announce` running, and is this its announce.socket?",
                self.path.display()
            ),
            answer => answer.map_err(|error| anyhow!(error.of_announcer())),
        }
    }
}

pub(super) fn run(args: AnnounceArgs) -> Result<ExitCode> {
    match args.command {
        None => {
            let config = std::path::absolute(args.config).context("get the working directory")?;
            let bpffs = args.bpffs;
            block_on(announcer::run(Options { config, bpffs })).map(|()| ExitCode::SUCCESS)
        }
        Some(AnnounceCommand::Status(args)) => block_on(async {
            let status = args
                .socket
                .ask(async |client| client.announce_status().await)
                .await?;
            let session = Session::local(args.output);
            session.print(&status, |view| announce::status(view, &status))
        }),
        Some(AnnounceCommand::Why(args)) => block_on(async {
            let status = args
                .socket
                .ask(async |client| client.announce_status().await)
                .await?;
            let address = find(&status, &args.what)?;
            let session = Session::local(args.output);
            session.print(address, |view| announce::address(view, address))?;
            let is_announced = address.state == lb_api::AddressState::Announced;
            Ok(if is_announced {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }),
    }
}

/// The address of this text, or that of the VIP of this name.
fn find<'a>(status: &'a AnnounceStatus, what: &str) -> Result<&'a AddressStatus> {
    let is_meant = |it: &&AddressStatus| {
        what.parse()
            .is_ok_and(|address: std::net::IpAddr| address == it.address)
            || it.vips.iter().any(|vip| vip == what)
    };
    match status.addresses.iter().find(is_meant) {
        Some(address) => Ok(address),
        None if status.unmet().next().is_some() => bail!(
            "nothing is known of {what:?}: {}",
            status.unmet().collect::<Vec<_>>().join("; ")
        ),
        None => bail!(
            "no address or VIP {what:?} in the data path, or `vip.announce.enabled = false`: `evenkeel announce \
             status` lists them"
        ),
    }
}
