//! The controller, driven from outside as an operator would: the binary's commands and the API, under
//! real traffic throughout.
//!
//! | what is shown | where |
//! | --- | --- |
//! | plan and apply; a refused change changes nothing; several VIPs are one change | [`apply`] |
//! | a change that is watched, or must be confirmed, is undone by itself | [`trial`] |
//! | backends fail, come back, are drained and restarted, and no request fails | [`health`] |
//! | killed at random moments of changes: nothing is lost, moved or left between | [`kills`] |
//! | upgrade, reboot, damage, a second controller, unload | [`life`] |
//! | whatever write fails or is never reached: the old state or the new one | [`faults`] |
//! | the system's clock is set while a change waits | [`clock`] |
//! | many clients at once: a straight line of revisions | [`clients`] |
//! | the API is as its document says | [`document`] |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod apply;
mod clients;
mod clock;
mod document;
mod faults;
mod health;
mod kills;
mod life;
mod metrics;
mod site;
mod trial;
