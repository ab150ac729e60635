//! `evenkeel unload`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tracing::info;

use lb_daemon::{
    engine::locks::{BpffsLock, BpffsLockError},
    reconciler::ports,
};
use lb_dataplane::{DEFAULT_BPFFS, Dataplane, Pins, ProbePaths};

/// Detach the program from all interfaces and remove its maps: forwarding ends.
///
/// Releases the ports that `nat` reserved. Succeeds if there is nothing to unload; fails if a
/// controller is running: stop it first.
#[derive(Args, Debug)]
pub(super) struct UnloadArgs {
    /// Mount point of the BPF file system.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
}

pub(super) fn run(args: &UnloadArgs) -> Result<()> {
    // A running controller would not notice.
    let lock = match BpffsLock::take(&args.bpffs) {
        Err(BpffsLockError::Held { pid, path }) => bail!(
            "a controller (pid {pid}) is running on {}: stop it first (`kill {pid}`); forwarding \
             continues until `unload`",
            path.display()
        ),
        // Without the directory there is nothing to lock or remove.
        other => other.ok(),
    };
    let pins = Pins::at(&args.bpffs);
    let interfaces = pins.interfaces().unwrap_or_default();
    for interface in &interfaces {
        ProbePaths::unload(interface)?;
    }
    Dataplane::unload(&pins)?;
    ports::release().context("cannot release the reserved ports")?;
    if let Some(lock) = lock {
        lock.remove()
            .context("cannot remove the folder of the lock")?;
    }
    info!(interfaces = interfaces.join(","), bpffs = %args.bpffs.display(), "unloaded");
    Ok(())
}
