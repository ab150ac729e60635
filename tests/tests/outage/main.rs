//! Faults and wrong shares, caused in the lab: they are alerted in time with the right cause, and an evenly
//! distributed spike raises no alert.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod alerts;
mod causes;
mod spike;

/// Returns whether this machine has what the tests need.
fn can_run(test: &str) -> bool {
    lab::skip::can_run(test, &["ip", "ethtool", "nginx", "prometheus-alertmanager"])
}
