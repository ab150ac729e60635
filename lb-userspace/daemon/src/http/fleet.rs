//! Routes of the fleet. The agent answers; a node of no fleet answers 404.

use axum::{
    Json,
    extract::{ConnectInfo, State},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    failure::{Body, ChangeFailures, Failure, Parameters, ReadFailures, Segments},
    routes::{EmptyRequest, JsonResult},
};
use crate::{caller::Caller, engine::Engine, revision};
use lb_api::{
    ApiError, ErrorCode, ExplainRequest, FleetApplyRequest, FleetDiff, FleetDoctor,
    FleetExplanation, FleetInitRequest, FleetPlan, FleetPlanRequest, FleetRevision,
    FleetRevisionInfo, FleetRevisionNumber, FleetRollbackRequest, FleetStarted, FleetState,
};
use lb_model::fleet;

/// The fleet as this node sees it.
#[utoipa::path(get, path = "/v1/fleet", responses((status = 200, body = FleetState), ReadFailures))]
pub(super) async fn state(State(engine): State<Engine>) -> JsonResult<FleetState> {
    let mut state = engine.fleet()?.state().borrow().clone();
    // The engine hears the votes, not the agent.
    let published = engine.state();
    state.health = published.fleet.as_ref().and_then(|it| it.health.clone());
    Ok(Json(state))
}

/// Creates the fleet in etcd with revision 1, and joins it.
#[utoipa::path(post, path = "/v1/fleet/init", request_body = FleetInitRequest, responses((status = 200, body = FleetRevisionInfo), ChangeFailures))]
pub(super) async fn init(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<FleetInitRequest>,
) -> JsonResult<FleetRevisionInfo> {
    let fleet = engine.fleet()?;
    let text = match &request.text {
        Some(text) => Some(vips_of(text)?),
        None => {
            vips_of(&engine.revision(None).await?.text)?;
            None
        }
    };
    let request = FleetInitRequest { text, ..request };
    let created = fleet.init(request, caller.to_string()).await?;
    Ok(Json(created))
}

/// Joins the fleet, and applies its head; also accepts a fleet that this node refused.
#[utoipa::path(post, path = "/v1/fleet/join", request_body = EmptyRequest, responses((status = 200), ChangeFailures))]
pub(super) async fn join(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> JsonResult<()> {
    Ok(Json(engine.fleet()?.join(caller.to_string()).await?))
}

/// A node to remove from the fleet.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FleetLeaveRequest {
    /// Its name; if absent, this node.
    node: Option<String>,
}

/// Removes a node from the fleet. It keeps its configuration.
#[utoipa::path(post, path = "/v1/fleet/leave", request_body = FleetLeaveRequest, responses((status = 200), ChangeFailures))]
pub(super) async fn leave(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<FleetLeaveRequest>,
) -> JsonResult<()> {
    let left = engine.fleet()?.leave(request.node, caller.to_string());
    Ok(Json(left.await?))
}

/// Plans a configuration on all live nodes. A node that refuses it is no failure.
#[utoipa::path(post, path = "/v1/fleet/plan", request_body = FleetPlanRequest, responses((status = 200, body = FleetPlan), ChangeFailures))]
pub(super) async fn plan(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<FleetPlanRequest>,
) -> JsonResult<FleetPlan> {
    let text = vips_of(&request.text)?;
    let request = FleetPlanRequest { text, ..request };
    let plan = engine.fleet()?.plan(request, caller.to_string()).await?;
    Ok(Json(plan))
}

/// Asks all live nodes what they would do with a packet.
#[utoipa::path(post, path = "/v1/fleet/explain", request_body = ExplainRequest, responses((status = 200, body = FleetExplanation), ChangeFailures))]
pub(super) async fn explain(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<ExplainRequest>,
) -> JsonResult<FleetExplanation> {
    let caller = caller.to_string();
    let explained = engine.fleet()?.explain(request, &caller).await?;
    Ok(Json(explained))
}

/// Begins a rollout. The state of the fleet has its progress.
#[utoipa::path(post, path = "/v1/fleet/apply", request_body = FleetApplyRequest, responses((status = 200, body = FleetStarted), ChangeFailures))]
pub(super) async fn apply(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<FleetApplyRequest>,
) -> JsonResult<FleetStarted> {
    let text = vips_of(&request.text)?;
    let request = FleetApplyRequest { text, ..request };
    let started = engine.fleet()?.apply(request, caller.to_string()).await?;
    Ok(Json(started))
}

/// Confirms a rollout that waits for it.
#[utoipa::path(post, path = "/v1/fleet/confirm", request_body = EmptyRequest, responses((status = 200, body = FleetStarted), ChangeFailures))]
pub(super) async fn confirm(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> JsonResult<FleetStarted> {
    Ok(Json(engine.fleet()?.confirm(caller.to_string()).await?))
}

/// Holds the next wave of the rollout.
#[utoipa::path(post, path = "/v1/fleet/pause", request_body = EmptyRequest, responses((status = 200, body = FleetStarted), ChangeFailures))]
pub(super) async fn pause(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> JsonResult<FleetStarted> {
    Ok(Json(engine.fleet()?.pause(caller.to_string()).await?))
}

/// Continues a paused rollout.
#[utoipa::path(post, path = "/v1/fleet/resume", request_body = EmptyRequest, responses((status = 200, body = FleetStarted), ChangeFailures))]
pub(super) async fn resume(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> JsonResult<FleetStarted> {
    Ok(Json(engine.fleet()?.resume(caller.to_string()).await?))
}

/// Undoes a running rollout, or rolls an earlier fleet revision out.
#[utoipa::path(post, path = "/v1/fleet/rollback", request_body = FleetRollbackRequest, responses((status = 200, body = FleetStarted), ChangeFailures))]
pub(super) async fn rollback(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<FleetRollbackRequest>,
) -> JsonResult<FleetStarted> {
    let started = engine
        .fleet()?
        .rollback(request, caller.to_string())
        .await?;
    Ok(Json(started))
}

/// Writes the fleet into an etcd that was wiped or restored, from what this node confirmed last.
#[utoipa::path(post, path = "/v1/fleet/import", request_body = EmptyRequest, responses((status = 200, body = FleetRevisionInfo), ChangeFailures))]
pub(super) async fn import(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> JsonResult<FleetRevisionInfo> {
    Ok(Json(engine.fleet()?.import(caller.to_string()).await?))
}

/// The fleet revisions that etcd has, newest first.
#[utoipa::path(get, path = "/v1/fleet/revisions", responses((status = 200, body = Vec<FleetRevisionInfo>), ReadFailures))]
pub(super) async fn revisions(State(engine): State<Engine>) -> JsonResult<Vec<FleetRevisionInfo>> {
    Ok(Json(engine.fleet()?.history().await?))
}

/// A fleet revision with its text.
#[utoipa::path(
    get, path = "/v1/fleet/revisions/{number}",
    params(("number" = FleetRevisionNumber, Path, description = "Its number.")),
    responses((status = 200, body = FleetRevision), ReadFailures)
)]
pub(super) async fn revision(
    State(engine): State<Engine>,
    Segments(number): Segments<FleetRevisionNumber>,
) -> JsonResult<FleetRevision> {
    Ok(Json(engine.fleet()?.revision(Some(number)).await?))
}

/// The head with its text.
#[utoipa::path(get, path = "/v1/fleet/config", responses((status = 200, body = FleetRevision), ReadFailures))]
pub(super) async fn config(State(engine): State<Engine>) -> JsonResult<FleetRevision> {
    Ok(Json(engine.fleet()?.revision(None).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FleetDiffQuery {
    /// The older side; by default the parent of the newer one.
    from: Option<FleetRevisionNumber>,
    /// The newer side; by default the head.
    to: Option<FleetRevisionNumber>,
}

/// The difference of two fleet revisions.
#[utoipa::path(get, path = "/v1/fleet/diff", params(FleetDiffQuery), responses((status = 200, body = FleetDiff), ReadFailures))]
pub(super) async fn diff(
    State(engine): State<Engine>,
    Parameters(query): Parameters<FleetDiffQuery>,
) -> JsonResult<FleetDiff> {
    let fleet = engine.fleet()?;
    let to = fleet.revision(query.to).await?;
    let number = to.info.number;
    let Some(from) = query.from.or(to.info.parent) else {
        let message = format!("fleet revision {number} has no parent: name the older side");
        return Err(ApiError::new(ErrorCode::NotFound, message).into());
    };
    let from = fleet.revision(Some(from)).await?;
    let name = |number| format!("fleet revision {number}");
    let (old, new) = (name(from.info.number), name(number));
    Ok(Json(FleetDiff {
        unified: revision::unified(&from.text, &to.text, &old, &new),
        from: from.info.number,
        to: number,
    }))
}

/// Checks the endpoints of etcd one by one, and the fleet.
#[utoipa::path(get, path = "/v1/fleet/doctor", responses((status = 200, body = FleetDoctor), ReadFailures))]
pub(super) async fn doctor(State(engine): State<Engine>) -> JsonResult<FleetDoctor> {
    Ok(Json(engine.fleet()?.doctor().await))
}

/// The VIPs of a text, which may be a whole configuration.
fn vips_of(text: &str) -> Result<String, Failure> {
    fleet::shared_part(text)
        .map_err(|error| ApiError::new(ErrorCode::InvalidConfig, error.to_string()).into())
}
