//! Requests about the fleet.

use serde_json::json;

use super::{Client, Result};
use crate::{
    ExplainRequest, FleetApplyRequest, FleetDiff, FleetDoctor, FleetExplanation, FleetInitRequest,
    FleetPlan, FleetPlanRequest, FleetRevision, FleetRevisionInfo, FleetRevisionNumber,
    FleetRollbackRequest, FleetStarted, FleetState,
};

impl Client {
    /// `GET /v1/fleet`.
    pub async fn fleet(&self) -> Result<FleetState> {
        self.get("/v1/fleet").await
    }

    /// `POST /v1/fleet/init`.
    pub async fn fleet_init(&self, request: &FleetInitRequest) -> Result<FleetRevisionInfo> {
        self.post("/v1/fleet/init", request).await
    }

    /// `POST /v1/fleet/join`.
    pub async fn fleet_join(&self) -> Result<()> {
        self.post("/v1/fleet/join", &json!({})).await
    }

    /// `POST /v1/fleet/leave`: removes a node, or the one that is asked.
    pub async fn fleet_leave(&self, node: Option<&str>) -> Result<()> {
        self.post("/v1/fleet/leave", &json!({ "node": node })).await
    }

    /// `POST /v1/fleet/plan`. A node that refuses the text is not an error.
    pub async fn fleet_plan(&self, request: &FleetPlanRequest) -> Result<FleetPlan> {
        self.post("/v1/fleet/plan", request).await
    }

    /// `POST /v1/fleet/explain`.
    pub async fn fleet_explain(&self, request: &ExplainRequest) -> Result<FleetExplanation> {
        self.post("/v1/fleet/explain", request).await
    }

    /// `POST /v1/fleet/apply`.
    pub async fn fleet_apply(&self, request: &FleetApplyRequest) -> Result<FleetStarted> {
        self.post("/v1/fleet/apply", request).await
    }

    /// `POST /v1/fleet/confirm`.
    pub async fn fleet_confirm(&self) -> Result<FleetStarted> {
        self.post("/v1/fleet/confirm", &json!({})).await
    }

    /// `POST /v1/fleet/pause`.
    pub async fn fleet_pause(&self) -> Result<FleetStarted> {
        self.post("/v1/fleet/pause", &json!({})).await
    }

    /// `POST /v1/fleet/resume`.
    pub async fn fleet_resume(&self) -> Result<FleetStarted> {
        self.post("/v1/fleet/resume", &json!({})).await
    }

    /// `POST /v1/fleet/rollback`.
    pub async fn fleet_rollback(&self, request: &FleetRollbackRequest) -> Result<FleetStarted> {
        self.post("/v1/fleet/rollback", request).await
    }

    /// `POST /v1/fleet/import`.
    pub async fn fleet_import(&self) -> Result<FleetRevisionInfo> {
        self.post("/v1/fleet/import", &json!({})).await
    }

    /// `GET /v1/fleet/revisions`: newest first.
    pub async fn fleet_revisions(&self) -> Result<Vec<FleetRevisionInfo>> {
        self.get("/v1/fleet/revisions").await
    }

    /// `GET /v1/fleet/revisions/{n}`, or `GET /v1/fleet/config`: the head.
    pub async fn fleet_revision(
        &self,
        number: Option<FleetRevisionNumber>,
    ) -> Result<FleetRevision> {
        match number {
            Some(number) => self.get(&format!("/v1/fleet/revisions/{number}")).await,
            None => self.get("/v1/fleet/config").await,
        }
    }

    /// `GET /v1/fleet/diff`: by default from the parent of `to`, to the head.
    pub async fn fleet_diff(
        &self,
        from: Option<FleetRevisionNumber>,
        to: Option<FleetRevisionNumber>,
    ) -> Result<FleetDiff> {
        let from = from.map(|from| format!("from={from}"));
        let to = to.map(|to| format!("to={to}"));
        let query: Vec<String> = from.into_iter().chain(to).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        self.get(&format!("/v1/fleet/diff{mark}{}", query.join("&")))
            .await
    }

    /// `GET /v1/fleet/doctor`.
    pub async fn fleet_doctor(&self) -> Result<FleetDoctor> {
        self.get("/v1/fleet/doctor").await
    }
}
