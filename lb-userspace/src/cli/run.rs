//! `evenkeel run`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{DEFAULT_CONFIG, block_on};
use lb_daemon::engine::{self, Options};
use lb_dataplane::DEFAULT_BPFFS;

/// Run the controller.
///
/// Loads the XDP program, or adopts the one that an earlier `run` left; fills its maps; attaches it
/// to the configured interfaces; logs "ready" (and sends READY=1 to systemd). Then it follows
/// routes, neighbours and health checks until it is stopped.
///
/// SIGHUP reloads the configuration file, as `evenkeel reload` does. SIGTERM and
/// SIGINT stop the controller; forwarding continues (`evenkeel unload` ends it).
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Mount point of the BPF file system, mounted if it is not; pins are in its directory
    /// `evenkeel`.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Socket of the API, instead of `api.socket` of the configuration.
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

pub(super) fn run(args: RunArgs) -> Result<()> {
    let RunArgs {
        config,
        bpffs,
        socket,
    } = args;
    // Messages and hints name it, and are read in other folders.
    let config = std::path::absolute(config).context("get the working directory")?;
    // One thread: everything belongs to the network namespace that this process started in.
    block_on(engine::run(Options {
        config,
        bpffs,
        socket,
    }))
}
