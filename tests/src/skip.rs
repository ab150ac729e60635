//! Tests that can't run on this machine report it: see CONTRIBUTING.md.

pub use lb_skip::skip;

use crate::tool;

/// Returns whether a test that needs root and these programs can run here. If it can't, that is
/// reported to `cargo xtask test`, and the test must return.
///
/// # Panics
/// If it can't be reported.
pub fn can_run(test: &str, tools: &[&str]) -> bool {
    let reason = if nix::unistd::geteuid().is_root() {
        tool::require(tools).err().map(|error| error.to_string())
    } else {
        Some("needs root".to_owned())
    };
    if let Some(reason) = &reason {
        skip(test, reason);
    }
    reason.is_none()
}
