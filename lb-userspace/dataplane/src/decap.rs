//! The program `evenkeel_decap` on an interface of a backend host.
//!
//! ```text
//! <bpffs>/evenkeel-decap/IFNAME@NETNS/maps/ADDRESSES    local addresses
//! <bpffs>/evenkeel-decap/IFNAME@NETNS/maps/COUNTERS     counters
//! <bpffs>/evenkeel-decap/IFNAME@NETNS/links/…           as for the balancer
//! ```
//!
//! `NETNS` is the inode number of the network namespace: containers that share a BPF file system have
//! interfaces of the same name and index, and must not replace each other's program. Pinned maps are
//! adopted if they match this version, else replaced: everything in them can be written again, and
//! the old program decapsulates until then.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, MapType, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp, links::FdLink},
};
use lb_common::{
    address_of,
    decap::{ADDRESS_TABLE_SIZE, DecapCounters, LocalAddress, MAX_ADDRESSES},
    family, ip_of,
};

use super::{
    attach::{self, AttachedMode, XdpMode},
    catalog::MapSpec,
    counters::sum,
    error::{DataplaneError, PRIVILEGE_HINT, Result, chain},
    mapping::Plain,
    maps::{data_of, is_missing},
    pins::{self, LinkMode, Pins},
    program::Run,
    take,
};

/// The object, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/evenkeel-decap"));

const PROGRAM: &str = "evenkeel_decap";
const ADDRESSES: &str = "ADDRESSES";
const COUNTERS: &str = "COUNTERS";

const LOAD_HINT: &str = "root (or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN) and Linux 5.10 or \
     newer are needed";
const ADDRESSES_HINT: &str = "if this persists, run `evenkeel decap --remove` and start again";
const NAMESPACE_HINT: &str = "is /proc mounted?";

const RUN_HINT: &str = "frames of 14 to about 3,500 bytes can be run";

const MAPS: [MapSpec; 2] = [
    MapSpec {
        name: ADDRESSES,
        kind: MapType::Hash,
        key_size: size_of::<LocalAddress>() as u32,
        value_size: size_of::<u32>() as u32,
        max_entries: ADDRESS_TABLE_SIZE,
        flags: 0,
    },
    MapSpec {
        name: COUNTERS,
        kind: MapType::PerCpuArray,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<DecapCounters>() as u32,
        max_entries: 1,
        flags: 0,
    },
];

/// The pins of one interface's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecapPins {
    pins: Pins,
    parent: PathBuf,
}

impl DecapPins {
    /// Pins of an interface in this thread's network namespace, below the BPF file system at `bpffs`.
    pub fn at(bpffs: &Path, interface: &str) -> Result<Self> {
        let this = Path::new("/proc/thread-self/ns/net");
        let namespace = std::fs::metadata(this)
            .map_err(|error| pins::failed("look at", this, &error, NAMESPACE_HINT))?
            .ino();
        let name = format!("{}@{namespace}", pins::escaped(interface));
        Ok(Self {
            pins: Pins::below(bpffs, &Path::new("evenkeel-decap").join(name)),
            parent: bpffs.join("evenkeel-decap"),
        })
    }

    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.pins.folder()
    }

    /// Whether a BPF file system is mounted.
    pub fn is_usable(&self) -> Result<bool> {
        self.pins.is_mounted()
    }

    fn map(&self, name: &str) -> PathBuf {
        self.pins.maps().join(name)
    }

    /// Whether all maps are pinned and match this version.
    fn are_current(&self) -> bool {
        MAPS.iter().all(|spec| {
            MapData::from_pin(self.map(spec.name))
                .is_ok_and(|data| spec.check(spec.name, &data).is_ok())
        })
    }

    fn open_map(&self, name: &str) -> Result<Map> {
        let path = self.map(name);
        MapData::from_pin(&path)
            .and_then(Map::from_map_data)
            .map_err(|error| {
                let kernel = io::Error::other(chain(&error));
                pins::failed("open pinned map", &path, &kernel, ADDRESSES_HINT)
            })
    }

    /// Detaches the program and removes all pins; returns whether there were any.
    pub fn remove(&self) -> Result<bool> {
        let was = self.folder().exists();
        self.pins.remove_all()?;
        // Fails if other interfaces have pins.
        let _ = pins::remove_folder(&self.parent);
        Ok(was)
    }

    /// Status of the attached program; none if there is none.
    pub fn status(&self, interface: &str) -> Result<Option<DecapStatus>> {
        let index = nix::net::if_::if_nametoindex(interface).ok();
        let attached = [LinkMode::Native, LinkMode::Generic]
            .into_iter()
            .find(|&mode| {
                let link = attach::interface_of(&self.pins.link(interface, mode));
                link.is_some() && link == index
            });
        let Some(mode) = attached else {
            return Ok(None);
        };
        let failed = |name: &'static str| {
            move |error| DataplaneError::map("open", name, &error, PRIVILEGE_HINT)
        };
        let counters = PerCpuArray::try_from(self.open_map(COUNTERS)?).map_err(failed(COUNTERS))?;
        let addresses: Addresses =
            HashMap::try_from(self.open_map(ADDRESSES)?).map_err(failed(ADDRESSES))?;
        Ok(Some(DecapStatus {
            native: mode == LinkMode::Native,
            addresses: keys(&addresses)?.iter().filter_map(ip).collect(),
            counters: sum(&counters, COUNTERS, 0)?,
        }))
    }
}

/// Status of the program on an interface.
#[derive(Clone, Debug)]
pub struct DecapStatus {
    /// Whether the program runs in the driver.
    pub native: bool,
    /// The addresses that it decapsulates packets for.
    pub addresses: BTreeSet<IpAddr>,
    pub counters: DecapCounters,
}

type Addresses = HashMap<MapData, Plain<LocalAddress>, u32>;

pub struct Decapsulator {
    ebpf: Ebpf,
    addresses: Addresses,
    counters: PerCpuArray<MapData, Plain<DecapCounters>>,
    pins: Option<DecapPins>,
    /// A link that is not pinned: ends with this process.
    link: Option<FdLink>,
}

impl fmt::Debug for Decapsulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decapsulator")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Decapsulator {
    /// Loads the program without pins: it stays attached as long as this lives.
    pub fn load() -> Result<Self> {
        Self::assemble(None, false)
    }

    /// Loads the program with the pinned maps, or pins new ones.
    pub fn open(pins: &DecapPins) -> Result<Self> {
        pins.pins.mount()?;
        pins.pins.create_folders()?;
        Self::assemble(Some(pins), pins.are_current())
    }

    fn assemble(pins: Option<&DecapPins>, adopt: bool) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        if let Some(pins) = pins.filter(|_| adopt) {
            for spec in &MAPS {
                loader.map_pin_path(spec.name, pins.map(spec.name));
            }
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| DataplaneError::Load {
            kernel: chain(&error),
            hint: LOAD_HINT,
        })?;
        for spec in &MAPS {
            spec.check(spec.name, data(&ebpf, spec.name)?)?;
        }
        xdp(&mut ebpf)?
            .load()
            .map_err(|error| DataplaneError::program("load", PROGRAM, &error, PRIVILEGE_HINT))?;
        if let Some(pins) = pins.filter(|_| !adopt) {
            pin_maps(&ebpf, pins)?;
        }
        Ok(Self {
            addresses: take(&mut ebpf, ADDRESSES)?,
            counters: take(&mut ebpf, COUNTERS)?,
            ebpf,
            pins: pins.cloned(),
            link: None,
        })
    }

    /// Sets the local addresses: adds the missing ones, then removes the others. Only the first
    /// [`MAX_ADDRESSES`] are used; returns how many were left out.
    pub fn set_addresses(&mut self, wanted: &[IpAddr]) -> Result<usize> {
        let taken = wanted.len().min(MAX_ADDRESSES as usize);
        let wanted_keys: Vec<LocalAddress> = wanted[..taken].iter().map(key).collect();
        let there = keys(&self.addresses)?;
        let failed = |operation| {
            move |error| DataplaneError::map(operation, ADDRESSES, &error, ADDRESSES_HINT)
        };
        for key in wanted_keys.iter().filter(|key| !there.contains(key)) {
            let added = self.addresses.insert(Plain(*key), 1, 0);
            added.map_err(failed("add an entry"))?;
        }
        for key in there.iter().filter(|key| !wanted_keys.contains(key)) {
            match self.addresses.remove(&Plain(*key)) {
                Err(error) if is_missing(&error) => {}
                other => other.map_err(failed("remove an entry"))?,
            }
        }
        Ok(wanted.len() - taken)
    }

    /// Attaches the program to an interface. With pins, a program of ours that is there is replaced
    /// in one step; without, it is detached when this is dropped.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<AttachedMode> {
        let xdp = xdp(&mut self.ebpf)?;
        if let Some(pins) = &self.pins {
            return attach::attach_pinned(xdp, &pins.pins, interface, mode);
        }
        self.link = None;
        let (link, _, attached) = attach::attach_as(xdp, interface, mode)?;
        self.link = Some(link);
        Ok(attached)
    }

    /// Detaches the program and removes its pins.
    pub fn detach(mut self) -> Result<()> {
        self.link = None;
        match &self.pins {
            Some(pins) => pins.remove().map(drop),
            None => Ok(()),
        }
    }

    pub fn counters(&self) -> Result<DecapCounters> {
        sum(&self.counters, COUNTERS, 0)
    }

    /// Runs the program on a frame.
    pub fn run(&mut self, frame: &[u8]) -> Result<Run> {
        // Frames only shrink.
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = xdp(&mut self.ebpf)?
            .test_run(options)
            .map_err(|error| DataplaneError::program("run", PROGRAM, &error, RUN_HINT))?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            verdict: result.return_value,
            frame: out,
        })
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(DataplaneError::Missing {
            kind: "program",
            name: PROGRAM,
        })
}

fn data<'object>(ebpf: &'object Ebpf, name: &'static str) -> Result<&'object MapData> {
    ebpf.map(name)
        .and_then(data_of)
        .ok_or(DataplaneError::Missing { kind: "map", name })
}

/// Pins the maps in place of existing pins; programs that use the old maps keep them.
fn pin_maps(ebpf: &Ebpf, pins: &DecapPins) -> Result<()> {
    for spec in &MAPS {
        let path = pins.map(spec.name);
        pins::remove(&path)?;
        data(ebpf, spec.name)?.pin(&path).map_err(|error| {
            let kernel = io::Error::other(chain(&error));
            pins::failed("pin", &path, &kernel, PRIVILEGE_HINT)
        })?;
    }
    Ok(())
}

fn keys(addresses: &Addresses) -> Result<Vec<LocalAddress>> {
    let read: std::result::Result<_, MapError> = addresses.keys().map(|key| Ok(key?.0)).collect();
    read.map_err(|error| DataplaneError::map("read", ADDRESSES, &error, ADDRESSES_HINT))
}

const fn key(address: &IpAddr) -> LocalAddress {
    let (address, family) = address_of(*address);
    LocalAddress {
        address,
        family: family as u64,
    }
}

/// Returns the address of a key; `None` for a family that this version does not write.
fn ip(key: &LocalAddress) -> Option<IpAddr> {
    let family = u8::try_from(key.family).ok()?;
    matches!(family, family::V4 | family::V6).then(|| ip_of(&key.address, family))
}
