//! `evenkeel capture-guard`: started by the controller for the time of a packet capture, and for nobody
//! else, so it is no command of the command line.

use std::{ffi::OsString, io, path::Path, process::ExitCode};

use lb_daemon::capture::{GUARD_COMMAND, watch};

use super::{LogFormat, start_log, stream::print_error};

/// Runs the guard if the arguments of this process ask for it.
pub(super) fn run_if_asked() -> Option<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [command, _, bpffs, _, program] = &words[..] else {
        return None;
    };
    if command != GUARD_COMMAND {
        return None;
    }
    let program = program.to_str()?.parse().ok()?;
    start_log(LogFormat::Text);
    let watched = watch(io::stdin(), Path::new(bpffs), program);
    Some(match watched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("evenkeel: can't end the packet capture: {error}"));
            ExitCode::FAILURE
        }
    })
}
