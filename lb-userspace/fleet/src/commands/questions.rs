//! `fleet plan` and `fleet explain`: ask all live nodes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_api::{
    ExplainRequest, Explanation, FleetExplanation, FleetNodeExplanation, FleetNodePlan,
    FleetNodeState, FleetPlan, FleetPlanRequest,
};
use tracing::info;

use super::{Result, away, delete, node_error, random};
use crate::{
    agent::{Request, Running},
    digest,
    member::put,
    records::{Answer, Question},
    snapshot::Snapshot,
    store::Txn,
};

/// Time for the nodes to plan a text.
const PLAN: Duration = Duration::from_secs(30);

/// Time for the nodes to explain a packet.
const EXPLAIN: Duration = Duration::from_secs(5);

/// Time to live of a question in seconds.
const QUESTION_S: i64 = 60;

/// Time between two looks at the answers.
const LOOK: Duration = Duration::from_millis(50);

/// The answers of the live nodes, and the nodes that are away.
type Answers = (BTreeMap<String, Answer>, Vec<String>);

impl Running {
    pub(crate) async fn plan(&self, request: FleetPlanRequest, who: &str) -> Result<FleetPlan> {
        let memory = self.memory().await?;
        let snapshot = self.snapshot().await?;
        let (_, head) = self.joined(&snapshot, &memory)?;
        let base = head.revision;
        // What is wrong here is wrong everywhere, and has a plan or an error with more detail.
        let plan = self.plan_here(&request.text, &request.force).await?;
        self.write_text(&request.text).await?;
        info!(who, "asking the fleet to plan a text");
        let question = Question::Plan {
            digest: digest(&request.text),
            force: request.force,
            override_local: request.override_local,
        };
        let (answers, absent) = self.ask_all(&question, PLAN).await?;
        let nodes = answers.into_iter();
        let nodes = nodes.map(|(node, Answer { refusal, .. })| FleetNodePlan { node, refusal });
        Ok(FleetPlan {
            base,
            plan: Some(plan),
            nodes: nodes.collect(),
            absent,
        })
    }

    pub(crate) async fn explain(
        &self,
        request: ExplainRequest,
        who: &str,
    ) -> Result<FleetExplanation> {
        let memory = self.memory().await?;
        let snapshot = self.snapshot().await?;
        self.joined(&snapshot, &memory)?;
        // What is no flow here is none anywhere.
        let here = self.ask(|reply| Request::Explain(request.clone(), reply));
        here.await?.map_err(node_error)?;
        info!(who, request.flow, "asking the fleet to explain a packet");
        let ExplainRequest { flow, syn } = request;
        let question = Question::Explain { flow, syn };
        let (answers, absent) = self.ask_all(&question, EXPLAIN).await?;
        let nodes = answers.into_iter();
        let nodes: Vec<_> = nodes
            .map(|(node, answer)| FleetNodeExplanation {
                node,
                explanation: answer.explanation,
                error: answer.refusal,
            })
            .collect();
        let mut decisions = nodes.iter().filter_map(|it| it.explanation.as_ref());
        let first = decisions.next().map(decision);
        let agree = first.is_some() && decisions.all(|other| Some(decision(other)) == first);
        Ok(FleetExplanation {
            agree,
            nodes,
            absent,
        })
    }

    /// Asks all nodes, and waits until each live one has answered, or for `patience`.
    async fn ask_all(&self, question: &Question, patience: Duration) -> Result<Answers> {
        let id = random();
        let key = format!("preflights/{id}");
        let ask = Txn {
            conditions: Vec::new(),
            writes: vec![put(key.clone(), question, true)],
        };
        // A client that goes away leaves the question behind: it ends with its own lease.
        let client = &self.shared.client;
        let lease = client.grant(QUESTION_S).await;
        let lease = lease.map_err(|error| away(&error))?;
        let asked = client.commit(&ask, lease).await;
        asked.map_err(|error| away(&error))?;
        let (answers, absent) = self.answers(&id, patience).await;
        let keys = answers.keys().map(|node| format!("{key}/{node}"));
        let writes = keys.chain([key.clone()]).map(delete);
        let txn = Txn {
            conditions: Vec::new(),
            writes: writes.collect(),
        };
        // The leader deletes them otherwise.
        let _ = self.commit(&txn).await;
        Ok((answers, absent))
    }

    async fn answers(&self, id: &str, patience: Duration) -> Answers {
        let began = Instant::now();
        loop {
            let is_late = began.elapsed() > patience;
            if let Some(Ok(snapshot)) = self.shared.snapshot().as_deref() {
                let answers = given(snapshot, id);
                let is_complete = !answers.is_empty() && answers.values().all(Option::is_some);
                if is_late || is_complete {
                    let late = || Answer {
                        refusal: Some(format!("no answer within {} s", patience.as_secs())),
                        ..Answer::default()
                    };
                    let answers = answers.into_iter();
                    let answers = answers.map(|(node, it)| (node, it.unwrap_or_else(late)));
                    let joined = snapshot.nodes.iter();
                    let absent = joined
                        .filter(|(_, node)| node.spec.is_some() && node.live.is_none())
                        .map(|(node, _)| node.clone());
                    return (answers.collect(), absent.collect());
                }
            } else if is_late {
                return Answers::default();
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What the live nodes have answered so far. One that refuses the fleet answers nothing.
fn given(snapshot: &Snapshot, id: &str) -> BTreeMap<String, Option<Answer>> {
    let answers = snapshot.questions.get(id).map(|entry| &entry.answers);
    let live = snapshot.live().map(|(node, _, live)| {
        let answer = answers.and_then(|answers| answers.get(node)).cloned();
        let refuses = || Answer {
            refusal: Some(format!("the node refuses the fleet: {}", live.reason)),
            ..Answer::default()
        };
        let is_refusing = live.state == FleetNodeState::Refused;
        let answer = answer.or_else(|| is_refusing.then(refuses));
        (node.clone(), answer)
    });
    live.collect()
}

/// What two nodes must agree on.
fn decision(of: &Explanation) -> (Option<&str>, Option<&str>, &str) {
    let verdict = match of.verdict.as_str() {
        "redirect" => "tx",
        other => other,
    };
    (of.vip.as_deref(), of.backend.as_deref(), verdict)
}
