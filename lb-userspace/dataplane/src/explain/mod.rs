//! Explains what the data path would do with a packet, step by step, and why.
//!
//! [`walk`] repeats the program's decisions on the program's own maps and records what it finds. It
//! changes nothing. Each module mirrors modules of the program (`lb-ebpf/src`): a change of one
//! needs the same change of the other. A test runs packets through both and compares.
//!
//! | here | program |
//! | --- | --- |
//! | [`Walk`]'s VIP lookup | `services`, `ipv4`, `ipv6` |
//! | `limit` | `limits` |
//! | `bound` | `bound` |
//! | `choice` | `select`, `tracking` |
//! | `session` | `nat`, `nat/session` |
//! | `route` | `forward`, `encap`, `link` |
//!
//! The packet is assumed to be small, well-formed and unfragmented, with a TTL that does not
//! expire. Another packet or the controller may change a map before the real packet arrives.

mod bound;
mod choice;
mod flow;
mod limit;
mod route;
mod session;
mod sources;
mod walk;

pub use flow::{Flow, FlowError};
pub use sources::{Names, Sources, Tables};
pub use walk::{Sent, Step, Verdict, Walk, walk};

use crate::DataplaneError;

/// A packet that can't be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The caller's flow is invalid.
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error("can't read the data path's maps: {0}")]
    Tables(#[from] DataplaneError),
}

/// What happens to a packet, with the names of its VIP and backend.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub flow: Flow,
    pub walk: Walk,
    pub vip: Option<String>,
    /// The backend that receives the packet; none if it is not forwarded.
    pub backend: Option<String>,
}

/// Explains the packet of a flow written as `tcp 198.51.100.7:40000 > 203.0.113.10:443`. `syn`: it
/// opens the connection.
///
/// # Errors
///
/// The flow is invalid, or a map can't be read.
pub fn explain(flow: &str, syn: bool, sources: &Sources<'_>) -> Result<Explanation, ExplainError> {
    let flow: Flow = flow.parse()?;
    let walk = walk(&flow, syn, sources)?;
    let vip = walk.vip.map(|vip| {
        let name = sources.names.vip(vip);
        name.unwrap_or_else(|| format!("VIP {vip}"))
    });
    let backend = walk.member.filter(|_| walk.sent.is_some()).map(|member| {
        let name = sources.names.member(member);
        name.unwrap_or_else(|| format!("member {member}"))
    });
    Ok(Explanation {
        flow,
        walk,
        vip,
        backend,
    })
}
