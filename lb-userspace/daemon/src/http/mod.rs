//! The API: HTTP and JSON on a Unix socket, versioned under `/v1`.
//!
//! Handlers are stateless: each passes its request to the [engine](crate::engine) and converts the
//! result (`wire`). The OpenAPI document at `/v1/openapi.json` is generated from the handlers and from
//! [`lb_api`]. Every failure is a JSON [`lb_api::ApiError`], including those of the HTTP layer.

pub(crate) mod announcer;
mod criteria;
mod failure;
mod fleet;
mod listener;
mod packets;
mod routes;
mod server;
mod sources;
pub(crate) mod wire;

pub use failure::Failure;
pub use listener::{ListenError, listen};
pub use routes::{document, router};
pub use server::{Limits, serve};
pub(crate) use server::{serve_each, serve_router};
