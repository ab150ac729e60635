//! Exit codes, in one place; `docs/operations.md` lists them.

use std::process::ExitCode;

/// The command line makes no sense.
pub(super) const USAGE: u8 = 2;
/// A plan has changes that may be applied.
pub(super) const CHANGES: u8 = 2;
/// A guard refuses.
pub(super) const REFUSED: u8 = 3;
/// The change was undone.
pub(super) const ROLLED_BACK: u8 = 4;
/// Somebody pressed Ctrl-C while the command waited: 128 + SIGINT, as shells say it.
pub(super) const INTERRUPTED: u8 = 130;

/// For `--help`.
pub(super) const HELP: &str = "\
Exit codes:
  0    done; `plan`: nothing to do
  1    an error, said on standard error
  2    the command line makes no sense; `plan`: there are changes, and they may be applied
  3    a guard refuses the change; nothing was changed
  4    the change was applied and undone, by itself or by somebody
  130  interrupted while it waited for a change, which goes on

RUST_LOG sets what is logged, for example RUST_LOG=debug. NO_COLOR turns colours off.";

pub(super) fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}
