//! Exit codes; `docs/operations.md` lists them.

pub(super) const SUCCESS: u8 = 0;
/// Invalid command line: `EX_USAGE` of sysexits.h.
pub(super) const USAGE: u8 = 64;
/// A plan has changes that may be applied.
pub(super) const CHANGES: u8 = 2;
/// A guard refused the change.
pub(super) const REFUSED: u8 = 3;
/// The change was rolled back.
pub(super) const ROLLED_BACK: u8 = 4;
/// Interrupted by Ctrl-C while waiting: 128 + SIGINT, as in shells.
pub(super) const INTERRUPTED: u8 = 130;

/// For `--help`.
pub(super) const HELP: &str = "\
Exit codes:
  0    success; `plan`: no changes
  1    error, described on standard error
  2    `plan` and `--dry-run`: there are changes, and they may be applied
  3    a guard refused the change; nothing was changed
  4    the change was applied and then rolled back, automatically or by an operator
  64   invalid command line
  130  interrupted while waiting for a change, which continues

Environment:
  RUST_LOG         log filter, for example RUST_LOG=debug [default: info]
  NO_COLOR         if set, disables colours";
