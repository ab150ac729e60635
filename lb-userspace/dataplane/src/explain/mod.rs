//! What the data path would do with a packet, step by step, and why.
//!
//! [`walk`] goes the way that a packet takes through the program, on the very tables that the
//! program reads, and writes down what it finds; nothing is changed. Each module is the counterpart
//! of one of the program's (`lb-ebpf/src`) and decides as that one does: what is changed there is
//! changed here. A test runs packets through both and compares.
//!
//! | here | there |
//! | --- | --- |
//! | [`Walk`]'s VIP lookup | `services`, `ipv4`, `ipv6` |
//! | `choice` | `select`, `tracking` |
//! | `session` | `nat`, `nat/session` |
//! | `route` | `forward`, `encap`, `link` |
//!
//! What can't be known ahead is assumed: the packet is small and well-formed, is not a fragment and
//! has hops left. Another packet, or the controller, may change a table between this and the real
//! packet.

mod choice;
mod flow;
mod route;
mod session;
mod sources;
mod walk;

pub use flow::{Flow, FlowError};
pub use sources::{Names, Sources, Tables, Unnamed};
pub use walk::{Sent, Verdict, Walk, walk};

use crate::DataplaneError;
use lb_api::{ExplainRequest, Explanation};

/// A packet can't be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The flow can't be understood: the caller's mistake.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// A table can't be read.
    #[error("look into the data path's tables: {0}")]
    Tables(#[from] DataplaneError),
}

/// Explains what becomes of a packet.
///
/// # Errors
///
/// The flow can't be understood, or a table can't be read.
pub fn explain(
    request: &ExplainRequest,
    sources: &Sources<'_>,
) -> Result<Explanation, ExplainError> {
    let flow: Flow = request.flow.parse()?;
    let walk = walk(&flow, request.syn, sources)?;
    let name = |name: Option<String>, kind: &str, index: Option<u16>| {
        index.map(|index| name.unwrap_or_else(|| format!("{kind} {index}")))
    };
    let backend = walk.member.filter(|_| walk.sent.is_some());
    let vip_name = walk.vip.and_then(|vip| sources.names.vip(vip));
    let member_name = backend.and_then(|member| sources.names.member(member));
    Ok(Explanation {
        flow: flow.to_string(),
        verdict: walk.verdict.to_string(),
        reason: walk.reason.text().name.to_owned(),
        vip: name(vip_name, "VIP", walk.vip),
        backend: name(member_name, "member", backend),
        steps: walk.steps,
    })
}
