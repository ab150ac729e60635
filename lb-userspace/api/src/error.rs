//! Why a request failed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Plan;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// The plan, when a guard refused it.
    pub plan: Option<Plan>,
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request can't be understood (400).
    BadRequest,
    /// What it names is not there (404).
    NotFound,
    /// Another change is under way, or came first (409).
    Conflict,
    /// The configuration has mistakes (422).
    InvalidConfig,
    /// A guard refused (422).
    Refused,
    /// The kernel or the disk refused; the old state is in force (500).
    Failed,
}

/// What the engine answers when it does not do what it was asked for.
pub type Refused = Box<ApiError>;

impl ApiError {
    /// A failure of this kind.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            message: message.into(),
            plan: None,
        })
    }

    /// A change that a guard refused.
    #[must_use]
    pub fn refused(message: impl Into<String>, plan: Plan) -> Box<Self> {
        Box::new(Self {
            code: ErrorCode::Refused,
            message: message.into(),
            plan: Some(plan),
        })
    }
}
