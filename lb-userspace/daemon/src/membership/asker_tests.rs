use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lb_model::{
    config::Sources,
    membership::{Families, SourceKey},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    asker::{Followed, Questions, run},
    dns::{AskError, Found},
};

const MIN: Duration = Duration::from_millis(300);
const MAX: Duration = Duration::from_secs(20);

/// Records questions and failures, and has an answer that is valid for long.
#[derive(Clone, Default)]
struct Recorder {
    asked: Arc<Mutex<Vec<(String, Instant)>>>,
    failures: Arc<Mutex<Vec<String>>>,
    panics: Arc<Mutex<u32>>,
}

impl Questions for Recorder {
    async fn ask(&self, key: &SourceKey, _: &Sources) -> Result<Found, AskError> {
        let mut asked = self.asked.lock().unwrap();
        asked.push((key.to_string(), Instant::now()));
        drop(asked);
        let mut panics = self.panics.lock().unwrap();
        if *panics > 0 {
            *panics -= 1;
            drop(panics);
            panic!("a bad reply");
        }
        Ok(Found {
            members: Vec::new(),
            ttl: MAX,
        })
    }

    async fn answered(&self, _: &SourceKey, answer: Result<Found, AskError>) -> Option<Duration> {
        match answer {
            Ok(found) => Some(found.ttl),
            Err(error) => {
                self.failures.lock().unwrap().push(error.to_string());
                Some(MIN)
            }
        }
    }
}

impl Recorder {
    /// When each source was asked, in order.
    fn asked(&self) -> Vec<(String, Instant)> {
        self.asked.lock().unwrap().clone()
    }
}

fn followed(sources: usize) -> Followed {
    let key = |number| SourceKey {
        source: format!("dns:n{number}.lab").parse().unwrap(),
        families: Families::V4,
    };
    Followed {
        sources: (0..sources).map(key).collect(),
        settings: Sources {
            interval_min: MIN,
            interval_max: MAX,
            ..Sources::default()
        },
    }
}

struct Running {
    recorder: Recorder,
    followed: watch::Sender<Followed>,
    _task: JoinSet<()>,
}

impl Running {
    fn start(recorder: &Recorder, followed: Followed) -> Self {
        let (sender, receiver) = watch::channel(followed);
        let mut task = JoinSet::new();
        task.spawn(run(recorder.clone(), receiver));
        Self {
            recorder: recorder.clone(),
            followed: sender,
            _task: task,
        }
    }

    async fn wait_asked(&self, count: usize) -> Vec<(String, Instant)> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let asked = self.recorder.asked();
            if asked.len() >= count {
                return asked;
            }
            assert!(Instant::now() < end, "{} of {count} questions", asked.len());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn new_servers_are_asked_soon_but_not_at_once() {
    let recorder = Recorder::default();
    let running = Running::start(&recorder, followed(50));
    running.wait_asked(50).await;
    sleep(MIN).await;
    let changed = Instant::now();
    running.followed.send_modify(|now| {
        now.settings.dns_servers = vec!["10.0.0.53:53".parse().unwrap()];
    });
    let asked = running.wait_asked(100).await;
    let names: BTreeSet<_> = asked[50..100].iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 50, "each is asked once");
    let after = |index: usize| asked[index].1.duration_since(changed);
    assert!(after(99) < 2 * MIN, "{:?}", after(99));
    // Half of them in the first half of the interval.
    assert!(after(85) > MIN / 4, "{:?}: all at once", after(85));
}

#[tokio::test]
async fn changed_settings_keep_the_pace() {
    let recorder = Recorder::default();
    let running = Running::start(&recorder, followed(20));
    running.wait_asked(20).await;
    // Other servers in the same moment: the shortest interval holds.
    running.followed.send_modify(|now| {
        now.settings.dns_servers = vec!["10.0.0.53:53".parse().unwrap()];
    });
    let asked = running.wait_asked(40).await;
    let mut first = asked[..20].to_vec();
    for (name, at) in &asked[20..40] {
        let index = first.iter().position(|(other, _)| other == name).unwrap();
        let (_, before) = first.remove(index);
        let pause = at.duration_since(before);
        assert!(pause >= MIN, "{name} asked again after {pause:?}");
    }

    // Settings that do not shorten the pause ask nothing.
    running.followed.send_modify(|now| {
        now.settings.timeout *= 2;
        now.settings.interval_max *= 2;
        now.settings.interval_min /= 2;
    });
    sleep(2 * MIN).await;
    assert_eq!(recorder.asked().len(), 40);

    // A shorter `interval_max` does.
    running
        .followed
        .send_modify(|now| now.settings.interval_max = MIN);
    running.wait_asked(60).await;
}

#[tokio::test]
async fn a_source_is_asked_while_it_is_followed() {
    let recorder = Recorder::default();
    let running = Running::start(&recorder, followed(1));
    running.wait_asked(1).await;
    running
        .followed
        .send_modify(|now| now.sources = followed(2).sources);
    let asked = running.wait_asked(2).await;
    assert_eq!(asked[1].0, "dns:n1.lab", "the first one is not asked again");
    running.followed.send_modify(|now| {
        now.sources.clear();
        now.settings.interval_max = MIN;
    });
    sleep(3 * MIN).await;
    assert_eq!(recorder.asked().len(), 2);
}

#[tokio::test]
async fn a_question_that_panics_is_a_failure_and_asked_again() {
    let recorder = Recorder::default();
    *recorder.panics.lock().unwrap() = 2;
    let running = Running::start(&recorder, followed(1));
    let asked = running.wait_asked(3).await;
    assert!(asked[1].1.duration_since(asked[0].1) >= MIN);
    let failures = recorder.failures.lock().unwrap().clone();
    assert_eq!(
        failures, ["dns:n0.lab: internal error: a bad reply"; 2],
        "operators see it"
    );
}
