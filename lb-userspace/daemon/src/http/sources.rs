//! Routes about sources of members.

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::StatusCode,
};

use super::{
    failure::{Body, ChangeFailures, Failure, ReadFailures, Segments},
    routes::JsonResult,
    wire,
};
use crate::caller::Caller;
use crate::engine::{Engine, EngineError};
use lb_api::{SetSourceRequest, SourceStatus};
use lb_model::{
    edit,
    membership::{InvalidSource, name_of_set},
};

/// The sources that VIPs use, and those that were set.
#[utoipa::path(get, path = "/v1/sources", responses((status = 200, body = Vec<SourceStatus>), ReadFailures))]
pub(super) async fn list(State(engine): State<Engine>) -> Json<Vec<SourceStatus>> {
    Json(engine.state().sources.iter().map(Into::into).collect())
}

/// A source: two, if VIPs of both address families use the name.
#[utoipa::path(
    get, path = "/v1/sources/{name}",
    params(("name" = String, Path, description = "As `backends_from` has it; `NAME` is short for `api:NAME`.")),
    responses((status = 200, body = Vec<SourceStatus>), ReadFailures)
)]
pub(super) async fn show(
    State(engine): State<Engine>,
    Segments(name): Segments<String>,
) -> JsonResult<Vec<SourceStatus>> {
    let state = engine.state();
    let all = state.sources.iter();
    let is_named = |source: &str| source == name || source.strip_prefix("api:") == Some(&*name);
    let found = all.filter(|state| is_named(&state.source.to_string()));
    let found: Vec<SourceStatus> = found.map(Into::into).collect();
    if found.is_empty() {
        let names: Vec<String> = state
            .sources
            .iter()
            .map(|it| it.source.to_string())
            .collect();
        let message = format!("there is no source {name:?}{}", edit::hint(&name, &names));
        return Err(Failure::with_status(StatusCode::NOT_FOUND, message));
    }
    Ok(Json(found))
}

/// Sets the members of the source `api:NAME`. New members come at once; at most half of the members go in one
/// step, the others follow in later steps.
#[utoipa::path(
    put, path = "/v1/sources/{name}",
    params(("name" = String, Path, description = "`NAME` or `api:NAME`.")),
    request_body = SetSourceRequest,
    responses((status = 200, body = SourceStatus), ChangeFailures)
)]
pub(super) async fn set(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Segments(name): Segments<String>,
    Body(request): Body<SetSourceRequest>,
) -> JsonResult<SourceStatus> {
    let SetSourceRequest {
        members,
        allow_empty,
    } = request;
    let name = name_of_set(&name).map_err(|InvalidSource { label, help }| {
        EngineError::BadRequest(format!("{label}: {help}"))
    })?;
    let members = members.into_iter().map(wire::new_member).collect();
    let state = engine
        .set_source(name, members, allow_empty, caller)
        .await?;
    Ok(Json((&state).into()))
}
