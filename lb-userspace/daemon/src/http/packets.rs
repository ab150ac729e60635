//! Routes about packets: captures, sampled flows, and limits that these suggest.

use std::convert::Infallible;

use axum::{
    Json,
    body::Body as Stream,
    extract::{ConnectInfo, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    criteria,
    failure::{Body, ChangeFailures, Failure, Parameters, ReadFailures},
    routes::{EmptyRequest, JsonResult},
};
use crate::{caller::Caller, engine::Engine};
use lb_api::{ApiError, CaptureRequest, LimitSuggestion, SampledFlow};

/// Media type of a capture.
const PCAPNG: &str = "application/x-pcapng";

/// Captures packets. The response is a stream of pcapng; it ends when the capture does. For root only.
#[utoipa::path(
    post, path = "/v1/capture", request_body = CaptureRequest,
    responses(
        (status = 200, description = "The capture.", content_type = PCAPNG, body = Vec<u8>),
        (status = 403, description = "Only root may capture packets.", body = ApiError),
        ChangeFailures,
    )
)]
pub(super) async fn capture(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<CaptureRequest>,
) -> Result<Response, Failure> {
    check_root(&caller)?;
    let criteria = criteria::of(request)?;
    let capture = engine.capture(criteria, caller).await?;
    let chunks = stream::unfold(capture, async |mut capture| {
        let chunk = capture.next().await?;
        Some((Ok::<_, Infallible>(chunk), capture))
    });
    let body = Stream::from_stream(chunks);
    Ok(([(CONTENT_TYPE, PCAPNG)], body).into_response())
}

/// Captures contain the packets' payload.
fn check_root(caller: &Caller) -> Result<(), Failure> {
    if caller.is_root() {
        return Ok(());
    }
    let message = "only root may capture packets";
    Err(Failure::with_status(StatusCode::FORBIDDEN, message))
}

/// Ends the running capture, whoever started it; its client gets the end of the file.
#[utoipa::path(
    post, path = "/v1/capture/stop", request_body = EmptyRequest,
    responses(
        (status = 200, description = "The capture ends.", body = ()),
        (status = 403, description = "Only root may capture packets.", body = ApiError),
        ChangeFailures,
    )
)]
pub(super) async fn stop_capture(
    State(engine): State<Engine>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(EmptyRequest {}): Body<EmptyRequest>,
) -> JsonResult<()> {
    check_root(&caller)?;
    Ok(Json(engine.stop_capture(caller).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FlowsQuery {
    /// Only flows of this VIP.
    vip: Option<String>,
    /// Only flows that go to this backend.
    backend: Option<String>,
}

/// The flows that the data path samples, the ones with most bytes first.
#[utoipa::path(get, path = "/v1/flows", params(FlowsQuery), responses((status = 200, body = Vec<SampledFlow>), ReadFailures))]
pub(super) async fn flows(
    State(engine): State<Engine>,
    Parameters(query): Parameters<FlowsQuery>,
) -> JsonResult<Vec<SampledFlow>> {
    let flows = engine.flows(query.vip, query.backend).await?.into_iter();
    Ok(Json(flows.map(Into::into).collect()))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LimitsQuery {
    /// Only limits for this VIP.
    vip: Option<String>,
}

/// Limits that would have limited nobody since the controller started, or in the last hour.
#[utoipa::path(get, path = "/v1/limits/suggest", params(LimitsQuery), responses((status = 200, body = Vec<LimitSuggestion>), ReadFailures))]
pub(super) async fn suggest_limits(
    State(engine): State<Engine>,
    Parameters(query): Parameters<LimitsQuery>,
) -> JsonResult<Vec<LimitSuggestion>> {
    Ok(Json(engine.suggest_limits(query.vip).await?))
}
