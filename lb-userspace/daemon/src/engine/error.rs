//! Why the engine did not do what it was asked for. The API turns this into its own errors.

use lb_dataplane::explain::ExplainError;
use lb_model::planner::Plan;

use crate::{reconciler::ReconcilerError, revision::StoreError};

/// A request that the engine could not carry out. Whatever was active before still is.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// It names something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Another change was made first, or nothing is there to confirm.
    #[error("{0}")]
    Conflict(String),
    /// Another change is in progress.
    #[error("{message}")]
    Busy { message: String, remaining_s: f64 },
    /// The configuration has errors.
    #[error("{0}")]
    InvalidConfig(String),
    /// A guard refused the change.
    #[error("{message}")]
    Refused { message: String, plan: Box<Plan> },
    /// The kernel, the disk or the controller itself failed.
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Reconciler(#[from] ReconcilerError),
    #[error(transparent)]
    Explain(#[from] ExplainError),
}

/// The result of a request to the engine.
pub type EngineResult<T> = Result<T, EngineError>;
