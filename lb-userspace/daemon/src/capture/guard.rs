//! The guard: a process that puts the balancer's program back into the links if the controller is killed
//! while a capture runs.
//!
//! The controller holds a pipe to it. When the pipe ends without a [`GOODBYE`], the controller is gone.

use std::{
    io::{self, Read, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use lb_dataplane::{Pins, restore_program};
use nix::sys::signal::{SigHandler, Signal, signal};
use tracing::{info, warn};

use crate::health::probe::{KeptChild, spawn_kept};

/// Name of the hidden command that runs [`watch`].
pub const GUARD_COMMAND: &str = "capture-guard";

const GOODBYE: &[u8] = b"goodbye";

/// A running guard. Dropping it without [`Guard::dismiss`] makes it act.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    _kept: KeptChild,
}

impl Guard {
    /// Starts the guard of the program `capturing` in the links that are pinned below `bpffs`.
    pub fn start(bpffs: &Path, capturing: u32) -> io::Result<Self> {
        // This very binary, even if the file was replaced since.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(GUARD_COMMAND)
            .arg("--bpffs")
            .arg(bpffs)
            .args(["--program", &capturing.to_string()])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let (child, kept) = spawn_kept(command)?;
        Ok(Self { child, _kept: kept })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the guard: nothing is left to do.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // It may have been killed.
            let _ = pipe.write_all(GOODBYE);
        }
        let _ = self.child.wait();
    }
}

/// Waits for the end of `pipe`, and puts the pinned program back into the links that have the program
/// `capturing`, unless the controller has said goodbye.
///
/// # Errors
///
/// The pinned program or the links can't be opened or changed.
pub fn watch(mut pipe: impl Read, bpffs: &Path, capturing: u32) -> lb_dataplane::Result<()> {
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // A service manager ends what the controller leaves behind, and this process ends by itself.
        // SAFETY: to ignore a signal installs no handler.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let mut said = Vec::new();
    if let Err(error) = pipe.read_to_end(&mut said) {
        warn!(%error, "can't read the controller's pipe");
    }
    if said == GOODBYE {
        return Ok(());
    }
    let links = restore_program(&Pins::at(bpffs), capturing)?;
    info!(links, "the controller is gone: ended its packet capture");
    Ok(())
}
