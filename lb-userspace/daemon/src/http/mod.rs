//! The API: HTTP and JSON on a Unix socket, versioned under `/v1`.
//!
//! Handlers hold nothing: each asks the [engine](crate::engine) and writes its answer down. The
//! OpenAPI document at `/v1/openapi.json` is made from the handlers and from [`lb_api`], so it says
//! what is really answered. Every failure is a JSON [`lb_api::ApiError`], those of the HTTP layer too.

mod caller;
mod failure;
mod listener;
mod routes;
mod wire;

pub use caller::Caller;
pub use failure::Failure;
pub use listener::{ListenError, listen};
pub use routes::{document, router, serve};
