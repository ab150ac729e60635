//! `evenkeel check`.

use std::io::Write as _;

use anyhow::Result;

use super::CheckArgs;
use crate::config;

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let config = config::load(&args.file)?;
    let backends: usize = config.vips.iter().map(|vip| vip.backends.len()).sum();
    let (file, vips) = (args.file.display(), config.vips.len());
    let plural = |n| if n == 1 { "" } else { "s" };
    writeln!(
        std::io::stdout(),
        "{file}: right ({vips} VIP{}, {backends} backend{})",
        plural(vips),
        plural(backends)
    )?;
    Ok(())
}
