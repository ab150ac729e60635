//! `fleet plan`: asks all live nodes.

use std::time::{Duration, Instant};

use lb_api::{FleetNodePlan, FleetPlan, FleetPlanRequest};
use tracing::info;

use super::{Result, delete, random};
use crate::{agent::Running, digest, member::put, records::Question, store::Txn};

/// Time for the nodes to answer.
const PATIENCE: Duration = Duration::from_secs(30);

impl Running {
    pub(crate) async fn plan(&self, request: FleetPlanRequest, who: &str) -> Result<FleetPlan> {
        let memory = self.memory().await?;
        let snapshot = self.snapshot().await?;
        let (_, head) = self.joined(&snapshot, &memory)?;
        let base = head.revision;
        self.write_text(&request.text).await?;
        let key = format!("preflights/{}", random());
        let question = Question {
            digest: digest(&request.text),
            force: request.force.clone(),
            override_local: request.override_local,
        };
        let txn = Txn {
            conditions: Vec::new(),
            writes: vec![put(key.clone(), &question, true)],
        };
        self.commit(&txn).await?;
        info!(who, "asking the fleet to plan a text");
        // What is wrong here is wrong everywhere, and has a plan or an error with more detail.
        let plan = self.plan_here(&request.text, &request.force).await;
        let nodes = match plan {
            Ok(_) => self.answers(&key).await,
            Err(_) => Ok((Vec::new(), Vec::new())),
        };
        let mut keys = vec![delete(key.clone())];
        if let Ok((nodes, _)) = &nodes {
            keys.extend(
                nodes
                    .iter()
                    .map(|node| delete(format!("{key}/{}", node.node))),
            );
        }
        let txn = Txn {
            conditions: Vec::new(),
            writes: keys,
        };
        // They end with their leases otherwise.
        let _ = self.commit(&txn).await;
        let (nodes, absent) = nodes?;
        Ok(FleetPlan {
            base,
            plan: Some(plan?),
            nodes,
            absent,
        })
    }

    /// The answers, and the nodes that are away.
    async fn answers(&self, key: &str) -> Result<(Vec<FleetNodePlan>, Vec<String>)> {
        let id = key.strip_prefix("preflights/").unwrap_or(key);
        let began = Instant::now();
        loop {
            let known = self.shared.snapshot();
            let Some(Ok(snapshot)) = known.as_deref() else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let answers = snapshot.questions.get(id).map(|entry| &entry.answers);
            let live: Vec<&String> = snapshot.live().map(|(id, ..)| id).collect();
            let is_missing = |node: &String| answers.is_none_or(|a| !a.contains_key(node));
            let is_late = began.elapsed() > PATIENCE;
            if !is_late && (live.is_empty() || live.iter().any(|node| is_missing(node))) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let refusal = |node: &String| match answers.and_then(|answers| answers.get(node)) {
                Some(answer) => answer.refusal.clone(),
                None => Some(format!("no answer within {} s", PATIENCE.as_secs())),
            };
            let nodes = live.iter().map(|node| FleetNodePlan {
                node: (*node).clone(),
                refusal: refusal(node),
            });
            let nodes = nodes.collect();
            let joined = snapshot.nodes.iter();
            let absent = joined
                .filter(|(_, node)| node.spec.is_some() && node.live.is_none())
                .map(|(id, _)| id.clone());
            return Ok((nodes, absent.collect()));
        }
    }
}
