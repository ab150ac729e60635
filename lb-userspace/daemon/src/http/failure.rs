//! Failures as JSON: those of the engine, and those of the HTTP layer before a handler runs.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use utoipa::IntoResponses;

use lb_api::{ApiError, ErrorCode};

use crate::{engine::EngineError, reconciler::ReconcilerError, revision::StoreError};
use lb_dataplane::explain::ExplainError;

/// Failures of a request that reads.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the derive that generates the document")]
pub(super) enum ReadFailures {
    /// The request is malformed.
    #[response(status = 400)]
    BadRequest(ApiError),
    /// Only root may read this.
    #[response(status = 403)]
    Forbidden(ApiError),
    /// The object does not exist.
    #[response(status = 404)]
    NotFound(ApiError),
    /// The path does not support this method.
    #[response(status = 405)]
    Method(ApiError),
    /// The controller is stopping, or could not read its files.
    #[response(status = 500)]
    Failed(ApiError),
}

/// Failures of a request with a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the derive that generates the document")]
pub(super) enum ChangeFailures {
    /// The request is malformed.
    #[response(status = 400)]
    BadRequest(ApiError),
    /// The object does not exist.
    #[response(status = 404)]
    NotFound(ApiError),
    /// The path does not support this method.
    #[response(status = 405)]
    Method(ApiError),
    /// Another change is in progress, or was made first.
    #[response(status = 409)]
    Conflict(ApiError),
    /// The body is larger than 8 MiB.
    #[response(status = 413)]
    TooLarge(ApiError),
    /// The body is not `application/json`.
    #[response(status = 415)]
    MediaType(ApiError),
    /// The configuration has errors, or a guard refused the change.
    #[response(status = 422)]
    Refused(ApiError),
    /// The kernel or the disk failed; the previous configuration is active.
    #[response(status = 500)]
    Failed(ApiError),
}

const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::InvalidConfig | ErrorCode::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A response that reports a failure.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    error: Box<ApiError>,
}

impl Failure {
    pub(super) fn with_status(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::FORBIDDEN => ErrorCode::Forbidden,
            StatusCode::NOT_FOUND => ErrorCode::NotFound,
            _ => ErrorCode::BadRequest,
        };
        let error = ApiError::new(code, message);
        Self { status, error }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let code = code_of(&error);
        let message = error.to_string();
        let error = match error {
            EngineError::Refused { plan, .. } => ApiError::refused(message, *plan),
            EngineError::Busy { remaining_s, .. } => ApiError::busy(message, remaining_s),
            _ => ApiError::new(code, message),
        };
        let status = status_of(code);
        Self { status, error }
    }
}

impl From<lb_api::Refused> for Failure {
    fn from(error: lb_api::Refused) -> Self {
        let status = status_of(error.code);
        Self { status, error }
    }
}

const fn code_of(error: &EngineError) -> ErrorCode {
    use EngineError as E;
    match error {
        E::BadRequest(_) | E::Explain(ExplainError::Flow(_)) => ErrorCode::BadRequest,
        E::NotFound(_) | E::Store(StoreError::Missing { .. }) => ErrorCode::NotFound,
        E::Conflict(_) | E::Busy { .. } => ErrorCode::Conflict,
        E::InvalidConfig(_)
        | E::Reconciler(ReconcilerError::NodeFixed { .. } | ReconcilerError::Full { .. }) => {
            ErrorCode::InvalidConfig
        }
        E::Refused { .. } => ErrorCode::Refused,
        E::Failed(_) | E::Store(_) | E::Reconciler(_) | E::Explain(_) => ErrorCode::Failed,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

/// A body of JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(json_failure(&rejection)),
        }
    }
}

fn json_failure(rejection: &JsonRejection) -> Failure {
    let status = match rejection {
        // JSON of the wrong form is a bad request, like text that is not JSON.
        JsonRejection::JsonDataError(_) => StatusCode::BAD_REQUEST,
        other => other.status(),
    };
    Failure::with_status(status, rejection.body_text())
}

/// Parameters of the path.
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let found = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        match found {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure::with_status(
                StatusCode::BAD_REQUEST,
                rejection.body_text(),
            )),
        }
    }
}

/// Parameters after the question mark.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let found = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        match found {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure::with_status(
                StatusCode::BAD_REQUEST,
                rejection.body_text(),
            )),
        }
    }
}
