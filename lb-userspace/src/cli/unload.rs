//! `evenkeel unload`.

use anyhow::{Context as _, Result};
use tracing::info;

use super::UnloadArgs;
use crate::{
    controller::ports,
    dataplane::{Dataplane, Pins},
};

pub(super) fn unload(args: &UnloadArgs) -> Result<()> {
    let pins = Pins::at(&args.bpffs);
    let interfaces = pins.interfaces().unwrap_or_default();
    Dataplane::unload(&pins)?;
    ports::release().context("give back the reserved ports")?;
    info!(interfaces = interfaces.join(","), bpffs = %args.bpffs.display(), "unloaded");
    Ok(())
}
