//! Health checks by the way of a VIP's traffic find what direct ones can't see.
//!
//! | what is wrong with the backend | direct | via the VIP |
//! | --- | --- | --- |
//! | nothing | ok | ok |
//! | the VIP is not on its loopback | ok | no answer |
//! | it does not decapsulate (`ipip`) | ok | no answer |
//! | replies of the VIP leave by another interface, and `rp_filter` is strict | ok | no answer |
//! | nothing listens | refused | refused |

#![expect(
    clippy::unwrap_used,
    reason = "tests panic: the stack trace says where"
)]

mod probing;
mod program;
mod via_vip;
