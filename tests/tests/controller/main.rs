//! The controller under real traffic, operated with the binary's commands and the API.
//!
//! | tested behaviour | where |
//! | --- | --- |
//! | plan and apply; a refused change has no effect; changes of several VIPs are atomic | [`apply`] |
//! | automatic rollback of a change that bakes or must be confirmed | [`trial`] |
//! | no request fails while backends fail, recover, are drained and restarted | [`health`] |
//! | killed at random moments of changes: no flow is lost or moved, no partial state | [`kills`] |
//! | upgrade, reboot, damage, a second controller, unload | [`life`] |
//! | any failed or missing write: the old or the new state | [`faults`] |
//! | packet captures lose no packet | [`capture`] |
//! | limits are suggested from traffic, and plans say whom they would have limited, and what bounds would have spilled | [`limits`] |
//! | a heavy source spills over a bound: nobody fails, and the operator learns of it | [`bounded`] |
//! | backends come from DNS and the API: failures keep them, they go step by step | [`sources`] |
//! | the system clock is set while a change waits | [`clock`] |
//! | concurrent clients: a linear history of revisions | [`clients`] |
//! | the API conforms to its OpenAPI document | [`document`] |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod apply;
mod bounded;
mod capture;
mod clients;
mod clock;
mod document;
mod faults;
mod health;
mod kills;
mod life;
mod limited;
mod limits;
mod metrics;
mod site;
mod sources;
mod trial;
