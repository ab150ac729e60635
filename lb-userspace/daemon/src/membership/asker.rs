//! A task for each source of the active configuration, which asks it again and again.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use lb_model::{
    config::Sources,
    membership::{MemberSource, SourceKey},
};
use tokio::{
    select,
    sync::watch,
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tracing::error;

use super::dns::{self, AskError, Found};
use crate::engine::Engine;

/// What the active configuration wants asked, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) sources: BTreeSet<SourceKey>,
    pub(crate) settings: Sources,
}

/// Who is asked, and who takes the answers.
pub(super) trait Questions: Clone + Send + Sync + 'static {
    fn ask(
        &self,
        key: &SourceKey,
        settings: &Sources,
    ) -> impl Future<Output = Result<Found, AskError>> + Send;

    /// Returns when to ask again; none if there is nobody left to answer to.
    fn answered(
        &self,
        key: &SourceKey,
        answer: Result<Found, AskError>,
    ) -> impl Future<Output = Option<Duration>> + Send;
}

impl Questions for Engine {
    async fn ask(&self, key: &SourceKey, settings: &Sources) -> Result<Found, AskError> {
        dns::ask(key, settings).await
    }

    async fn answered(&self, key: &SourceKey, answer: Result<Found, AskError>) -> Option<Duration> {
        self.source_answered(key.clone(), answer).await
    }
}

/// Asks the sources of the active configuration until its sender is gone.
pub(super) async fn run(questions: impl Questions, mut followed: watch::Receiver<Followed>) {
    let now = followed.borrow_and_update().clone();
    let mut asker = Asker {
        questions,
        settings: watch::Sender::new(now.settings.clone()),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    asker.follow(now);
    loop {
        select! {
            changed = followed.changed() => match changed {
                Ok(()) => {
                    let now = followed.borrow_and_update().clone();
                    asker.follow(now);
                }
                Err(_) => return,
            },
            Some(ended) = asker.tasks.join_next() => {
                if let Err(error) = ended {
                    asker.start_again(error);
                }
            }
        }
    }
}

struct Asker<Q> {
    questions: Q,
    settings: watch::Sender<Sources>,
    running: BTreeMap<SourceKey, AbortHandle>,
    tasks: JoinSet<()>,
}

impl<Q: Questions> Asker<Q> {
    /// Starts and ends tasks. Those of sources that stay go on: they see changed settings themselves.
    fn follow(&mut self, followed: Followed) {
        let Followed { sources, settings } = followed;
        self.settings.send_if_modified(|now| {
            let has_changed = *now != settings;
            *now = settings;
            has_changed
        });
        self.running.retain(|key, task| {
            let stays = sources.contains(key);
            if !stays {
                task.abort();
            }
            stays
        });
        for key in sources {
            let is_asked = !matches!(key.source, MemberSource::Api { .. });
            if is_asked && !self.running.contains_key(&key) {
                let (questions, settings) = (self.questions.clone(), self.settings.subscribe());
                let task = ask(questions, key.clone(), settings);
                self.running.insert(key, self.tasks.spawn(task));
            }
        }
    }

    /// Starts the task of a source again if it has panicked. That counts as a failed question, so that an
    /// operator sees it, and does not happen more often than the source may be asked.
    fn start_again(&mut self, error: JoinError) {
        let id = error.id();
        let Ok(panic) = error.try_into_panic() else {
            // The source is no longer used.
            return;
        };
        let key = self.running.iter().find(|(_, task)| task.id() == id);
        let Some((key, _)) = key else {
            return;
        };
        let (key, why) = (key.clone(), message(&*panic));
        error!(source = %key, why, "a question to a source panicked; it is asked again");
        let (questions, settings) = (self.questions.clone(), self.settings.subscribe());
        let asked = key.clone();
        let task = async move {
            let pause = settings.borrow().interval_min;
            sleep(pause).await;
            let failed = AskError::panicked(&asked, &why);
            if let Some(pause) = questions.answered(&asked, Err(failed)).await {
                sleep(pause).await;
                ask(questions, asked, settings).await;
            }
        };
        self.running.insert(key, self.tasks.spawn(task));
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// Asks one source again and again.
async fn ask(questions: impl Questions, key: SourceKey, mut settings: watch::Receiver<Sources>) {
    loop {
        let mut asked_with = settings.borrow_and_update().clone();
        let answer = questions.ask(&key, &asked_with).await;
        let Some(pause) = questions.answered(&key, answer).await else {
            return;
        };
        let asked_at = Instant::now();
        let mut due = asked_at + spread(pause);
        loop {
            select! {
                () = sleep_until(due) => break,
                changed = settings.changed() => match changed {
                    Ok(()) => {
                        let now = settings.borrow_and_update().clone();
                        due = due_with(&now, &asked_with, asked_at, due);
                        asked_with = now;
                    }
                    Err(_) => return,
                },
            }
        }
    }
}

/// When to ask a source that is `due` after a change of the settings. New servers are asked soon, and a
/// shorter `interval_max` counts at once, but not for all sources in the same moment; `interval_min` holds.
fn due_with(now: &Sources, before: &Sources, asked_at: Instant, due: Instant) -> Instant {
    let soon = Instant::now() + now.interval_min.mul_f64(rand::random());
    let latest = match now.dns_servers == before.dns_servers {
        true => (asked_at + spread(now.interval_max)).max(soon),
        false => soon,
    };
    due.min(latest).max(asked_at + now.interval_min)
}

/// A pause that is up to a tenth longer, so that the nodes of a site do not ask all at once.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + 0.1 * rand::random::<f64>())
}
