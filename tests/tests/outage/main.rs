//! Each cause of a wrong spread, made on purpose in the lab, is seen in time and named right; a spike that all
//! members share is no alert.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod alerts;
mod causes;

/// Whether this machine has what the tests need.
fn can_run(test: &str) -> bool {
    lab::skip::can_run(test, &["ip", "ethtool", "nginx", "prometheus-alertmanager"])
}
