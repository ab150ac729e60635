//! A simulated node: what the daemon's engine does, in memory and without packets.
//!
//! Words in a text decide what happens: `refuse=NODE` (its guard refuses), `sick=NODE` (its own trial
//! fails), `resets` (a tenth of the new flows is reset, which only the comparison with others shows).

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use lb_api::{ExplainRequest, ExplainStep, Explanation, Guard, Plan, PlanVerdict};
use lb_fleet::{Facts, How, Node, NodeError, Observed, Outcome, Running, Trial, digest};

/// New flows per second.
const FLOWS_PER_S: f64 = 5_000.0;

#[derive(Clone)]
pub(crate) struct SimNode {
    name: String,
    seed: String,
    engine: Arc<Mutex<Engine>>,
}

#[derive(Debug)]
struct Revision {
    text: String,
    end: End,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Trial {
        bake_until: Instant,
        confirm: Option<Duration>,
        confirm_until: Option<Instant>,
    },
    Kept,
    RolledBack(String),
}

#[derive(Debug)]
struct Engine {
    /// The first is local revision 1.
    revisions: Vec<Revision>,
    /// Index of the active one.
    active: usize,
    parent: usize,
    counted: Instant,
    flows: f64,
    resets: f64,
    /// All texts that were ever active, with the time.
    log: Vec<(Instant, String)>,
}

impl SimNode {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let first = Revision {
            text: text.to_owned(),
            end: End::Kept,
        };
        Self {
            name: name.to_owned(),
            seed: "5eed".to_owned(),
            engine: Arc::new(Mutex::new(Engine {
                revisions: vec![first],
                active: 0,
                parent: 0,
                counted: Instant::now(),
                flows: 0.0,
                resets: 0.0,
                log: vec![(Instant::now(), text.to_owned())],
            })),
        }
    }

    pub(crate) fn with_seed(self, seed: &str) -> Self {
        Self {
            seed: seed.to_owned(),
            ..self
        }
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        let mut engine = self.engine.lock().unwrap();
        engine.judge(&self.name);
        engine
    }

    /// The active text.
    pub(crate) fn active(&self) -> String {
        let engine = self.engine();
        engine.revisions[engine.active].text.clone()
    }

    /// How often the active text changed.
    pub(crate) fn changes(&self) -> usize {
        self.engine().log.len() - 1
    }

    /// When a text was active, and when the next one replaced it.
    pub(crate) fn spans(&self, text: &str) -> Vec<(Instant, Option<Instant>)> {
        let log = self.engine().log.clone();
        let next = |index: usize| log.get(index + 1).map(|(at, _)| *at);
        let entries = log.iter().enumerate().filter(|(_, (_, of))| of == text);
        entries.map(|(index, (at, _))| (*at, next(index))).collect()
    }

    /// Changes the text on the node itself.
    pub(crate) fn change(&self, text: &str) {
        let mut engine = self.engine();
        engine.activate(text, End::Kept);
    }
}

impl Engine {
    fn judge(&mut self, node: &str) {
        let now = Instant::now();
        let elapsed = (now - self.counted).as_secs_f64();
        self.counted = now;
        self.flows += elapsed * FLOWS_PER_S;
        let text = &self.revisions[self.active].text;
        let share = if text.contains("resets") { 0.1 } else { 0.002 };
        self.resets += elapsed * FLOWS_PER_S * share;
        let is_sick = text.contains(&format!("sick={node}"));
        let End::Trial {
            bake_until,
            confirm,
            confirm_until,
        } = &mut self.revisions[self.active].end
        else {
            return;
        };
        if is_sick && now < *bake_until {
            self.roll_back("backend b1 of VIP web went down");
        } else if now >= *bake_until {
            match confirm {
                None => self.revisions[self.active].end = End::Kept,
                Some(time) => {
                    let until = *confirm_until.get_or_insert(*bake_until + *time);
                    if now >= until {
                        self.roll_back("not confirmed in time");
                    }
                }
            }
        }
    }

    fn activate(&mut self, text: &str, end: End) {
        self.parent = self.active;
        self.revisions.push(Revision {
            text: text.to_owned(),
            end,
        });
        self.active = self.revisions.len() - 1;
        self.log.push((Instant::now(), text.to_owned()));
    }

    fn roll_back(&mut self, why: &str) {
        self.revisions[self.active].end = End::RolledBack(why.to_owned());
        self.active = self.parent;
        let text = self.revisions[self.active].text.clone();
        self.log.push((Instant::now(), text));
    }

    fn trial(&mut self, local: u64) -> Result<&mut Revision, NodeError> {
        let index = usize::try_from(local).unwrap() - 1;
        let is_trial = matches!(self.revisions[index].end, End::Trial { .. });
        if !is_trial {
            let message = format!("revision {local} is not on trial");
            return Err(NodeError::Conflict(message));
        }
        Ok(&mut self.revisions[index])
    }
}

fn trial(end: &End) -> Option<Trial> {
    match end {
        End::Trial { bake_until, .. } => Some(match *bake_until > Instant::now() {
            true => Trial::Baking,
            false => Trial::AwaitsConfirm,
        }),
        _ => None,
    }
}

impl Node for SimNode {
    fn facts(&self) -> Facts {
        Facts {
            abi: 7,
            table_size: 65_537,
            seed_fingerprint: self.seed.clone(),
            version: "0.1.0".to_owned(),
        }
    }

    async fn running(&self) -> Result<Running, NodeError> {
        let engine = self.engine();
        let active = &engine.revisions[engine.active];
        Ok(Running {
            digest: digest(&active.text),
            local: engine.active as u64 + 1,
            trial: trial(&active.end),
        })
    }

    async fn text(&self) -> Result<String, NodeError> {
        Ok(self.active())
    }

    async fn outcome(&self, local: u64) -> Result<Outcome, NodeError> {
        let engine = self.engine();
        let index = usize::try_from(local).unwrap() - 1;
        Ok(
            match engine.revisions.get(index).map(|revision| &revision.end) {
                None => Outcome::Unknown,
                Some(End::Kept) => Outcome::Kept,
                Some(End::RolledBack(why)) => Outcome::RolledBack {
                    why: why.clone(),
                    by_operator: false,
                },
                Some(end) => Outcome::Trial(trial(end).expect("it is on trial")),
            },
        )
    }

    async fn plan(&self, text: &str, force: &[Guard]) -> Result<Plan, NodeError> {
        if text.contains("invalid") {
            return Err(NodeError::Invalid(
                "vip[0].port: must be between 0 and 65535".to_owned(),
            ));
        }
        let is_refused = text.contains(&format!("refuse={}", self.name)) && force.is_empty();
        Ok(Plan {
            base: 1,
            verdict: match is_refused {
                true => PlanVerdict::Refused,
                false => PlanVerdict::Allowed,
            },
            vips: Vec::new(),
            other: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, NodeError> {
        let flow = request.flow.clone();
        if !flow.starts_with("tcp ") {
            return Err(NodeError::Invalid(format!("not a flow: {flow}")));
        }
        let backend = self.active().lines().next().map(str::to_owned);
        Ok(Explanation {
            flow,
            steps: ["hash", "slot"]
                .map(|step| ExplainStep {
                    step: step.to_owned(),
                    finding: "1".to_owned(),
                })
                .to_vec(),
            verdict: "tx".to_owned(),
            reason: "FORWARDED".to_owned(),
            vip: Some("web".to_owned()),
            backend,
        })
    }

    async fn apply(&self, text: &str, how: &How) -> Result<Option<u64>, NodeError> {
        let mut engine = self.engine();
        if trial(&engine.revisions[engine.active].end).is_some() {
            return Err(NodeError::Busy {
                message: "a change is on trial".to_owned(),
                remaining_s: 1.0,
            });
        }
        if engine.revisions[engine.active].text.trim() == text.trim() {
            return Ok(None);
        }
        let bake_until = Instant::now() + Duration::from_secs(how.bake_s.into());
        engine.activate(
            text,
            End::Trial {
                bake_until,
                confirm: how.confirm_s.map(|s| Duration::from_secs(s.into())),
                confirm_until: None,
            },
        );
        Ok(Some(engine.active as u64 + 1))
    }

    async fn extend(&self, local: u64, confirm_s: u32) -> Result<(), NodeError> {
        if let End::Trial { confirm_until, .. } = &mut self.engine().trial(local)?.end {
            *confirm_until = Some(Instant::now() + Duration::from_secs(confirm_s.into()));
        }
        Ok(())
    }

    async fn confirm(&self, local: u64) -> Result<(), NodeError> {
        self.engine().trial(local)?.end = End::Kept;
        Ok(())
    }

    async fn roll_back(&self, local: u64, why: &str) -> Result<(), NodeError> {
        let mut engine = self.engine();
        engine.trial(local)?;
        engine.roll_back(why);
        Ok(())
    }

    async fn observed(&self) -> Observed {
        let engine = self.engine();
        Observed {
            new_flows: engine.flows as u64,
            resets: engine.resets as u64,
            drops: 0,
            members_down: 0,
        }
    }
}
