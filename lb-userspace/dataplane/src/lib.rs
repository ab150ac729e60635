//! The data path in userspace: maps, programs, links. The only crate that uses aya.
//!
//! [`Dataplane::load`] creates a private data path for `simulate` and tests: nothing is pinned or
//! attached. [`Dataplane::open`] opens *the* data path of the node: it adopts what is pinned (see
//! [`Pins`]) or creates it, always with the program of this binary.
//!
//! Changes that packets may observe are single stores to mapped memory ([`Mapped`]). Larger ones are
//! written where no packet looks yet, and then published by a single store.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

use std::{collections::BTreeMap, fmt};

use aya::programs::links::FdLink;
use lb_common::{nat::NatSource, trace::Trace, vip::VipKey};

mod attach;
mod bounds;
mod capture;
mod catalog;
mod clock;
mod counters;
mod decap;
mod egress;
mod error;
pub mod ethtool;
pub mod explain;
mod external;
mod limits;
mod mapping;
mod maps;
mod members;
pub mod messages;
mod migration;
mod object;
mod pins;
mod probe;
mod program;
mod proof;
mod rings;
mod samples;
mod services;
mod sessions;
mod stations;
mod syscalls;
mod tracking;
mod view;
mod vips;

pub use attach::{AttachedMode, LinkStatus, XdpMode, status as link_status};
pub use bounds::{Bounds, Overfull, Spills};
pub use capture::{CaptureLoader, CaptureProgram, Records, restore_program};
pub use catalog::{MapSpec, catalog};
pub use clock::Clock;
pub use counters::Counters;
pub use decap::{DecapPins, DecapStatus, Decapsulator};
pub use egress::EgressTable;
pub use error::{DataplaneError, Result};
pub use limits::{Limits, ListedPrefixes};
pub use mapping::Mapped;
pub use members::Members;
pub use object::{LoadOptions, OBJECT};
pub use pins::{DEFAULT_BPFFS, Pins};
pub use probe::{ProbePath, ProbePaths};
pub use program::Run;
pub use proof::Proof;
pub use rings::{ImageIndex, MOST_SPARE_IMAGES, Rings, SPARE_IMAGES};
pub use samples::Samples;
pub use services::Services;
pub use sessions::{
    Established, Expired, PortCounts, PortPool, SessionCounts, SessionEntry, SessionLimits,
    SessionNames, Sessions,
};
pub use stations::Stations;
pub use tracking::{Exception, Exceptions, Told, Tracking};
pub use view::PinnedView;
pub use vips::{RingName, Vips};

use catalog::{name, part};
use counters::possible_cpus;
use external::ExternalMaps;
use maps::{check_maps, mapped, part_of, pin_maps, take, take_any, take_data};
use migration::Migration;
use pins::{Found, LinkMode};
use program::Balancer;

/// The object of the benchmark's programs, for the tests crate: only the build script here builds eBPF.
/// No product binary refers to it, so none contains it.
#[doc(hidden)]
pub static BENCH_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/evenkeel-bench"));

/// How [`Dataplane::open`] got its data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// None was pinned; maps were created.
    Fresh,
    /// The pinned maps were adopted with their contents.
    Adopted,
    /// The same, after they were migrated from the layout before.
    Migrated,
}

pub struct Dataplane {
    balancer: Balancer,
    clock: Clock,
    pub vips: Vips,
    pub members: Members,
    /// Maps address, protocol and port to a VIP. See [`Dataplane::add_service`].
    pub services: Services,
    pub rings: Rings,
    pub egress: EgressTable,
    /// MAC addresses that the interfaces accept frames for.
    pub stations: Stations,
    pub counters: Counters,
    pub tracking: Tracking,
    pub sessions: Sessions,
    /// Source addresses of `nat`.
    pub nat_sources: Mapped<NatSource>,
    pub samples: Samples,
    pub limits: Limits,
    /// Bounded load.
    pub bounds: Bounds,
    clock_ns: Mapped<u64>,
    heartbeat: Mapped<u64>,
    warming: Mapped<u64>,
    pins: Option<Pins>,
    /// Links that are not pinned: they end with this process.
    links: BTreeMap<String, FdLink>,
    /// The program for a capture while it is in the links instead of the balancer's.
    capture: Option<CaptureProgram>,
    /// What the programs were loaded with.
    options: LoadOptions,
}

/// Size of a map or table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSize {
    pub name: &'static str,
    /// Capacity in entries: members, flows, slots.
    pub places: u64,
    /// Memory as accounted by the kernel; that of the rings includes the images.
    pub bytes: Option<u64>,
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataplane")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Dataplane {
    /// Creates a private data path.
    pub fn load(options: &LoadOptions) -> Result<Self> {
        Self::assemble(options, None, Opened::Fresh)
    }

    /// Adopts the pinned data path, or creates and pins one. On an error, pins are as they were before.
    pub fn open(options: &LoadOptions, pins: &Pins) -> Result<(Self, Opened)> {
        pins.mount()?;
        migration::recover(pins)?;
        let maps = catalog(options, possible_cpus()?);
        match pins.find(&maps)? {
            Found::Nothing => {}
            Found::Current => {
                let dataplane = Self::assemble(options, Some(pins), Opened::Adopted)?;
                return Ok((dataplane, Opened::Adopted));
            }
            Found::Previous => {
                let migrated = Self::migrate(options, pins, &maps);
                if migrated.is_err() {
                    // The first error is the one to report.
                    let _ = migration::recover(pins);
                }
                return Ok((migrated?, Opened::Migrated));
            }
        }
        // An interrupted start may have left some.
        pins.remove_all()?;
        pins.create_folders()?;
        match Self::assemble(options, Some(pins), Opened::Fresh) {
            Ok(dataplane) => Ok((dataplane, Opened::Fresh)),
            Err(error) => {
                // The first error is the one to report.
                let _ = pins.remove_all();
                Err(error)
            }
        }
    }

    fn migrate(options: &LoadOptions, pins: &Pins, maps: &[MapSpec]) -> Result<Self> {
        let migration = Migration::begin(pins, maps)?;
        let mut dataplane = Self::assemble(options, Some(pins), Opened::Migrated)?;
        migration.finish(&mut dataplane)?;
        Ok(dataplane)
    }

    /// Removes the pinned data path, if any: detaches the program from all interfaces and removes the
    /// maps.
    pub fn unload(pins: &Pins) -> Result<()> {
        pins.remove_all()
    }

    fn assemble(options: &LoadOptions, pins: Option<&Pins>, opened: Opened) -> Result<Self> {
        let clock = Clock::start(options.jiffies_shift)?;
        let adopted = match opened {
            Opened::Fresh => None,
            Opened::Adopted => pins.map(Pins::maps),
            Opened::Migrated => pins.map(Pins::next),
        };
        let adopted = adopted.as_deref();
        let cpus = possible_cpus()?;
        let external = catalog::external(cpus);
        let maps = catalog::ordinary(options, cpus);
        let external = match adopted {
            Some(folder) => ExternalMaps::open(external, folder)?,
            None => ExternalMaps::create(external)?,
        };
        let (name, records) = program::of(options);
        let pin_of = |name: &str| adopted.map(|folder| folder.join(name));
        let ebpf = object::open(options, clock.jiffies_shift(), &external, &pin_of, records)?;
        check_maps(&ebpf, &maps)?;
        let mut balancer = Balancer::load(ebpf, name)?;
        if let Some(pins) = pins {
            if opened == Opened::Fresh {
                pin_maps(balancer.ebpf(), &external, &pins.maps(), &maps)?;
                pins.pin_version()?;
            }
            pins.create_folders()?;
            pins.pin_program(balancer.xdp_mut()?)?;
        }
        Self::take_maps(balancer, &external, clock, pins.cloned(), options)
    }

    fn take_maps(
        mut balancer: Balancer,
        external: &ExternalMaps,
        clock: Clock,
        pins: Option<Pins>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let ebpf = balancer.ebpf_mut();
        let tables = external.get(name::TABLES)?;
        let vips = Vips {
            table: part_of(tables, &part::VIPS)?,
        };
        let named: Vec<ImageIndex> = vips.rings().map(|(_, ring)| ring.image).collect();
        let images = pins.as_ref().map(Pins::images);
        let rings = Rings::adopt(take_any(ebpf, name::RINGS)?, images, named)?;
        Ok(Self {
            members: Members {
                table: part_of(tables, &part::MEMBERS)?,
            },
            services: Services::new(part_of(tables, &part::SERVICES)?),
            egress: EgressTable {
                table: part_of(tables, &part::EGRESS)?,
                devices: take(ebpf, name::DEVICES)?,
            },
            stations: Stations {
                table: part_of(tables, &part::STATIONS)?,
            },
            counters: Counters::of(external.get(name::COUNTERS)?)?,
            tracking: Tracking::new(mapped(ebpf, name::TRACK)?),
            sessions: Sessions {
                requests: mapped(ebpf, name::NAT_REQUESTS)?,
                replies: mapped(ebpf, name::NAT_REPLIES)?,
                embryonic: mapped(ebpf, name::NAT_NEW)?,
                index: mapped(ebpf, name::NAT_INDEX)?,
            },
            nat_sources: part_of(tables, &part::NAT_SOURCES)?,
            samples: Samples {
                map: take_data(ebpf, name::SAMPLES)?,
            },
            limits: Limits::of(|name| take_any(ebpf, name))?,
            bounds: Bounds::of(|name| take_any(ebpf, name))?,
            clock_ns: part_of(tables, &part::CLOCK)?,
            heartbeat: part_of(tables, &part::HEARTBEAT)?,
            warming: part_of(tables, &part::WARMING)?,
            vips,
            rings,
            balancer,
            clock,
            pins,
            links: BTreeMap::new(),
            capture: None,
            options: options.clone(),
        })
    }

    /// Attaches the program to an interface. With pins, the program in an existing link is replaced
    /// atomically; without, the link ends when this is dropped.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<AttachedMode> {
        // A missing interface is reported by attach.
        if let Ok(ifindex) = nix::net::if_::if_nametoindex(interface) {
            self.egress.admit(ifindex)?;
            self.stations.accept_own(interface, ifindex)?;
        }
        let program = match &mut self.capture {
            Some(capture) => &mut capture.balancer,
            None => &mut self.balancer,
        };
        let xdp = program.xdp_mut()?;
        let attached = match &self.pins {
            Some(pins) => attach::attach_pinned(xdp, pins, interface, mode)?,
            None => {
                self.links.remove(interface);
                let (link, _, attached) = attach::attach_as(xdp, interface, mode)?;
                self.links.insert(interface.to_owned(), link);
                attached
            }
        };
        Ok(attached)
    }

    /// Detaches the program from an interface; returns whether it was attached.
    pub fn detach(&mut self, interface: &str) -> Result<bool> {
        let mut detached = self.links.remove(interface).is_some();
        if let Some(pins) = &self.pins {
            for mode in [LinkMode::Native, LinkMode::Generic] {
                detached |= Pins::remove_link(&pins.link(interface, mode))?;
            }
        }
        Ok(detached)
    }

    /// Interfaces that the program is attached to.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        match &self.pins {
            Some(pins) => pins.interfaces(),
            None => Ok(self.links.keys().cloned().collect()),
        }
    }

    /// State of the pinned links; empty without pins.
    pub fn links(&self) -> Result<Vec<LinkStatus>> {
        match &self.pins {
            Some(pins) => attach::status(pins),
            None => Ok(Vec::new()),
        }
    }

    /// Adds a service. Waits for a grace period if its only free place belonged to one just removed.
    pub fn add_service(&mut self, key: &VipKey, target: u64) -> Result<()> {
        if self.services.needs_grace_period(key)? {
            self.rings.grace_period()?;
            self.services.settle();
        }
        self.services.insert(key, target)
    }

    /// Runs the program on a frame.
    pub fn run(&self, frame: &[u8]) -> Result<Run> {
        self.attached().run(frame, 1, None)
    }

    /// Runs the program repeatedly on a frame without leaving the kernel, which comes closest to real
    /// packet rates. For frames that the program does not change.
    pub fn run_repeatedly(&self, frame: &[u8], times: u32) -> Result<Run> {
        self.attached().run(frame, times, None)
    }

    /// Runs the program on a frame and returns its trace ([`LoadOptions::tracing`]).
    pub fn run_traced(&self, frame: &[u8]) -> Result<(Run, Trace)> {
        self.attached().run_traced(frame, None, &self.counters)
    }

    /// Current time of the data path in seconds.
    pub fn now_s(&self) -> Result<u64> {
        self.clock.now_s()
    }

    /// Tells the data path that the controller is alive at this time. Without, ten seconds later only few
    /// flows are sampled ([`lb_common::sample::is_wanted`]); never told, it does not expect it.
    pub fn beat(&self, now_s: u64) -> Result<()> {
        self.heartbeat.store_word(part::HEARTBEAT_AT, 0, now_s)
    }

    /// Says until when backends may lack the first verdict of their health checks; 0: all have one.
    pub fn set_warming(&self, until_s: u64) -> Result<()> {
        self.warming.store_word(part::WARMING_AT, 0, until_s)
    }

    /// Says until when this node is suspect to the other nodes of its fleet; 0: it is not.
    ///
    /// # Errors
    ///
    /// None is expected.
    pub fn set_suspect(&self, until_s: u64) -> Result<()> {
        self.warming.store_word(part::SUSPECT_AT, 0, until_s)
    }

    /// Time for rate limits in nanoseconds.
    pub(crate) fn limit_clock(&self) -> u64 {
        match self.clock_ns.load_word(part::CLOCK_AT, 0) {
            Ok(0) | Err(_) => clock::monotonic_ns(),
            Ok(now_ns) => now_ns,
        }
    }

    /// Sets the time for rate limits, in nanoseconds; 0: the kernel's. For a private data path.
    pub fn set_clock(&self, now_ns: u64) -> Result<()> {
        self.clock_ns.store_word(part::CLOCK_AT, 0, now_ns)
    }

    /// Sizes of the maps; empty without pins.
    #[must_use]
    pub fn map_sizes(&self, options: &LoadOptions) -> Vec<MapSize> {
        let Some(pins) = &self.pins else {
            return Vec::new();
        };
        let images = self.rings.len() as u64 * catalog::IMAGE.bytes();
        let size = |spec: &MapSpec| MapSize {
            name: spec.name,
            places: spec.places(),
            bytes: pins.memory_of(spec.name).map(|bytes| {
                let is_rings = spec.name == name::RINGS;
                bytes + if is_rings { images } else { 0 }
            }),
        };
        let cpus = self.counters.cpus();
        let counters = catalog::counters(cpus);
        let others = catalog::ordinary(options, cpus);
        let others = others.iter().chain(std::iter::once(&counters));
        part::SIZES.into_iter().chain(others.map(size)).collect()
    }

    /// The kernel's id of the program that belongs into the links: another one during a capture.
    pub fn program_id(&self) -> Result<u32> {
        self.attached().id()
    }
}
