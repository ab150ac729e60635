//! The API: HTTP and JSON on a Unix socket, versioned under `/v1`.
//!
//! Handlers hold nothing: each asks the [engine](crate::engine) and writes its answer down. The
//! OpenAPI document at `/v1/openapi.json` is made from the handlers and from [`types`], so it says
//! what is really answered. Every failure is a JSON [`types::ApiError`], those of the HTTP layer too.

mod caller;
mod failure;
mod listener;
mod routes;
pub mod types;

pub use caller::Caller;
pub use failure::{Failure, Refused};
pub use listener::{ListenError, listen};
pub use routes::{document, router, serve};
