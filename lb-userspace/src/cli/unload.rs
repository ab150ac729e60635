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

/// Detach the program from all interfaces and remove its tables: forwarding ends.
///
/// Gives back the ports that `nat` had reserved. Nothing there is no error; a controller that runs
/// is: stop it first.
#[derive(Args, Debug)]
pub(super) struct UnloadArgs {
    /// Where the BPF file system is mounted.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
}

pub(super) fn unload(args: &UnloadArgs) -> Result<()> {
    // A controller that runs would go on as if it still balanced.
    let _lock = match BpffsLock::take(&args.bpffs) {
        Err(BpffsLockError::Held { pid, path }) => bail!(
            "a controller (pid {pid}) runs the data path below {}: stop it first (`kill {pid}`; \
             forwarding goes on until `unload`)",
            path.display()
        ),
        // Without the folder there is nothing to be locked, nor to be removed.
        other => other.ok(),
    };
    let pins = Pins::at(&args.bpffs);
    let interfaces = pins.interfaces().unwrap_or_default();
    for interface in &interfaces {
        ProbePaths::unload(interface)?;
    }
    Dataplane::unload(&pins)?;
    ports::release().context("give back the reserved ports")?;
    info!(interfaces = interfaces.join(","), bpffs = %args.bpffs.display(), "unloaded");
    Ok(())
}
