//! A copy of the program that runs on a node's tables and leaves no trace in them: it shows whether a packet
//! would be forwarded.

use std::time::Duration;

use aya::maps::MapData;
use lb_common::trace::Trace;

use super::{
    Counters, LoadOptions, Mapped, Members, Pins, Run, Services,
    catalog::{self, name, part},
    clock::Clock,
    counters::possible_cpus,
    error::{DataplaneError, MISMATCH_HINT, PRIVILEGE_HINT, Result},
    external::ExternalMaps,
    maps::part_of,
    object,
    program::{self, Balancer},
};

/// Maps that the copy shares with the program in the links, besides the tables: what a packet is decided by.
/// Those that the data path writes to, and limits, are the copy's own and empty: a proof uses up no limit,
/// opens no session, and appears in no counter. (Of the tables, it writes path MTUs, for ICMP errors only.)
const SHARED: [&str; 2] = [name::RINGS, name::DEVICES];

/// The copy, and the tables it reads.
#[derive(Debug)]
pub struct Proof {
    pub members: Members,
    pub services: Services,
    heartbeat: Mapped<u64>,
    warming: Mapped<u64>,
    balancer: Balancer,
    counters: Counters,
    clock: Clock,
    /// The kernel's id of the tables.
    tables: u32,
}

impl Proof {
    /// The kernel's id of the pinned tables, `None` if no data path is pinned: cheap, unlike [`Proof::load`].
    ///
    /// # Errors
    ///
    /// The tables are of another layout, or can't be read.
    pub fn pinned(pins: &Pins) -> Result<Option<u32>> {
        let path = pins.maps().join(name::TABLES);
        if let Ok(false) = path.try_exists() {
            return Ok(None);
        }
        pins.check_version()?;
        let tables = MapData::from_pin(path).map_err(|error| {
            DataplaneError::map("open pinned", name::TABLES, &error, PRIVILEGE_HINT)
        })?;
        id(&tables).map(Some)
    }

    /// The kernel's id of the tables that the copy runs on.
    #[must_use]
    pub const fn tables(&self) -> u32 {
        self.tables
    }

    /// Loads the copy on the pinned tables. Takes seconds on a busy machine.
    ///
    /// # Errors
    ///
    /// No data path is pinned, it is of another layout, or the program can't be loaded.
    pub fn load(pins: &Pins) -> Result<Self> {
        pins.check_version()?;
        let options = LoadOptions {
            track_buckets: 64,
            nat_sessions: 1024,
            nat_embryonic: 1024,
            tracing: true,
            ..LoadOptions::default()
        };
        let cpus = possible_cpus()?;
        let folder = pins.maps();
        let (shared, own) = catalog::external(cpus)
            .into_iter()
            .partition::<Vec<_>, _>(|map| map.name == name::TABLES);
        let external = ExternalMaps::open(shared, &folder)?.and(ExternalMaps::create(own)?);
        let tables = external.get(name::TABLES)?;
        for name in SHARED {
            // The loader would create and pin a map that is missing.
            MapData::from_pin(folder.join(name))
                .map_err(|error| DataplaneError::map("open pinned", name, &error, MISMATCH_HINT))?;
        }
        let pin_of = |name: &str| SHARED.contains(&name).then(|| folder.join(name));
        let clock = Clock::start(None)?;
        let ebpf = object::open(&options, clock.jiffies_shift(), &external, &pin_of, None)?;
        Ok(Self {
            members: Members {
                table: part_of(tables, &part::MEMBERS)?,
            },
            services: Services::new(part_of(tables, &part::SERVICES)?),
            heartbeat: part_of(tables, &part::HEARTBEAT)?,
            warming: part_of(tables, &part::WARMING)?,
            balancer: Balancer::load(ebpf, program::PROGRAM)?,
            counters: Counters::of(external.get(name::COUNTERS)?)?,
            clock,
            tables: id(tables)?,
        })
    }

    /// Time since the controller's last heartbeat, in whole seconds; `None` if there was none.
    pub fn controller_silence(&self) -> Result<Option<Duration>> {
        let beat_s = self.heartbeat.load_word(part::HEARTBEAT_AT, 0)?;
        let now_s = self.clock.now_s()?;
        let silence = Duration::from_secs(now_s.saturating_sub(beat_s));
        Ok((beat_s != 0).then_some(silence))
    }

    /// How long backends may still lack the first verdict of their health checks, in whole seconds; `None` if
    /// all have one, or this has lasted too long.
    pub fn warming(&self) -> Result<Option<Duration>> {
        self.left_until(part::WARMING_AT)
    }

    /// How long this node is still suspect to the other nodes of its fleet, in whole seconds; `None` if it is
    /// not.
    pub fn suspect(&self) -> Result<Option<Duration>> {
        self.left_until(part::SUSPECT_AT)
    }

    fn left_until(&self, position: u32) -> Result<Option<Duration>> {
        let until_s = self.warming.load_word(position, 0)?;
        let left_s = until_s.saturating_sub(self.clock.now_s()?);
        Ok((left_s != 0).then_some(Duration::from_secs(left_s)))
    }

    /// Runs the copy on a frame as if it was received on an interface.
    ///
    /// # Errors
    ///
    /// The kernel is older than 5.14, or the interface is gone.
    pub fn run(&self, frame: &[u8], received_on: u32) -> Result<Run> {
        self.balancer.run(frame, 1, Some(received_on))
    }

    /// The same with a trace of the decision, which takes longer.
    ///
    /// # Errors
    ///
    /// As [`Proof::run`].
    pub fn run_traced(&self, frame: &[u8], received_on: u32) -> Result<(Run, Trace)> {
        let received_on = Some(received_on);
        self.balancer.run_traced(frame, received_on, &self.counters)
    }
}

fn id(map: &MapData) -> Result<u32> {
    let info = map.info();
    let info = info
        .map_err(|error| DataplaneError::map("describe", name::TABLES, &error, PRIVILEGE_HINT))?;
    Ok(info.id())
}
