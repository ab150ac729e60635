//! Real nodes with traffic through all of them, and an etcd of three members. The measured times are
//! printed; the limits that are asserted are generous, because test machines are slow.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod connections;
mod document;
mod faults;
mod health;
mod kubernetes;
mod life;
mod shares;
mod site;
