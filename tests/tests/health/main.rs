//! Health checks through a VIP find faults that direct ones can't.
//!
//! | fault of the backend | direct | through the VIP |
//! | --- | --- | --- |
//! | none | ok | ok |
//! | the VIP is not on its loopback | ok | no reply |
//! | it does not decapsulate (`ipip`) | ok | no reply |
//! | replies of the VIP leave by another interface, and `rp_filter` is strict | ok | no reply |
//! | no server listens | refused | refused |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod probing;
mod program;
mod via_vip;
