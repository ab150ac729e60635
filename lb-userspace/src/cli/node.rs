//! `evenkeel node`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use lb_api::{AddressState, AnnounceStatus, DrainState};
use tokio::time::{Instant, sleep};

use super::{
    announce::SocketArg,
    argument, block_on,
    session::{Output, Session},
    view::announce,
};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Take this node out of the traffic, and bring it back.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    Drain(DrainArgs),
    Undrain(UndrainArgs),
}

/// Drain this node: other nodes get its traffic, and no connection breaks that they know.
///
/// All addresses are announced as worse for 5 s (community `graceful-shutdown`, largest MED), so that routers
/// move the traffic, and withdrawn then. Packets that still arrive are forwarded. A drained node stays
/// drained when `evenkeel announce` or the host restarts.
#[derive(Args, Debug)]
struct DrainArgs {
    /// Wait until all addresses are withdrawn and the routers have acknowledged it.
    #[arg(long)]
    wait: bool,
    /// Stop waiting after this time and exit with 1; the node stays drained.
    #[arg(long, value_name = "DURATION", value_parser = argument::nonzero_seconds, requires = "wait")]
    timeout: Option<u32>,
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    output: Output,
}

/// Announce the addresses of a drained node again, at once if they were proven all the time.
#[derive(Args, Debug)]
struct UndrainArgs {
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &NodeArgs) -> Result<ExitCode> {
    block_on(async {
        let (status, output) = match &args.command {
            NodeCommand::Drain(args) => (drain(args).await?, args.output),
            NodeCommand::Undrain(args) => {
                let undrain =
                    async |client: &lb_api::client::Client| client.drain_node(false).await;
                (args.socket.ask(undrain).await?, args.output)
            }
        };
        let printed =
            Session::local(output).print(&status, |view| announce::status(view, &status))?;
        if let Some(error) = &status.drain_error {
            bail!("done, but a restart of `evenkeel announce` will not know of it: {error}");
        }
        Ok(printed)
    })
}

async fn drain(args: &DrainArgs) -> Result<AnnounceStatus> {
    let mut status = args
        .socket
        .ask(async |client| client.drain_node(true).await)
        .await?;
    let timeout = args
        .timeout
        .map(|seconds| Duration::from_secs(seconds.into()));
    let end = timeout.map(|timeout| Instant::now() + timeout);
    while args.wait && !is_withdrawn(&status) {
        if end.is_some_and(|end| Instant::now() >= end) {
            bail!("not withdrawn in time; the node stays drained: `evenkeel announce status`");
        }
        if status.drain == DrainState::No {
            bail!("the node was undrained meanwhile");
        }
        sleep(POLL_INTERVAL).await;
        status = args
            .socket
            .ask(async |client| client.announce_status().await)
            .await?;
    }
    Ok(status)
}

/// Whether routers know that nothing is announced. Those without a session have no route.
fn is_withdrawn(status: &AnnounceStatus) -> bool {
    status.drain == DrainState::Drained
        && status
            .addresses
            .iter()
            .all(|it| it.state == AddressState::Withheld)
        && status
            .peers
            .iter()
            .all(|peer| peer.routes_sent == 0 && (peer.acknowledged || peer.state != "Established"))
        && status
            .kernel
            .as_ref()
            .is_none_or(|kernel| kernel.in_sync && kernel.routes == 0)
}
