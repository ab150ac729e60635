//! Asks `evenkeel announce` once per second what it announces, for alerts, metrics and the status.
//!
//! It is a process of its own, and either one may be restarted: nothing is kept but the newest answer.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use lb_model::config::Config;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    http::announcer,
    node::{Announced, Announcing},
};

const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take. The announcer never waits for anything, so a later one means that it hangs.
const LIMIT: Duration = Duration::from_secs(2);

type AnnouncerReply = Result<Arc<Announced>, String>;

/// The newest answer of the announcer.
#[derive(Debug)]
pub(super) struct AnnounceWatch {
    /// Its socket; none if nothing is to be announced.
    socket: watch::Sender<Option<PathBuf>>,
    /// None before the first answer.
    answer: watch::Receiver<Option<AnnouncerReply>>,
}

impl AnnounceWatch {
    /// Must be called within a tokio runtime.
    pub(super) fn start() -> Self {
        let (socket, sockets) = watch::channel(None);
        let (answers, answer) = watch::channel(None);
        tokio::spawn(ask(sockets, answers));
        Self { socket, answer }
    }

    /// Adopts the settings of a configuration.
    pub(super) fn configure(&self, config: &Config) {
        let socket = config.announce.as_ref().map(|it| it.socket.clone());
        self.socket.send_if_modified(|known| {
            let is_new = *known != socket;
            *known = socket;
            is_new
        });
    }

    /// What is announced, compared with a configuration. None if that has nothing to announce.
    pub(super) fn state(&self, config: &Config) -> Option<Announcing> {
        let announce = config.announce.as_ref()?;
        let answer = self.answer.borrow().clone()?;
        let vips = config.vips.iter().filter(|vip| vip.announce.enabled);
        Some(Announcing {
            wanted: vips.map(|vip| vip.address).collect::<BTreeSet<_>>(),
            peers: announce.peers.iter().map(|it| it.name.clone()).collect(),
            answer,
        })
    }
}

/// Ends with the watch.
async fn ask(
    mut sockets: watch::Receiver<Option<PathBuf>>,
    answers: watch::Sender<Option<AnnouncerReply>>,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = sockets.changed() => if changed.is_err() {
                return;
            },
        }
        let socket = sockets.borrow_and_update().clone();
        let answer = match socket {
            Some(socket) => Some(announcer::ask(socket, LIMIT).await.map(Arc::new)),
            None => None,
        };
        answers.send_replace(answer);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::UnixListener;

    use super::*;

    fn config(socket: &std::path::Path) -> Config {
        let text = format!(
            "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n[announce]\nvia = \
             \"kernel\"\nsocket = \"{}\"\n",
            socket.display()
        );
        lb_model::config::parse("test.toml", &text).unwrap()
    }

    /// The engine is never delayed: neither by an announcer that accepts and is silent, nor by none.
    #[tokio::test]
    async fn a_silent_announcer_delays_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("announce.sock");
        let _silent = UnixListener::bind(&socket).unwrap();
        let config = config(&socket);
        let mut watch = AnnounceWatch::start();
        watch.configure(&config);
        let start = Instant::now();
        assert_eq!(watch.state(&config), None, "no answer yet");
        assert!(start.elapsed() < Duration::from_millis(100));
        let answer = watch.answer.wait_for(Option::is_some).await.unwrap();
        let why = answer.clone().unwrap().unwrap_err();
        assert!(why.ends_with("within 2 s"), "{why}");
        drop(answer);
        std::fs::remove_file(&socket).unwrap();
        let gone = |it: &Option<AnnouncerReply>| {
            let why = it.as_ref().and_then(|it| it.as_ref().err());
            why.is_some_and(|why| why.starts_with("nothing listens on"))
        };
        watch.answer.wait_for(gone).await.unwrap();
        watch.configure(&Config {
            announce: None,
            ..config.clone()
        });
        watch.answer.wait_for(Option::is_none).await.unwrap();
        assert_eq!(watch.state(&config), None);
    }
}
