//! Questions to all nodes: `fleet plan` and `fleet explain`.

use lb_api::ExplainRequest;

use super::{Action, Asked, Input, Member, Then, put};
use crate::{
    records::{Answer, Question},
    snapshot::Snapshot,
    store::{Condition, Txn},
};

impl Member {
    /// Answers `fleet explain`, whatever the node is doing.
    pub(super) fn explain(&self, input: &Input<'_>, snapshot: &Snapshot) -> Option<Action> {
        let is_explain = |question: &Question| matches!(question, Question::Explain { .. });
        let (id, question) = self.open(input, snapshot, is_explain)?;
        let Question::Explain { flow, syn } = question.clone() else {
            return None;
        };
        Some(self.known(id).unwrap_or_else(|| Action::Explain {
            id: id.to_owned(),
            packet: ExplainRequest { flow, syn },
        }))
    }

    /// Answers `fleet plan`.
    pub(super) fn plan(&self, input: &Input<'_>, snapshot: &Snapshot) -> Option<Action> {
        let is_plan = |question: &Question| matches!(question, Question::Plan { .. });
        let (id, question) = self.open(input, snapshot, is_plan)?;
        let Question::Plan {
            digest,
            force,
            override_local,
        } = question
        else {
            return None;
        };
        if let Some(known) = self.known(id) {
            return Some(known);
        }
        let refusal = match self.local_refusal(input, *override_local) {
            Some(None) => {
                return Some(Action::Plan {
                    asked: Asked::Question(id.to_owned()),
                    digest: digest.clone(),
                    force: force.clone(),
                });
            }
            Some(refusal) => refusal,
            None => Some(format!("the node is {}", self.state.0.as_str())),
        };
        let answer = Answer {
            refusal,
            ..Answer::default()
        };
        Some(self.say(id, &answer))
    }

    /// A question that this node has not answered.
    fn open<'s>(
        &self,
        input: &Input<'_>,
        snapshot: &'s Snapshot,
        is_wanted: impl Fn(&Question) -> bool,
    ) -> Option<(&'s str, &'s Question)> {
        let open = snapshot.questions.iter().filter_map(|(id, entry)| {
            let question = &entry.question.as_ref()?.value;
            let is_answered = entry.answers.contains_key(&self.settings.node);
            (!is_answered && is_wanted(question)).then_some((id.as_str(), question))
        });
        open.take(usize::from(input.lease != 0)).next()
    }

    /// The answer, if the node has made it already.
    fn known(&self, id: &str) -> Option<Action> {
        let known = self.answered.as_ref().filter(|(of, _)| of == id);
        known.map(|(_, answer)| self.say(id, answer))
    }

    fn say(&self, id: &str, answer: &Answer) -> Action {
        let node = &self.settings.node;
        let txn = Txn {
            // So that no answer outlives its question by more than the lease.
            conditions: vec![Condition::Exists(format!("preflights/{id}"))],
            writes: vec![put(format!("preflights/{id}/{node}"), answer, true)],
        };
        Action::Commit(txn, Then::Done)
    }
}
