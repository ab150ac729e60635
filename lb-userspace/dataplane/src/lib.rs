//! The data path, as the controller holds it: maps, program, links. The only place that names aya.
//!
//! [`Dataplane::load`] gives a data path of its own, for `simulate` and tests: nothing is pinned and
//! nothing attached. [`Dataplane::open`] gives *the* data path of the node: it adopts what is pinned
//! (see [`Pins`]) or creates it, always with the program of this binary.
//!
//! What changes while packets flow changes in single stores to mapped memory ([`Mapped`]); what
//! takes several is written where no packet looks yet, and then named by a single store.

use std::{collections::BTreeMap, fmt, path::Path};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
    pin::PinError,
    programs::links::FdLink,
};
use bytemuck::Pod;
use lb_common::{nat::NatSource, trace::Trace, vip::VipKey};

mod attach;
mod catalog;
mod clock;
mod counters;
mod decap;
mod egress;
mod error;
pub mod explain;
mod external;
mod lookup;
mod mapping;
mod members;
pub mod messages;
mod object;
mod pins;
mod probe;
mod program;
mod rings;
mod samples;
mod services;
mod sessions;
mod syscalls;
mod tracking;
mod view;
mod vips;

pub use attach::{AttachedMode, LinkStatus, XdpMode};
pub use catalog::{MapSpec, catalog};
pub use clock::Clock;
pub use counters::Counters;
pub use decap::{DecapPins, DecapStatus, Decapsulator};
pub use egress::EgressTable;
pub use error::{DataplaneError, Result};
pub use lookup::SessionEntry;
pub use mapping::Mapped;
pub use members::Members;
pub use object::LoadOptions;
pub use pins::{DEFAULT_BPFFS, Pins};
pub use probe::{ProbePath, ProbePaths};
pub use program::Run;
pub use rings::{ImageIndex, MOST_SPARE_IMAGES, Rings, SPARE_IMAGES};
pub use samples::Samples;
pub use services::Services;
pub use sessions::{SessionCounts, SessionLimits, SessionNames, Sessions};
pub use tracking::Tracking;
pub use view::PinnedView;
pub use vips::{RingName, Vips};

use catalog::{Part, name, part};
use counters::possible_cpus;
use error::PRIVILEGE_HINT;
use external::ExternalMaps;
use pins::LinkMode;
use program::Balancer;

/// The object of the benchmark's programs, for the crate of tests: the build script here is the one
/// that builds eBPF. No product binary refers to it, so none holds it.
#[doc(hidden)]
pub static BENCH_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/evenkeel-bench"));

/// Whether a data path was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was none: maps were created.
    Fresh,
    /// There was one: its maps were adopted, with what they hold.
    Adopted,
}

/// A data path.
pub struct Dataplane {
    balancer: Balancer,
    clock: Clock,
    /// The VIPs.
    pub vips: Vips,
    /// The members.
    pub members: Members,
    /// Which packets are for which VIP. See [`Dataplane::add_service`].
    pub services: Services,
    /// The ring images.
    pub rings: Rings,
    /// Interfaces that frames leave through.
    pub egress: EgressTable,
    /// Counters.
    pub counters: Counters,
    /// The tracking table.
    pub tracking: Tracking,
    /// Sessions of `nat`.
    pub sessions: Sessions,
    /// Addresses that `nat` sends from.
    pub nat_sources: Mapped<NatSource>,
    /// Sampled flows.
    pub samples: Samples,
    pins: Option<Pins>,
    /// Links that are not pinned: gone with us.
    links: BTreeMap<String, FdLink>,
}

/// A table in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSize {
    /// Its name.
    pub name: &'static str,
    /// What it has room for: members, flows or whatever it holds.
    pub places: u64,
    /// Its memory, as the kernel reckons it; with the images, for the rings.
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
    /// Loads a data path of its own.
    pub fn load(options: &LoadOptions) -> Result<Self> {
        Self::assemble(options, None, Opened::Fresh)
    }

    /// Adopts the data path that is pinned, or creates one and pins it. On an error nothing that was
    /// pinned before has changed, and nothing new stays.
    pub fn open(options: &LoadOptions, pins: &Pins) -> Result<(Self, Opened)> {
        pins.mount()?;
        if pins.find(&catalog(options, possible_cpus()?))? {
            let dataplane = Self::assemble(options, Some(pins), Opened::Adopted)?;
            return Ok((dataplane, Opened::Adopted));
        }
        // What an interrupted start may have left.
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

    /// Removes the data path that is pinned: detaches the program from all interfaces, and removes
    /// the maps. Nothing there is fine.
    pub fn unload(pins: &Pins) -> Result<()> {
        pins.remove_all()
    }

    fn assemble(options: &LoadOptions, pins: Option<&Pins>, opened: Opened) -> Result<Self> {
        let clock = Clock::start(options.jiffies_shift)?;
        let adopted = pins.filter(|_| opened == Opened::Adopted).map(Pins::maps);
        let adopted = adopted.as_deref();
        let external = catalog::external(possible_cpus()?);
        let external = match adopted {
            Some(folder) => ExternalMaps::open(external, folder)?,
            None => ExternalMaps::create(external)?,
        };
        let ebpf = object::open(options, clock.jiffies_shift(), &external, adopted)?;
        check_maps(&ebpf, options)?;
        let mut balancer = Balancer::load(ebpf)?;
        if let Some(pins) = pins {
            if opened == Opened::Fresh {
                pin_maps(balancer.ebpf(), &external, &pins.maps(), options)?;
                pins.pin_version()?;
            }
            pins.create_folders()?;
            pins.pin_program(balancer.xdp_mut()?)?;
        }
        Self::take_maps(balancer, &external, clock, pins.cloned())
    }

    fn take_maps(
        mut balancer: Balancer,
        external: &ExternalMaps,
        clock: Clock,
        pins: Option<Pins>,
    ) -> Result<Self> {
        let ebpf = balancer.ebpf_mut();
        let tables = external.get(name::TABLES)?;
        let vips = Vips {
            table: part_of(tables, &part::VIPS)?,
        };
        let named: Vec<ImageIndex> = vips.rings().map(|(_, ring)| ring.image).collect();
        let images = pins.as_ref().map(Pins::images);
        let rings = Rings::adopt(take(ebpf, name::RINGS)?, images, named)?;
        Ok(Self {
            members: Members {
                table: part_of(tables, &part::MEMBERS)?,
            },
            services: Services::new(part_of(tables, &part::SERVICES)?),
            egress: EgressTable {
                table: part_of(tables, &part::EGRESS)?,
                devices: take(ebpf, name::DEVICES)?,
            },
            counters: Counters::of(external.get(name::COUNTERS)?)?,
            tracking: Tracking::new(mapped(ebpf, name::TRACK)?),
            sessions: Sessions {
                requests: mapped(ebpf, name::NAT_REQUESTS)?,
                replies: mapped(ebpf, name::NAT_REPLIES)?,
                embryonic: take(ebpf, name::NAT_NEW)?,
            },
            nat_sources: part_of(tables, &part::NAT_SOURCES)?,
            samples: Samples {
                map: take_data(ebpf, name::SAMPLES)?,
            },
            vips,
            rings,
            balancer,
            clock,
            pins,
            links: BTreeMap::new(),
        })
    }

    /// Attaches the program to an interface. With pins, the program in a link that is there is
    /// replaced in one step; without, the link goes when this is dropped.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<AttachedMode> {
        // One that does not exist gets its error from attaching.
        if let Ok(ifindex) = nix::net::if_::if_nametoindex(interface) {
            self.egress.admit(ifindex)?;
        }
        let xdp = self.balancer.xdp_mut()?;
        if let Some(pins) = &self.pins {
            return attach::attach_pinned(xdp, pins, interface, mode);
        }
        self.links.remove(interface);
        let (link, _, attached) = attach::attach_as(xdp, interface, mode)?;
        self.links.insert(interface.to_owned(), link);
        Ok(attached)
    }

    /// Detaches the program from an interface. Says whether it was attached.
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

    /// How the pinned links are, as the kernel tells; nothing without pins.
    pub fn links(&self) -> Result<Vec<LinkStatus>> {
        match &self.pins {
            Some(pins) => attach::status(pins),
            None => Ok(Vec::new()),
        }
    }

    /// Adds a service, after a grace period if its only place belonged to one just removed.
    pub fn add_service(&mut self, key: &VipKey, target: u64) -> Result<()> {
        if self.services.needs_grace_period(key)? {
            self.rings.grace_period()?;
            self.services.settle();
        }
        self.services.insert(key, target)
    }

    /// Runs the program on a frame.
    pub fn run(&self, frame: &[u8]) -> Result<Run> {
        self.balancer.run(frame, 1)
    }

    /// Runs the program on a frame, again and again without leaving the kernel: as densely as packets come in
    /// reality. For frames that the program leaves as they are; others change from one time to the next.
    pub fn run_repeatedly(&self, frame: &[u8], times: u32) -> Result<Run> {
        self.balancer.run(frame, times)
    }

    /// Runs the program on a frame, and reads the trace it left ([`LoadOptions::tracing`]).
    pub fn run_traced(&self, frame: &[u8]) -> Result<(Run, Trace)> {
        self.balancer.run_traced(frame, &self.counters)
    }

    /// The data path's seconds now.
    pub fn now_s(&self) -> Result<u64> {
        self.clock.now_s()
    }

    /// The tables in the kernel; nothing without pins.
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
        let counters = catalog::counters(self.counters.cpus());
        let others = catalog::ordinary(options);
        let others = others.iter().chain(std::iter::once(&counters));
        part::SIZES.into_iter().chain(others.map(size)).collect()
    }

    /// The kernel's number for the program.
    pub fn program_id(&self) -> Result<u32> {
        self.balancer.id()
    }
}

/// Takes a map out of the object.
fn take_any(ebpf: &mut Ebpf, name: &'static str) -> Result<Map> {
    ebpf.take_map(name)
        .ok_or(DataplaneError::Missing { kind: "map", name })
}

/// Takes a map out of the object, as the type that aya has for it.
fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T> {
    T::try_from(take_any(ebpf, name)?)
        .map_err(|error| DataplaneError::map("open", name, &error, PRIVILEGE_HINT))
}

/// Takes a map out of the object, as it is.
fn take_data(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::LruHashMap(data)) => Ok(data),
        _ => Err(DataplaneError::Missing {
            kind: "LRU hash map",
            name,
        }),
    }
}

/// Maps a table into memory.
fn mapped<T: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mapped<T>> {
    mapped_from(name, &take_any(ebpf, name)?)
}

/// Maps a table of fixed size into memory. `tables` was compared with the catalog.
fn part_of<T: Pod>(tables: &MapData, part: &Part<T>) -> Result<Mapped<T>> {
    Mapped::of(part.name, tables.fd(), part.offset, part.len)
}

/// Maps the table of an open map into memory.
fn mapped_from<T: Pod>(name: &'static str, map: &Map) -> Result<Mapped<T>> {
    let data = data_of(map).ok_or(DataplaneError::Missing {
        kind: "array map",
        name,
    })?;
    let info = data
        .info()
        .map_err(|error| DataplaneError::map("describe", name, &error, PRIVILEGE_HINT))?;
    let (element, size) = (info.value_size(), size_of::<T>() as u32);
    if !element.is_multiple_of(size) {
        return Err(DataplaneError::Incompatible {
            map: name.to_owned(),
            what: "value size",
            has: element.to_string(),
            needs: format!("a multiple of {size}"),
            hint: "build controller and eBPF object from the same sources",
        });
    }
    Mapped::of(name, data.fd(), 0, info.max_entries() * (element / size))
}

/// What is common to maps of the kinds that we have.
const fn data_of(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data) => Some(data),
        _ => None,
    }
}

fn check_maps(ebpf: &Ebpf, options: &LoadOptions) -> Result<()> {
    for spec in catalog::ordinary(options) {
        let missing = DataplaneError::Missing {
            kind: "map",
            name: spec.name,
        };
        let data = ebpf.map(spec.name).and_then(data_of).ok_or(missing)?;
        spec.check(spec.name, data)?;
    }
    Ok(())
}

fn pin_maps(
    ebpf: &Ebpf,
    external: &ExternalMaps,
    folder: &Path,
    options: &LoadOptions,
) -> Result<()> {
    let pin = |name, pin: &dyn Fn(&Path) -> std::result::Result<(), PinError>| {
        let path = folder.join(name);
        pin(&path).map_err(|error| DataplaneError::Pin {
            operation: "pin",
            path,
            kernel: error::chain(&error),
            hint: PRIVILEGE_HINT,
        })
    };
    for (spec, map) in external.iter() {
        pin(spec.name, &|path| map.pin(path))?;
    }
    for spec in catalog::ordinary(options) {
        let missing = DataplaneError::Missing {
            kind: "map",
            name: spec.name,
        };
        let map = ebpf.map(spec.name).ok_or(missing)?;
        pin(spec.name, &|path| map.pin(path))?;
    }
    Ok(())
}

/// Whether an error says that there is no such entry.
fn is_missing(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || error::os_error(error) == Some(libc::ENOENT)
}
