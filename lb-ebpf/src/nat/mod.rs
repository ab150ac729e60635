//! `nat`: rewrites source and destination; replies return through the node. [`lb_common::nat`]
//! describes the sessions and their tables.

use lb_common::nat::{NatKey, REPLY};

use crate::headers::Headers;

mod create;
mod embryonic;
mod entries;
pub(crate) mod error;
pub(crate) mod fragment;
mod identify;
mod refresh;
pub(crate) mod reply;
pub(crate) mod request;
mod rewrite;
mod segment;
mod session;
mod table;

#[inline(always)]
pub(crate) fn request_key(headers: &Headers, vip_index: u16) -> NatKey {
    NatKey {
        address: headers.source,
        source_be: headers.source_be,
        dest_be: headers.dest_be,
        scope: vip_index,
        protocol: u16::from(headers.protocol),
    }
}

#[inline(always)]
fn reply_key(headers: &Headers, source: u16) -> NatKey {
    request_key(headers, source | REPLY)
}
