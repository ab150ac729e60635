//! The start, in this order: lock, revisions, BPF file system and its lock, the active configuration,
//! data path (adopted or created), routes to the backends, maps, `nat` ports, and last the interfaces:
//! the first packet that reaches the program finds everything in place.
//!
//! The revisions alone decide which configuration is active. After that, a configuration file that
//! differs from the one applied last becomes a change like any other, which the guards may refuse.

mod disk;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    net::UnixListener,
    sync::{Notify, Semaphore, mpsc, watch},
};
use tracing::{info, warn};

use super::{
    Engine, Options, QUEUE,
    actor::{Actor, Inbox},
    announce_watch::AnnounceWatch,
    capture::CaptureControl,
    change::{ChangeControl, Running, refusal},
    comparison::Comparison,
    data_path::DataPath,
    drift_check::DriftCheck,
    fleet as fleet_part,
    health_intake::{HealthIntake, WARMING_LIMIT},
    import::ConfigFile,
    locks::BpffsLock,
    membership::Membership,
    observe::Observer,
    publisher::Publisher,
    reports::Reports,
    request::Candidate,
    routes::{self, RouteMonitor},
    shares::{ShareMonitor, histories::Histories},
    votes::FleetVotes,
};
use crate::{
    alerts::Alerts,
    events::{Entry, Journal},
    fleet::FleetSlot,
    health::{Health, HealthChange, probe},
    http,
    metrics::Facts,
    nexthop::Resolver,
    node::{FileState, NodeState},
    reconciler::{Reconciler, load_options, ports},
    revision::{AtStart, New, OnFailure, RevisionNumber, RevisionState, Store},
    traffic::Recorder,
};
use lb_dataplane::{Dataplane, Opened, Pins, messages};
use lb_model::{config::Config, planner::PlanVerdict};

pub(super) struct Started {
    pub(super) actor: Actor,
    pub(super) inbox: Inbox,
    pub(super) engine: Engine,
    pub(super) listener: UnixListener,
}

/// `files`: the soft and hard limits of open files. Health checks may use half of the hard one.
pub(super) async fn start(options: Options, files: (u64, u64)) -> Result<Started> {
    let mut found = disk::read(&options)?;
    let pins = Pins::at(&options.bpffs);
    pins.mount()?;
    let bpffs_lock = BpffsLock::take(pins.bpffs())?;
    // The active revision decides, or the file if there is none.
    let (mut running, state) = match found.active.take() {
        Some((running, state)) => (running, Some(state)),
        None => {
            let file = found.file.clone().map_err(|why| anyhow!(why))?;
            (Running::of(None, file), None)
        }
    };
    // The folder may have been moved since the revision was written.
    running.config.node.state_dir.clone_from(&found.state_dir);
    for why in found.membership.fill_with_what_fits(&mut running.config) {
        warn!(%why, "left out a backend of a source");
    }
    found.membership.adopt(&running.config, true);
    // The API settings come from the file.
    let settings = found.file.as_ref().map_or(&running.config, |f| &f.config);
    let socket = options.socket.as_ref().unwrap_or(&settings.api.socket);
    let listener = http::listen(socket, settings.api.group.as_deref())?;
    let journal = Journal::open(&found.state_dir).context("open the journal of events")?;
    for damage in &found.damages {
        journal.append(super::now(), Entry::new("revision", damage.to_string()));
    }
    let mut data_path = open_data_path(&running.config, &found.file, &pins, bpffs_lock).await?;
    data_path.installed = state.is_some().then(|| running.config.clone());
    let adopted = data_path.adopted;
    let (at_start, file) = (std::mem::take(&mut found.at_start), found.file.clone());
    let health = start_health(&options, files, &data_path);
    let (mut actor, engine, inbox) = assemble(
        &pins,
        journal,
        found,
        running,
        data_path,
        options.config,
        health,
    )?;
    let begun = match state {
        Some(state) => actor.go_on(&state, at_start, file),
        None => file
            .map_err(|why| anyhow!(why))
            .and_then(|file| actor.begin(&file, at_start)),
    };
    if let Err(error) = begun {
        if !adopted {
            // There was nothing before, and a failed start leaves nothing behind.
            drop(actor);
            Dataplane::unload(&pins).context("remove the data path of the failed start")?;
            ports::release().context("release the ports that the failed start reserved")?;
        }
        return Err(error);
    }
    actor.record_start();
    Ok(Started {
        actor,
        inbox,
        engine,
        listener,
    })
}

fn start_health(
    options: &Options,
    files: (u64, u64),
    data_path: &DataPath,
) -> (Health, mpsc::UnboundedReceiver<HealthChange>) {
    let checks = probe::Shared {
        exec_user: Some(disk::exec_user(options)),
        next_hops: Some(data_path.routes.watch()),
        exec_files: Some(files),
        descriptors: Semaphore::new((files.1 / 2).clamp(8, 1 << 20) as usize),
        ..probe::Shared::default()
    };
    Health::start(seed(), checks)
}

/// Opens the data path, and waits for the routes to the backends.
async fn open_data_path(
    config: &Config,
    file: &std::result::Result<Candidate, String>,
    pins: &Pins,
    bpffs_lock: BpffsLock,
) -> Result<DataPath> {
    let (mut dataplane, opened) =
        Dataplane::open(&load_options(config), pins).context("open the data path")?;
    tokio::spawn(messages::follow(dataplane.messages(messages::ToLog)?));
    let reconciler = match opened {
        Opened::Fresh => {
            // Before the first packet: nothing is known of the backends.
            let until_s = dataplane.now_s()? + WARMING_LIMIT.as_secs();
            dataplane.set_warming(until_s)?;
            Reconciler::fresh()
        }
        Opened::Adopted | Opened::Migrated => {
            Reconciler::adopt(&mut dataplane).context("adopt the data path")?
        }
    };
    let adopted = opened != Opened::Fresh;
    info!(
        adopted,
        members = reconciler.member_count(),
        program = dataplane.program_id()?,
        bpffs = %pins.bpffs().display(),
        "data path open"
    );
    let mut backends: BTreeSet<IpAddr> = routes::backends_of(config).collect();
    backends.extend(reconciler.backends());
    if let Ok(file) = file {
        backends.extend(routes::backends_of(&file.config));
    }
    let resolver = Resolver::start(backends.iter().copied())?;
    routes::wait_for(&mut resolver.watch(), &backends).await;
    Ok(DataPath {
        dataplane,
        reconciler,
        routes: RouteMonitor::new(resolver),
        bpffs_lock,
        adopted,
        installed: None,
        attached: false,
    })
}

/// Starts the parts around the data path.
fn assemble(
    pins: &Pins,
    journal: Journal,
    found: disk::OnDisk,
    running: Running,
    data_path: DataPath,
    file: PathBuf,
    (health, health_changes): (Health, mpsc::UnboundedReceiver<HealthChange>),
) -> Result<(Actor, Engine, Inbox)> {
    let state_dir = &found.state_dir;
    let recorder = Recorder::open(state_dir, epoch(pins), super::now());
    let (commands, inbox) = mpsc::channel(QUEUE);
    let observer = Observer::new(data_path.dataplane.program_id()?);
    let (states, published) = watch::channel(Arc::new(NodeState::empty(super::now())));
    let alerts = Alerts::open(state_dir, observer.host.clone(), journal.clone());
    let (facts, facts_watch) = watch::channel(Arc::new(Facts::default()));
    let directory = watch::Sender::default();
    let tells_past = fleet_part::has_exchange(&running.config);
    let (votes, own_votes) = FleetVotes::new(&running.config);
    let (comparison, own_traffic) = Comparison::new();
    let reports = Arc::new(Reports::default());
    let engine = Engine {
        fleet: FleetSlot::default(),
        directory: directory.subscribe(),
        own_votes,
        own_traffic,
        reports: Arc::clone(&reports),
        alerts: alerts.clone(),
        facts: facts_watch,
        commands,
        state: published,
        routes: data_path.routes.watch(),
        journal: journal.clone(),
        traffic: recorder.traffic(),
    };
    let histories = Histories::default();
    let actor = Actor {
        changes: change_control(
            &engine,
            file,
            running,
            (found.store, found.membership),
            &histories,
        ),
        health: HealthIntake::new(health, pins.clone(), !data_path.adopted, tells_past),
        directory: (0, directory),
        data_path,
        shares: ShareMonitor::new(state_dir, histories),
        journal,
        recorder,
        observer,
        drift_check: DriftCheck::default(),
        capture: CaptureControl::default(),
        publisher: Publisher::new(states, facts, alerts),
        announce_watch: AnnounceWatch::start(),
        votes,
        comparison,
        reports,
        reload_due: Arc::new(Notify::new()),
        _lock: found.lock,
    };
    let inbox = Inbox {
        commands: inbox,
        health: health_changes,
        stop: Arc::new(Notify::new()),
    };
    Ok((actor, engine, inbox))
}

fn change_control(
    engine: &Engine,
    file: PathBuf,
    running: Running,
    (store, membership): (Store, Membership),
    histories: &Histories,
) -> ChangeControl {
    ChangeControl {
        fleet: engine.fleet.clone(),
        file: ConfigFile::new(file),
        file_state: FileState::default(),
        reload_waits: false,
        running,
        store,
        trial: None,
        drops_per_s: Default::default(),
        traffic: engine.traffic.clone(),
        histories: histories.clone(),
        outcomes: Vec::new(),
        membership,
    }
}

/// Identifies the counter maps, so that totals continue only with the same ones.
fn epoch(pins: &Pins) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let map = pins.counters_id().unwrap_or(0);
    format!("{} {map}", boot.unwrap_or_default().trim())
}

/// Makes the times of health checks unpredictable; used for nothing else.
fn seed() -> u64 {
    let now = super::now().as_nanosecond();
    (now as u64).rotate_left(17) ^ u64::from(std::process::id())
}

impl Actor {
    /// Applies the first configuration, the file. Guards only warn, because nobody could override them.
    fn begin(&mut self, file: &Candidate, at_start: AtStart) -> Result<()> {
        let (changes, data_path) = (&mut self.changes, &mut self.data_path);
        let file = &changes.with_members(file.clone(), true)?;
        let (plan, planned) = changes.plan(data_path, file, &[])?;
        if plan.verdict == PlanVerdict::Refused {
            warn!("first configuration: {}", refusal(&plan));
        }
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
        let store = &mut changes.store;
        // Forwarding comes first, also if the disk can't be written.
        let kept = OnFailure::Keep;
        let number = store.append_with(new, kept)?.record.info.number;
        if let Err(error) = data_path.install(&file.config, Some(planned)) {
            let why = format!("{error:#}");
            store.set_state_with(number, RevisionState::Failed { why }, kept)?;
            return Err(error);
        }
        store.set_state_with(number, RevisionState::Applied, kept)?;
        changes.run_as(number, file);
        self.write_ended(at_start)?;
        self.follow_config();
        Ok(())
    }

    /// Applies the active revision, and then the file if it has changed.
    fn go_on(
        &mut self,
        state: &RevisionState,
        at_start: AtStart,
        file: std::result::Result<Candidate, String>,
    ) -> Result<()> {
        let (changes, data_path) = (&mut self.changes, &mut self.data_path);
        data_path.install(&changes.running.config, None)?;
        if *state != RevisionState::Applied {
            changes.resume_trial(data_path, state);
        }
        self.write_ended(at_start)?;
        self.follow_config();
        self.apply_file(file);
        Ok(())
    }

    /// Records the end of unfinished revisions, now that another one is active.
    fn write_ended(&mut self, at_start: AtStart) -> Result<()> {
        let running = self.running_number();
        for (ended, state) in at_start.ended {
            warn!(
                revision = ended,
                running,
                ?state,
                "revision ended without becoming active"
            );
            let words = format!(
                "revision {ended} ended, revision {running} is active: {}",
                why(&state)
            );
            self.note(Entry::new("rollback", words));
            let store = &mut self.changes.store;
            store.set_state_with(ended, state, OnFailure::Keep)?;
        }
        Ok(())
    }

    /// Number of the active revision, for messages.
    fn running_number(&self) -> RevisionNumber {
        self.changes.running.number.unwrap_or(0)
    }

    fn record_start(&mut self) {
        let what = if self.data_path.adopted {
            "adopted the running data path"
        } else {
            "created the data path"
        };
        let number = self.running_number();
        self.note(Entry::new(
            "start",
            format!(
                "controller {} started with revision {number}, {what}",
                env!("CARGO_PKG_VERSION")
            ),
        ));
        self.observer.sessions = self.data_path.dataplane.sessions.established();
        self.count();
        self.publish();
    }
}

fn why(state: &RevisionState) -> &str {
    match state {
        RevisionState::Failed { why } | RevisionState::RolledBack { why, .. } => why,
        _ => "it was not finished",
    }
}
