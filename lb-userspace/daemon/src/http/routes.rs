//! The routes, each with what it can answer.

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Caller,
    failure::{Body, Failure, Parameters, Segments},
    wire,
};
use crate::{
    alerts::{self, Alerts, AlertsError},
    clock,
    engine::{Engine, EngineError},
    node::{NodeState, VipState},
};
use lb_api::{
    Alert, ApiError, Applied, ApplyRequest, ConfirmRequest, Diff, Event, ExplainRequest,
    Explanation, MemberStatus, Plan, PlanRequest, Progress, Revision, RevisionInfo, RevisionNumber,
    RollbackRequest, Status, VipStatus,
};

/// The largest body that is read, in bytes.
///
/// Twice what a configuration can have: in JSON its newlines and quotes take two bytes.
const BODY_LIMIT: usize = 8 << 20;

type Answer<T> = Result<Json<T>, Failure>;

/// What may become of a request that reads.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the derive, which writes the document")]
enum ReadFailures {
    /// The request can't be understood.
    #[response(status = 400)]
    BadRequest(ApiError),
    /// What it names is not there.
    #[response(status = 404)]
    NotFound(ApiError),
    /// The path takes other methods.
    #[response(status = 405)]
    Method(ApiError),
    /// The controller is ending, or could not read its own files.
    #[response(status = 500)]
    Failed(ApiError),
}

/// What may become of a request with a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the derive, which writes the document")]
enum ChangeFailures {
    /// The request can't be understood.
    #[response(status = 400)]
    BadRequest(ApiError),
    /// What it names is not there.
    #[response(status = 404)]
    NotFound(ApiError),
    /// The path takes other methods.
    #[response(status = 405)]
    Method(ApiError),
    /// Another change is under way, or came first.
    #[response(status = 409)]
    Conflict(ApiError),
    /// The body is larger than 8 MiB.
    #[response(status = 413)]
    TooLarge(ApiError),
    /// The body is not `application/json`.
    #[response(status = 415)]
    MediaType(ApiError),
    /// The configuration has mistakes, or a guard refused.
    #[response(status = 422)]
    Refused(ApiError),
    /// The kernel or the disk refused; the old state is in force.
    #[response(status = 500)]
    Failed(ApiError),
}

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
        .routes(routes!(events))
        .routes(routes!(alerts))
        .routes(routes!(acknowledge))
        .routes(routes!(silence))
        .routes(routes!(test_alerts))
        .routes(routes!(plan))
        .routes(routes!(apply))
        .routes(routes!(confirm))
        .routes(routes!(rollback))
        .routes(routes!(explain))
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
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(engine)
}

/// Serves the API until the listener fails, which it does not.
///
/// # Errors
///
/// The listener's.
pub async fn serve(listener: UnixListener, engine: Engine) -> std::io::Result<()> {
    let service = router(engine).into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, service).await
}

async fn nowhere() -> Failure {
    let message = "there is nothing at this path: see /v1/openapi.json";
    Failure::with_status(StatusCode::NOT_FOUND, message)
}

async fn wrong_method() -> Failure {
    let message = "this path takes other methods: see /v1/openapi.json";
    Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Everything on one screen.
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
async fn vip(State(engine): State<Engine>, Segments(name): Segments<String>) -> Answer<VipStatus> {
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
) -> Answer<MemberStatus> {
    let state = engine.state();
    let mut members = find_vip(&state, &vip)?.members.iter();
    let found = members.find(|member| member.backend == backend);
    found.map(|member| Json(member.into())).ok_or_else(|| {
        let message = format!("VIP {vip:?} has no backend {backend:?}");
        Failure::with_status(StatusCode::NOT_FOUND, message)
    })
}

fn find_vip<'a>(state: &'a NodeState, name: &str) -> Result<&'a VipState, Failure> {
    let found = state.vips.iter().find(|vip| vip.name == name);
    found.ok_or_else(|| {
        Failure::with_status(StatusCode::NOT_FOUND, format!("there is no VIP {name:?}"))
    })
}

/// The revisions, oldest first.
#[utoipa::path(get, path = "/v1/revisions", responses((status = 200, body = Vec<RevisionInfo>), ReadFailures))]
async fn revisions(State(engine): State<Engine>) -> Answer<Vec<RevisionInfo>> {
    Ok(Json(
        engine.revisions().await?.iter().map(Into::into).collect(),
    ))
}

/// A revision with its text.
#[utoipa::path(
    get, path = "/v1/revisions/{number}",
    params(("number" = RevisionNumber, Path, description = "Its number.")),
    responses((status = 200, body = Revision), ReadFailures)
)]
async fn revision(
    State(engine): State<Engine>,
    Segments(number): Segments<RevisionNumber>,
) -> Answer<Revision> {
    Ok(Json(engine.revision(Some(number)).await?.into()))
}

/// How a revision is doing.
#[utoipa::path(
    get, path = "/v1/revisions/{number}/progress",
    params(("number" = RevisionNumber, Path, description = "Its number.")),
    responses((status = 200, body = Progress), ReadFailures)
)]
async fn progress(
    State(engine): State<Engine>,
    Segments(number): Segments<RevisionNumber>,
) -> Answer<Progress> {
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
) -> Answer<Diff> {
    let DiffQuery { from, to } = query;
    let unified = engine.diff(from, to).await?;
    Ok(Json(Diff { from, to, unified }))
}

/// The running revision with its text.
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = Revision), ReadFailures))]
async fn config(State(engine): State<Engine>) -> Answer<Revision> {
    Ok(Json(engine.revision(None).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Only those after the event of this number, from there on; without it, the newest.
    since: Option<u64>,
    /// At most so many; 1,000 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What happened, oldest first.
#[utoipa::path(get, path = "/v1/events", params(EventsQuery), responses((status = 200, body = Vec<Event>), ReadFailures))]
async fn events(
    State(engine): State<Engine>,
    Parameters(query): Parameters<EventsQuery>,
) -> Answer<Vec<Event>> {
    let limit = query.limit.unwrap_or(1000);
    if !(1..=1000).contains(&limit) {
        let message = format!("limit is {limit}; from 1 to 1000 is possible");
        return Err(Failure::with_status(StatusCode::BAD_REQUEST, message));
    }
    // What the document says of a number of 64 bits; no event ever has a greater one.
    if query
        .since
        .is_some_and(|since| i64::try_from(since).is_err())
    {
        let message = "since is greater than any number that an event can have";
        return Err(Failure::with_status(StatusCode::BAD_REQUEST, message));
    }
    let events = engine.events(query.since, limit as usize).into_iter();
    Ok(Json(events.map(Into::into).collect()))
}

/// Alerts that are on.
#[utoipa::path(get, path = "/v1/alerts", responses((status = 200, body = Vec<Alert>), ReadFailures))]
async fn alerts(State(engine): State<Engine>) -> Json<Vec<Alert>> {
    Json(engine.state().alerts.iter().map(Into::into).collect())
}

/// Who has seen an alert.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AckRequest {
    /// A name.
    #[schema(min_length = 1, max_length = 200)]
    who: String,
}

/// Says that somebody has seen an alert.
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
) -> Answer<Alert> {
    check_who(&request.who)?;
    change_alert(engine, move |alerts| alerts.ack(&id, &request.who)).await
}

/// How long to be silent about an alert.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SilenceRequest {
    /// Seconds; 30 days at most.
    #[schema(maximum = 2_592_000)]
    for_s: u32,
    /// Who wants it: a name.
    #[schema(min_length = 1, max_length = 200)]
    who: String,
}

/// Sends nothing about an alert for some time.
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
) -> Answer<Alert> {
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
) -> Answer<Alert> {
    let changed = tokio::task::spawn_blocking(move || change(engine.alerts())).await;
    let changed = changed.map_err(|error| EngineError::Failed(error.to_string()))?;
    let alert = changed.map_err(|error| of_alerts(&error))?;
    Ok(Json((&alert).into()))
}

fn check_who(who: &str) -> Result<(), Failure> {
    if who.is_empty() || who.chars().count() > 200 || who.chars().any(char::is_control) {
        let message = "who must be a name: 1 to 200 characters, no control characters";
        return Err(Failure::with_status(StatusCode::BAD_REQUEST, message));
    }
    Ok(())
}

fn of_alerts(error: &AlertsError) -> Failure {
    let status = match error {
        AlertsError::NotFound(_) => StatusCode::NOT_FOUND,
        AlertsError::TooLong(_) => StatusCode::BAD_REQUEST,
    };
    Failure::with_status(status, error.to_string())
}

/// How a receiver of alerts answered a test.
#[derive(Serialize, ToSchema)]
struct TestedReceiver {
    /// `alertmanager` or `webhook`.
    kind: String,
    /// Scheme, host and port of its URL.
    receiver: String,
    /// Why it failed; none if it did not.
    error: Option<String>,
}

/// Nothing needs to be said.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestRequest {}

/// Sends a made-up alert to all receivers, and says how each answered.
#[utoipa::path(post, path = "/v1/alerts/test", request_body = TestRequest, responses((status = 200, body = Vec<TestedReceiver>), ChangeFailures))]
async fn test_alerts(
    State(engine): State<Engine>,
    Body(TestRequest {}): Body<TestRequest>,
) -> Json<Vec<TestedReceiver>> {
    let tested = engine.alerts().test().await.into_iter();
    let tested = tested.map(|tested| TestedReceiver {
        kind: tested.kind.to_owned(),
        receiver: tested.receiver,
        error: tested.error,
    });
    Json(tested.collect())
}

/// What a change would do. A plan that a guard refuses is an answer, not a failure.
#[utoipa::path(post, path = "/v1/plan", request_body = PlanRequest, responses((status = 200, body = Plan), ChangeFailures))]
async fn plan(State(engine): State<Engine>, Body(request): Body<PlanRequest>) -> Answer<Plan> {
    Ok(Json(
        engine.plan(request.change.into(), request.force).await?,
    ))
}

/// Makes a change. Answers when it is in the kernel and was read back; bake and confirmation go on
/// after that: see the progress of the revision.
#[utoipa::path(post, path = "/v1/apply", request_body = ApplyRequest, responses((status = 200, body = Applied), ChangeFailures))]
async fn apply(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<ApplyRequest>,
) -> Answer<Applied> {
    Ok(Json(engine.apply(request.into(), caller).await?.into()))
}

/// Confirms a revision that waits for it.
#[utoipa::path(post, path = "/v1/confirm", request_body = ConfirmRequest, responses((status = 200, body = RevisionInfo), ChangeFailures))]
async fn confirm(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<ConfirmRequest>,
) -> Answer<RevisionInfo> {
    Ok(Json(
        (&engine.confirm(request.revision, caller).await?).into(),
    ))
}

/// Goes back to an earlier configuration; ends a bake or a wait for confirmation.
#[utoipa::path(post, path = "/v1/rollback", request_body = RollbackRequest, responses((status = 200, body = Applied), ChangeFailures))]
async fn rollback(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<RollbackRequest>,
) -> Answer<Applied> {
    let RollbackRequest { revision, why } = request;
    Ok(Json(engine.rollback(revision, why, caller).await?.into()))
}

/// What the data path would do with a packet, and why.
#[utoipa::path(post, path = "/v1/explain", request_body = ExplainRequest, responses((status = 200, body = Explanation), ChangeFailures))]
async fn explain(
    State(engine): State<Engine>,
    Body(request): Body<ExplainRequest>,
) -> Answer<Explanation> {
    let ExplainRequest { flow, syn } = request;
    Ok(Json(wire::explanation(engine.explain(flow, syn).await?)))
}
