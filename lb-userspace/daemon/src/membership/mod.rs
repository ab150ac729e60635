//! Sources of members (`backends_from`): asks DNS, and keeps the last answers on disk.
//!
//! ```text
//! followed ──► Asker ── a task per source ──► dns ──► Engine::source_answered ──► engine/membership
//!                            └── sleeps as long as the engine says ──┘
//! ```
//!
//! What an answer changes is decided by `lb_model::membership`; it is installed by the engine, like
//! everything that changes the node.

pub(crate) mod dns;
pub(crate) mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_model::{
    config::Sources,
    membership::{MemberSource, SourceKey},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::engine::Engine;

/// What the active configuration wants asked, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) sources: BTreeSet<SourceKey>,
    pub(crate) settings: Sources,
}

/// Asks the sources of the active configuration until the engine ends.
pub(crate) async fn run(engine: Engine, mut followed: watch::Receiver<Followed>) {
    let mut asker = Asker {
        engine,
        settings: Sources::default(),
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    loop {
        let now = followed.borrow_and_update().clone();
        asker.follow(now);
        if followed.changed().await.is_err() {
            return;
        }
    }
}

struct Asker {
    engine: Engine,
    settings: Sources,
    running: BTreeMap<SourceKey, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Asker {
    fn follow(&mut self, followed: Followed) {
        let Followed { sources, settings } = followed;
        let has_changed = settings != self.settings;
        self.settings = settings;
        self.running.retain(|key, task| {
            let stays = sources.contains(key) && !has_changed;
            if !stays {
                task.abort();
            }
            stays
        });
        // Ended tasks are not kept.
        while self.tasks.try_join_next().is_some() {}
        for key in sources {
            let is_asked = !matches!(key.source, MemberSource::Api { .. });
            if is_asked && !self.running.contains_key(&key) {
                let (engine, settings) = (self.engine.clone(), self.settings.clone());
                let task = self.tasks.spawn(ask(engine, key.clone(), settings));
                self.running.insert(key, task);
            }
        }
    }
}

/// Asks one source again and again.
async fn ask(engine: Engine, key: SourceKey, settings: Sources) {
    loop {
        let answer = dns::ask(&key, &settings).await;
        let Some(pause) = engine.source_answered(key.clone(), answer).await else {
            return;
        };
        sleep(spread(pause)).await;
    }
}

/// A pause that is up to a tenth longer, so that the nodes of a site do not ask all at once.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + 0.1 * rand::random::<f64>())
}
