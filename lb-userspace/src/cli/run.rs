//! `evenkeel run`.

use anyhow::{Context as _, Result};

use super::RunArgs;
use lb_daemon::engine::{self, Options};

pub(super) fn run(args: RunArgs) -> Result<()> {
    let RunArgs { config, bpffs } = args;
    // One thread: everything that runs here belongs to the network namespace that we started in.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(engine::run(Options { config, bpffs }))
}
