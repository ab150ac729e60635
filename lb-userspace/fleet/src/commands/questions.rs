//! `fleet plan`: asks all live nodes.

use std::time::{Duration, Instant};

use lb_api::{FleetNodePlan, FleetPlan, FleetPlanRequest};
use tracing::info;

use super::{Result, away, delete, random};
use crate::{agent::Running, digest, member::put, records::Question, store::Txn};

/// Time for the nodes to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time to live of a question in seconds.
const QUESTION_S: i64 = 60;

impl Running {
    pub(crate) async fn plan(&self, request: FleetPlanRequest, who: &str) -> Result<FleetPlan> {
        let memory = self.memory().await?;
        let snapshot = self.snapshot().await?;
        let (_, head) = self.joined(&snapshot, &memory)?;
        let base = head.revision;
        // What is wrong here is wrong everywhere, and has a plan or an error with more detail.
        let plan = self.plan_here(&request.text, &request.force).await?;
        self.write_text(&request.text).await?;
        let key = format!("preflights/{}", random());
        let question = Question {
            digest: digest(&request.text),
            force: request.force.clone(),
            override_local: request.override_local,
        };
        let ask = Txn {
            conditions: Vec::new(),
            writes: vec![put(key.clone(), &question, true)],
        };
        // A client that goes away leaves the question behind: it ends with its own lease.
        let client = &self.shared.client;
        let lease = client.grant(QUESTION_S).await;
        let lease = lease.map_err(|error| away(&error))?;
        let asked = client.commit(&ask, lease).await;
        asked.map_err(|error| away(&error))?;
        info!(who, "asking the fleet to plan a text");
        let (nodes, absent) = self.answers(&key).await;
        let mut keys = vec![delete(key.clone())];
        let answers = nodes.iter().map(|node| format!("{key}/{}", node.node));
        keys.extend(answers.map(delete));
        let txn = Txn {
            conditions: Vec::new(),
            writes: keys,
        };
        // The leader deletes them otherwise.
        let _ = self.commit(&txn).await;
        Ok(FleetPlan {
            base,
            plan: Some(plan),
            nodes,
            absent,
        })
    }

    /// The answers, and the nodes that are away.
    async fn answers(&self, key: &str) -> (Vec<FleetNodePlan>, Vec<String>) {
        let id = key.strip_prefix("preflights/").unwrap_or(key);
        let began = Instant::now();
        loop {
            let is_late = began.elapsed() > PATIENCE;
            let known = self.shared.snapshot();
            let snapshot = match known.as_deref() {
                Some(Ok(snapshot)) => snapshot,
                _ if is_late => return (Vec::new(), Vec::new()),
                _ => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let answers = snapshot.questions.get(id).map(|entry| &entry.answers);
            let live: Vec<&String> = snapshot.live().map(|(id, ..)| id).collect();
            let is_missing = |node: &String| answers.is_none_or(|a| !a.contains_key(node));
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
            return (nodes, absent.collect());
        }
    }
}
