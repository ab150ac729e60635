//! Announcing with real routers: BIRD and FRR, each in a namespace, with kernel ECMP. The measured times
//! are printed; the limits that are asserted are generous, because test machines are slow.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod bfd;
mod bird;
mod frr;
mod node;
mod router;
mod security;
mod sessions;
mod site;
mod via_kernel;
