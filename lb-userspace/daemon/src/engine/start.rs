//! The order of a start.
//!
//! Lock, revisions, the BPF file system and its lock; then which configuration is in force; then the
//! data path (adopted or created), the ways to the backends, tables, ports of `nat`, and only then
//! the interfaces: the first packet that meets the program finds everything in place.
//!
//! Which configuration is in force follows from the revisions alone. The file is looked at after
//! that: if it is another than the one that was taken over last, it becomes a change like any other,
//! which the guards may refuse.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    net::UnixListener,
    sync::{Notify, mpsc, watch},
};
use tracing::{error, info, warn};

use super::{
    Engine, Options, QUEUE,
    actor::{Actor, Inbox, Running},
    change::refusal,
    checks::Checks,
    data_path::DriftCheck,
    import,
    locks::BpffsLock,
    observe::Observer,
    publisher::Publisher,
    request::{self, Candidate},
    routes::{self, Said},
    shares::Watch,
};
use crate::{
    alerts::Alerts,
    events::{Entry, Journal},
    health::Health,
    http,
    metrics::Facts,
    nexthop::Resolver,
    node::NodeState,
    reconciler::{Reconciler, load_options, lock::Lock, ports},
    revision::{AtStart, New, RevisionNumber, RevisionState, Store},
    traffic::Recorder,
};
use lb_dataplane::{Dataplane, Opened, Pins, messages};
use lb_model::planner::PlanVerdict;

/// What a start gives.
pub(super) struct Started {
    pub(super) actor: Actor,
    pub(super) inbox: Inbox,
    pub(super) engine: Engine,
    pub(super) listener: UnixListener,
}

/// What there is before the kernel is touched.
struct Found {
    /// The file, or why it can't be used.
    file: std::result::Result<Candidate, String>,
    store: Store,
    at_start: AtStart,
    active: Option<(RevisionNumber, RevisionState, Candidate, Option<String>)>,
    lock: Lock,
    /// Where all this was found.
    state_dir: PathBuf,
}

pub(super) async fn start(options: Options) -> Result<Started> {
    let found = look_around(&options)?;
    let pins = Pins::at(&options.bpffs);
    pins.mount()?;
    let bpffs_lock = BpffsLock::take(pins.bpffs())?;
    // What is in force decides, and the file where nothing is.
    let (number, mut candidate, file_digest) = match &found.active {
        Some((number, _, candidate, digest)) => (Some(*number), candidate.clone(), digest.clone()),
        None => {
            let file = found.file.clone().map_err(|why| anyhow!(why))?;
            (None, file, None)
        }
    };
    // The folder may have been moved since that was written down.
    candidate.config.node.state_dir.clone_from(&found.state_dir);
    // Where we are reached is for the file to say.
    let settings = found.file.as_ref().map_or(&candidate.config, |f| &f.config);
    let listener = http::listen(&settings.api.socket, settings.api.group.as_deref())?;
    let state_dir = found.state_dir.clone();
    let journal = Journal::open(&state_dir).context("open the journal of events")?;
    let (mut dataplane, opened) =
        Dataplane::open(&load_options(&candidate.config), &pins).context("open the data path")?;
    tokio::spawn(messages::follow(dataplane.messages(messages::ToLog)?));
    let reconciler = match opened {
        Opened::Fresh => Reconciler::fresh(),
        Opened::Adopted => Reconciler::adopt(&mut dataplane).context("adopt the data path")?,
    };
    let adopted = opened == Opened::Adopted;
    let program_id = dataplane.program_id()?;
    info!(
        adopted,
        members = reconciler.member_count(),
        program = program_id,
        bpffs = %options.bpffs.display(),
        "data path open"
    );
    let mut backends: BTreeSet<IpAddr> = routes::backends_of(&candidate.config).collect();
    backends.extend(reconciler.backends());
    if let Ok(file) = &found.file {
        backends.extend(routes::backends_of(&file.config));
    }
    let resolver = Resolver::start(backends.iter().copied())?;
    let mut table = resolver.watch();
    routes::wait_for(&mut table, &backends).await;
    let (health, health_changes) = Health::start(seed());
    let recorder = Recorder::open(&state_dir, epoch(&pins), super::now());
    let (commands, inbox) = mpsc::channel(QUEUE);
    let observer = Observer::new(adopted, program_id);
    let (states, published) = watch::channel(Arc::new(NodeState::empty(super::now())));
    let alerts = Alerts::open(&state_dir, observer.host.clone(), journal.clone());
    let (facts, facts_watch) = watch::channel(Arc::new(Facts::default()));
    let engine = Engine {
        alerts: alerts.clone(),
        facts: facts_watch,
        commands,
        state: published,
        routes: resolver.watch(),
        journal: journal.clone(),
        traffic: recorder.traffic(),
    };
    let mut actor = Actor {
        options,
        running: Running {
            number,
            config: candidate.config.clone(),
            text: candidate.text.clone(),
            base: candidate.base.clone(),
            file_digest,
        },
        dataplane,
        reconciler,
        routes: resolver.watch(),
        resolver,
        said: Said::default(),
        store: found.store,
        checks: Checks::new(health, pins.clone()),
        trial: None,
        watch: Watch::new(&state_dir),
        journal,
        recorder,
        observer,
        drift_check: DriftCheck::default(),
        attached: false,
        publisher: Publisher::new(states, alerts.clone()),
        alerts,
        facts,
        _lock: found.lock,
        bpffs_lock,
    };
    let begun = match found.active {
        Some((number, state, ..)) => actor.go_on(number, &state, found.at_start, found.file),
        None => actor.begin(&candidate, found.at_start),
    };
    if let Err(error) = begun {
        if !adopted {
            // Nothing was there before, and nothing of a start that failed stays.
            drop(actor);
            Dataplane::unload(&pins).context("remove what the failed start left")?;
            ports::release().context("give back the ports that the failed start reserved")?;
        }
        return Err(error);
    }
    actor.tell_start();
    Ok(Started {
        actor,
        inbox: Inbox {
            commands: inbox,
            health: health_changes,
            stop: Arc::new(Notify::new()),
        },
        engine,
        listener,
    })
}

/// Looks at the file and the revisions.
fn look_around(options: &Options) -> Result<Found> {
    let file = import::candidate(&options.config, "start");
    let state_dir = match &file {
        Ok(file) => file.config.node.state_dir.clone(),
        Err(_) => state_dir_of(options),
    };
    let file = file.map_err(|error| error.to_string());
    if let Err(why) = &file
        && !state_dir.exists()
    {
        return Err(anyhow!(why.clone()));
    }
    let lock = Lock::take(&state_dir)?;
    let (store, damages) = Store::open(&state_dir)?;
    for damage in &damages {
        error!("{damage}");
    }
    let at_start = store.at_start(super::now());
    let active = find_in_force(&store, &at_start)?;
    Ok(Found {
        file,
        store,
        at_start,
        active,
        lock,
        state_dir,
    })
}

type ActiveRevision = (RevisionNumber, RevisionState, Candidate, Option<String>);

/// The newest good revision whose text still means something.
fn find_in_force(store: &Store, at_start: &AtStart) -> Result<Option<ActiveRevision>> {
    let mut next = at_start.active;
    while let Some(number) = next {
        let found = store.get(number)?;
        match request::parse(&found.file_name(), &found.text) {
            Ok(config) => {
                let candidate = Candidate {
                    config,
                    base: found.record.base.clone(),
                    text: found.text,
                    how: found.record.info.how.clone(),
                    file_digest: None,
                };
                let digest = imported(store);
                let state = found.record.info.state;
                return Ok(Some((number, state, candidate, digest)));
            }
            Err(error) => {
                // Perhaps the file with the seed is gone.
                error!(
                    revision = number,
                    "its configuration can't be used: {error}"
                );
                next = store.previous_good(number).map(|record| record.info.number);
            }
        }
    }
    Ok(None)
}

/// SHA-256 of the configuration file as it was taken over last, by whatever became of it: a file that
/// was rolled back is not to come again with the next start.
fn imported(store: &Store) -> Option<String> {
    let mut newest_first = store.list().rev();
    let known = newest_first.find(|record| {
        !matches!(
            record.info.state,
            RevisionState::Applying | RevisionState::Failed { .. }
        )
    });
    known.and_then(|record| record.file_digest.clone())
}

/// The state folder that a file with mistakes names, or the default.
fn state_dir_of(options: &Options) -> PathBuf {
    let text = std::fs::read_to_string(&options.config).unwrap_or_default();
    let document: Option<toml::Table> = text.parse().ok();
    let named = document.as_ref().and_then(|document| {
        let node = document.get("node")?.as_table()?;
        node.get("state_dir")?.as_str().map(PathBuf::from)
    });
    named.unwrap_or_else(|| PathBuf::from("/var/lib/evenkeel"))
}

/// What tells the counters of these maps from those of others: where the totals go on.
fn epoch(pins: &Pins) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let map = pins.counters_id().unwrap_or(0);
    format!("{} {map}", boot.unwrap_or_default().trim())
}

/// Nobody may guess when checks are made; that is all it is for.
fn seed() -> u64 {
    let now = super::now().as_nanosecond();
    (now as u64).rotate_left(17) ^ u64::from(std::process::id())
}

impl Actor {
    /// The first configuration of all: the file. Guards are only told, since nobody could force them.
    fn begin(&mut self, file: &Candidate, at_start: AtStart) -> Result<()> {
        let (plan, planned) = self.plan_change(file, &[])?;
        if plan.verdict == PlanVerdict::Refused {
            warn!("the guards of the first configuration: {}", refusal(&plan));
        }
        let config = file.config.clone();
        let new = New {
            text: file.text.clone(),
            base: file.base.clone(),
            parent: None,
            at: super::now(),
            who: "evenkeel run".to_owned(),
            how: "start".to_owned(),
            why: None,
            forced: Vec::new(),
            file_digest: file.file_digest.clone(),
            state: RevisionState::Applying,
        };
        let number = self.store.append(new)?.record.info.number;
        if let Err(error) = self.install(&config, Some(planned)) {
            let why = format!("{error:#}");
            self.store
                .set_state(number, RevisionState::Failed { why })?;
            return Err(error);
        }
        self.store.set_state(number, RevisionState::Applied)?;
        self.write_ended(number, at_start)?;
        self.run_as(number, file);
        Ok(())
    }

    /// Goes on with the revision in force, and then takes over the file if it is another.
    fn go_on(
        &mut self,
        number: RevisionNumber,
        state: &RevisionState,
        at_start: AtStart,
        file: std::result::Result<Candidate, String>,
    ) -> Result<()> {
        let config = self.running.config.clone();
        self.install(&config, None)?;
        self.write_ended(number, at_start)?;
        self.follow_backends([]);
        self.follow_config();
        if *state != RevisionState::Applied {
            self.resume_trial(number, state);
        }
        self.take_over(file);
        Ok(())
    }

    /// Writes down what became of revisions that nobody finished, now that another is in force.
    fn write_ended(&mut self, running: RevisionNumber, at_start: AtStart) -> Result<()> {
        for (ended, state) in at_start.ended {
            warn!(revision = ended, running, ?state, "is not in force");
            let words = format!(
                "revision {ended} is not in force, {running} is: {}",
                why(&state)
            );
            self.note(Entry::new("rollback", words));
            self.store.set_state(ended, state)?;
        }
        Ok(())
    }

    /// The file, if it is another than the one that was taken over last. Whatever is wrong with it is
    /// no reason not to balance.
    fn take_over(&mut self, file: std::result::Result<Candidate, String>) {
        let running = self.running.number.unwrap_or(0);
        let refused = |why: &str| {
            error!(
                revision = running,
                "the configuration file is not in force, the last good revision is: {why}"
            );
        };
        let file = match file {
            Ok(file) => file,
            Err(why) => return refused(&why),
        };
        if file.file_digest == self.running.file_digest {
            return;
        }
        match self.change(
            &file,
            &import::terms("evenkeel run", self.default_bake(&file)),
        ) {
            Ok(applied) => {
                let number = applied.revision.map(|revision| revision.number);
                info!(
                    revision = number,
                    "the configuration file was changed, and is taken over"
                );
            }
            Err(error) => {
                refused(&error.to_string());
                let words = format!("the configuration file is not in force: {error}");
                self.note(Entry::new("revision", words));
            }
        }
    }

    fn tell_start(&mut self) {
        let what = if self.observer.adopted {
            "adopted the data path that was there"
        } else {
            "made a new data path"
        };
        let number = self.running.number.unwrap_or(0);
        self.note(Entry::new(
            "start",
            format!(
                "controller {} started, revision {number} is in force, {what}",
                env!("CARGO_PKG_VERSION")
            ),
        ));
        self.count();
        self.publish();
    }
}

fn why(state: &RevisionState) -> &str {
    match state {
        RevisionState::Failed { why } | RevisionState::RolledBack { why, .. } => why,
        _ => "it was never finished",
    }
}
