//! `evenkeel unload`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tracing::info;

use crate::{
    controller::ports,
    dataplane::{DEFAULT_BPFFS, Dataplane, Pins},
};

/// Detach the program from all interfaces and remove its tables: forwarding ends.
///
/// Gives back the ports that `nat` had reserved. Nothing there is no error.
#[derive(Args, Debug)]
pub(super) struct UnloadArgs {
    /// Where the BPF file system is mounted.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
}

pub(super) fn unload(args: &UnloadArgs) -> Result<()> {
    let pins = Pins::at(&args.bpffs);
    let interfaces = pins.interfaces().unwrap_or_default();
    Dataplane::unload(&pins)?;
    ports::release().context("give back the reserved ports")?;
    info!(interfaces = interfaces.join(","), bpffs = %args.bpffs.display(), "unloaded");
    Ok(())
}
