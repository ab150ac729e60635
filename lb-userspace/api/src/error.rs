//! Errors that the API returns.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Plan;

/// Body of a failed request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// Kind of the error.
    pub code: ErrorCode,
    /// What is wrong, which object, and what to do.
    pub message: String,
    /// The plan, if a guard refused it.
    pub plan: Option<Plan>,
    /// Seconds until the change in progress is settled, if the conflict is with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_s: Option<f64>,
}

/// Kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed (400).
    BadRequest,
    /// Only root may do this (403).
    Forbidden,
    /// An object named in the request does not exist (404).
    NotFound,
    /// Another change is in progress or was applied first (409).
    Conflict,
    /// The configuration is invalid (422).
    InvalidConfig,
    /// A guard refused the change (422).
    Refused,
    /// The kernel or the file system failed; the previous state is still active (500).
    Failed,
}

/// Error of a request that the engine did not carry out.
pub type Refused = Box<ApiError>;

impl ApiError {
    /// Creates an error without a plan.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            message: message.into(),
            plan: None,
            remaining_s: None,
        })
    }

    /// Creates the error of a conflict with a change in progress.
    #[must_use]
    pub fn busy(message: impl Into<String>, remaining_s: f64) -> Box<Self> {
        let mut error = Self::new(ErrorCode::Conflict, message);
        error.remaining_s = Some(remaining_s);
        error
    }

    /// Creates the error of a plan that a guard refused.
    #[must_use]
    pub fn refused(message: impl Into<String>, plan: Plan) -> Box<Self> {
        Box::new(Self {
            code: ErrorCode::Refused,
            message: message.into(),
            plan: Some(plan),
            remaining_s: None,
        })
    }
}
