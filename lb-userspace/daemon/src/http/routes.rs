//! The routes with their responses.

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    failure::{Body, ChangeFailures, Failure, Parameters, ReadFailures, Segments},
    fleet, packets, sources, wire,
};
use crate::{
    alerts::{self, Alerts, AlertsError},
    caller::Caller,
    clock,
    engine::{Engine, EngineError},
    node::{NodeState, VipState},
};
use lb_api::{
    Alert, ApiError, Applied, ApplyRequest, ConfirmRequest, Diff, Event, ExplainRequest,
    Explanation, FileDiff, MemberStatus, Plan, PlanRequest, Progress, ReloadRequest, Reloaded,
    Revision, RevisionInfo, RevisionNumber, RollbackRequest, Status, TestedReceiver, VipStatus,
};
use lb_model::edit;

/// The largest request body, in bytes: twice the limit of a configuration, because its newlines and
/// quotes take two bytes in JSON.
const BODY_LIMIT: usize = 8 << 20;

pub(super) type JsonResult<T> = Result<Json<T>, Failure>;

#[derive(OpenApi)]
#[openapi(
    components(schemas(ApiError)),
    info(
        title = "Evenkeel",
        description = "The controller of a load balancer node, on its Unix socket."
    )
)]
struct Document;

fn api() -> OpenApiRouter<Engine> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(vips))
        .routes(routes!(vip))
        .routes(routes!(backend))
        .routes(routes!(revisions))
        .routes(routes!(revision))
        .routes(routes!(progress))
        .routes(routes!(diff))
        .routes(routes!(config))
        .routes(routes!(diff_file))
        .routes(routes!(events))
        .routes(routes!(alerts))
        .routes(routes!(acknowledge))
        .routes(routes!(silence))
        .routes(routes!(test_alerts))
        .routes(routes!(plan))
        .routes(routes!(apply))
        .routes(routes!(confirm))
        .routes(routes!(rollback))
        .routes(routes!(reload))
        .routes(routes!(explain))
        .routes(routes!(fleet::state))
        .routes(routes!(fleet::init))
        .routes(routes!(fleet::join))
        .routes(routes!(fleet::leave))
        .routes(routes!(fleet::plan))
        .routes(routes!(fleet::explain))
        .routes(routes!(fleet::apply))
        .routes(routes!(fleet::confirm))
        .routes(routes!(fleet::pause))
        .routes(routes!(fleet::resume))
        .routes(routes!(fleet::rollback))
        .routes(routes!(fleet::import))
        .routes(routes!(fleet::revisions))
        .routes(routes!(fleet::revision))
        .routes(routes!(fleet::config))
        .routes(routes!(fleet::diff))
        .routes(routes!(fleet::doctor))
        .routes(routes!(packets::capture))
        .routes(routes!(packets::stop_capture))
        .routes(routes!(packets::flows))
        .routes(routes!(packets::suggest_limits))
        .routes(routes!(sources::list))
        .routes(routes!(sources::show, sources::set))
}

/// The OpenAPI document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    api().into_openapi()
}

/// All routes.
pub fn router(engine: Engine) -> Router {
    let (router, document) = api().split_for_parts();
    router
        .route(
            "/v1/openapi.json",
            axum::routing::get(async move || Json(document)),
        )
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(engine)
}

async fn unknown_path() -> Failure {
    let message = "no such path: see /v1/openapi.json";
    Failure::with_status(StatusCode::NOT_FOUND, message)
}

async fn wrong_method() -> Failure {
    let message = "this path does not support this method: see /v1/openapi.json";
    Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// The state of the node.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), ReadFailures))]
async fn status(State(engine): State<Engine>) -> Json<Status> {
    Json(Status::from(&*engine.state()))
}

/// The VIPs.
#[utoipa::path(get, path = "/v1/vips", responses((status = 200, body = Vec<VipStatus>), ReadFailures))]
async fn vips(State(engine): State<Engine>) -> Json<Vec<VipStatus>> {
    Json(engine.state().vips.iter().map(Into::into).collect())
}

/// A VIP.
#[utoipa::path(
    get, path = "/v1/vips/{vip}",
    params(("vip" = String, Path, description = "Its name.")),
    responses((status = 200, body = VipStatus), ReadFailures)
)]
async fn vip(
    State(engine): State<Engine>,
    Segments(name): Segments<String>,
) -> JsonResult<VipStatus> {
    Ok(Json(find_vip(&engine.state(), &name)?.into()))
}

/// A member of a VIP.
#[utoipa::path(
    get, path = "/v1/vips/{vip}/backends/{backend}",
    params(
        ("vip" = String, Path, description = "Name of the VIP."),
        ("backend" = String, Path, description = "Name of the backend."),
    ),
    responses((status = 200, body = MemberStatus), ReadFailures)
)]
async fn backend(
    State(engine): State<Engine>,
    Segments((vip, backend)): Segments<(String, String)>,
) -> JsonResult<MemberStatus> {
    let state = engine.state();
    let members = &find_vip(&state, &vip)?.members;
    let found = members.iter().find(|member| member.backend == backend);
    found.map(|member| Json(member.into())).ok_or_else(|| {
        let names: Vec<String> = members.iter().map(|m| m.backend.clone()).collect();
        let hint = edit::hint(&backend, &names);
        let message = format!("VIP {vip:?} has no backend {backend:?}{hint}");
        Failure::with_status(StatusCode::NOT_FOUND, message)
    })
}

fn find_vip<'a>(state: &'a NodeState, name: &str) -> Result<&'a VipState, Failure> {
    let found = state.vips.iter().find(|vip| vip.name == name);
    found.ok_or_else(|| {
        let names: Vec<String> = state.vips.iter().map(|vip| vip.name.clone()).collect();
        let hint = edit::hint(name, &names);
        let message = format!("there is no VIP {name:?}{hint}");
        Failure::with_status(StatusCode::NOT_FOUND, message)
    })
}

/// The revisions, oldest first.
#[utoipa::path(get, path = "/v1/revisions", responses((status = 200, body = Vec<RevisionInfo>), ReadFailures))]
async fn revisions(State(engine): State<Engine>) -> JsonResult<Vec<RevisionInfo>> {
    Ok(Json(
        engine.revisions().await?.iter().map(Into::into).collect(),
    ))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SecretsQuery {
    /// Whether the text has its secrets, as root may ask for; by default they are masked.
    #[serde(default)]
    #[param(required = false)]
    secrets: bool,
}

/// A revision with its text.
#[utoipa::path(
    get, path = "/v1/revisions/{number}",
    params(("number" = RevisionNumber, Path, description = "Its number."), SecretsQuery),
    responses((status = 200, body = Revision), ReadFailures)
)]
async fn revision(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Segments(number): Segments<RevisionNumber>,
    Parameters(query): Parameters<SecretsQuery>,
) -> JsonResult<Revision> {
    read_revision(&engine, Some(number), &query, &caller).await
}

async fn read_revision(
    engine: &Engine,
    number: Option<RevisionNumber>,
    query: &SecretsQuery,
    caller: &Caller,
) -> JsonResult<Revision> {
    if query.secrets && !caller.is_root() {
        let message = "only root may read a configuration with its secrets";
        return Err(Failure::with_status(StatusCode::FORBIDDEN, message));
    }
    let revision = engine.revision(number).await?;
    Ok(Json(wire::revision(revision, query.secrets)))
}

/// The progress of a revision.
#[utoipa::path(
    get, path = "/v1/revisions/{number}/progress",
    params(("number" = RevisionNumber, Path, description = "Its number.")),
    responses((status = 200, body = Progress), ReadFailures)
)]
async fn progress(
    State(engine): State<Engine>,
    Segments(number): Segments<RevisionNumber>,
) -> JsonResult<Progress> {
    Ok(Json(engine.progress(number).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DiffQuery {
    /// The older side.
    from: RevisionNumber,
    /// The newer side.
    to: RevisionNumber,
}

/// The difference of two revisions.
#[utoipa::path(get, path = "/v1/diff", params(DiffQuery), responses((status = 200, body = Diff), ReadFailures))]
async fn diff(
    State(engine): State<Engine>,
    Parameters(query): Parameters<DiffQuery>,
) -> JsonResult<Diff> {
    let DiffQuery { from, to } = query;
    let unified = engine.diff(from, to).await?;
    Ok(Json(Diff { from, to, unified }))
}

/// The running revision with its text.
#[utoipa::path(get, path = "/v1/config", params(SecretsQuery), responses((status = 200, body = Revision), ReadFailures))]
async fn config(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Parameters(query): Parameters<SecretsQuery>,
) -> JsonResult<Revision> {
    read_revision(&engine, None, &query, &caller).await
}

/// The difference from the running revision to the configuration file.
#[utoipa::path(get, path = "/v1/config/diff", responses((status = 200, body = FileDiff), ReadFailures))]
async fn diff_file(State(engine): State<Engine>) -> JsonResult<FileDiff> {
    Ok(Json(engine.diff_file().await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Only events after this number, oldest first; by default the newest events.
    since: Option<u64>,
    /// Maximum number of events; 1,000 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The events, oldest first.
#[utoipa::path(get, path = "/v1/events", params(EventsQuery), responses((status = 200, body = Vec<Event>), ReadFailures))]
async fn events(
    State(engine): State<Engine>,
    Parameters(query): Parameters<EventsQuery>,
) -> JsonResult<Vec<Event>> {
    let limit = query.limit.unwrap_or(1000);
    if !(1..=1000).contains(&limit) {
        let message = format!("limit is {limit}; it must be between 1 and 1000");
        return Err(Failure::with_status(StatusCode::BAD_REQUEST, message));
    }
    // The document declares an int64; no event has a greater number.
    if query
        .since
        .is_some_and(|since| i64::try_from(since).is_err())
    {
        let message = "since is greater than any event number";
        return Err(Failure::with_status(StatusCode::BAD_REQUEST, message));
    }
    let events = engine.events(query.since, limit as usize).into_iter();
    Ok(Json(events.map(Into::into).collect()))
}

/// The firing alerts.
#[utoipa::path(get, path = "/v1/alerts", responses((status = 200, body = Vec<Alert>), ReadFailures))]
async fn alerts(State(engine): State<Engine>) -> Json<Vec<Alert>> {
    Json(engine.state().alerts.iter().map(Into::into).collect())
}

/// Who acknowledges an alert.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AckRequest {
    /// A name.
    #[schema(min_length = 1, max_length = 200)]
    who: String,
}

/// Acknowledges an alert.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/ack",
    params(("id" = String, Path, description = "Id of the alert.")),
    request_body = AckRequest,
    responses((status = 200, body = Alert), ChangeFailures)
)]
async fn acknowledge(
    State(engine): State<Engine>,
    Segments(id): Segments<String>,
    Body(request): Body<AckRequest>,
) -> JsonResult<Alert> {
    check_who(&request.who)?;
    change_alert(engine, move |alerts| alerts.ack(&id, &request.who)).await
}

/// How long to silence an alert.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SilenceRequest {
    /// Seconds; 30 days at most.
    #[schema(maximum = 2_592_000)]
    for_s: u32,
    /// Who silences it: a name.
    #[schema(min_length = 1, max_length = 200)]
    who: String,
}

/// Silences an alert for some time.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/silence",
    params(("id" = String, Path, description = "Id of the alert.")),
    request_body = SilenceRequest,
    responses((status = 200, body = Alert), ChangeFailures)
)]
async fn silence(
    State(engine): State<Engine>,
    Segments(id): Segments<String>,
    Body(request): Body<SilenceRequest>,
) -> JsonResult<Alert> {
    check_who(&request.who)?;
    let time = jiff::SignedDuration::from_secs(request.for_s.into());
    let until = clock::later(clock::now(), time);
    change_alert(engine, move |alerts| {
        alerts.silence(&id, until, &request.who)
    })
    .await
}

/// Off the runtime's thread: the change is written to the journal, and the disk may stall.
async fn change_alert(
    engine: Engine,
    change: impl FnOnce(&Alerts) -> Result<alerts::Alert, AlertsError> + Send + 'static,
) -> JsonResult<Alert> {
    let changed = tokio::task::spawn_blocking(move || change(engine.alerts())).await;
    let changed = changed.map_err(|error| EngineError::Failed(error.to_string()))?;
    let alert = changed.map_err(|error| alerts_failure(&error))?;
    Ok(Json((&alert).into()))
}

fn check_who(who: &str) -> Result<(), Failure> {
    if who.is_empty() || who.chars().count() > 200 || who.chars().any(lb_model::text::is_control) {
        let message = "who must be a name: 1 to 200 characters, no control characters";
        return Err(Failure::with_status(StatusCode::BAD_REQUEST, message));
    }
    Ok(())
}

fn alerts_failure(error: &AlertsError) -> Failure {
    let status = match error {
        AlertsError::NotFound(_) => StatusCode::NOT_FOUND,
        AlertsError::TooLong(_) => StatusCode::BAD_REQUEST,
    };
    Failure::with_status(status, error.to_string())
}

/// An empty object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EmptyRequest {}

/// Sends a test alert to all receivers and reports each result.
#[utoipa::path(post, path = "/v1/alerts/test", request_body = EmptyRequest, responses((status = 200, body = Vec<TestedReceiver>), ChangeFailures))]
async fn test_alerts(
    State(engine): State<Engine>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> Json<Vec<TestedReceiver>> {
    let tested = engine.alerts().test().await.into_iter();
    let tested = tested.map(|tested| TestedReceiver {
        kind: tested.kind.to_owned(),
        receiver: tested.receiver,
        error: tested.error,
    });
    Json(tested.collect())
}

/// Previews a change and runs the guards. A plan that a guard refuses is a success response.
#[utoipa::path(post, path = "/v1/plan", request_body = PlanRequest, responses((status = 200, body = Plan), ChangeFailures))]
async fn plan(State(engine): State<Engine>, Body(request): Body<PlanRequest>) -> JsonResult<Plan> {
    Ok(Json(
        engine.plan(request.change.into(), request.force).await?,
    ))
}

/// Applies a change. Responds when it is in the kernel and was read back; bake and confirmation
/// follow: see the progress of the revision.
#[utoipa::path(post, path = "/v1/apply", request_body = ApplyRequest, responses((status = 200, body = Applied), ChangeFailures))]
async fn apply(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<ApplyRequest>,
) -> JsonResult<Applied> {
    Ok(Json(engine.apply(request.into(), caller).await?.into()))
}

/// Confirms a revision.
#[utoipa::path(post, path = "/v1/confirm", request_body = ConfirmRequest, responses((status = 200, body = RevisionInfo), ChangeFailures))]
async fn confirm(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<ConfirmRequest>,
) -> JsonResult<RevisionInfo> {
    Ok(Json(
        (&engine.confirm(request.revision, caller).await?).into(),
    ))
}

/// Rolls back to an earlier configuration; ends a bake or a wait for confirmation.
#[utoipa::path(post, path = "/v1/rollback", request_body = RollbackRequest, responses((status = 200, body = Applied), ChangeFailures))]
async fn rollback(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<RollbackRequest>,
) -> JsonResult<Applied> {
    let RollbackRequest { revision, why } = request;
    Ok(Json(engine.rollback(revision, why, caller).await?.into()))
}

/// Applies the configuration file, if it was edited since it was applied last.
#[utoipa::path(post, path = "/v1/reload", request_body = ReloadRequest, responses((status = 200, body = Reloaded), ChangeFailures))]
async fn reload(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<ReloadRequest>,
) -> JsonResult<Reloaded> {
    Ok(Json(engine.reload(request.wait, caller).await?.into()))
}

/// Explains what the data path would do with a packet.
#[utoipa::path(post, path = "/v1/explain", request_body = ExplainRequest, responses((status = 200, body = Explanation), ChangeFailures))]
async fn explain(
    State(engine): State<Engine>,
    Body(request): Body<ExplainRequest>,
) -> JsonResult<Explanation> {
    let ExplainRequest { flow, syn } = request;
    Ok(Json(wire::explanation(engine.explain(flow, syn).await?)))
}
