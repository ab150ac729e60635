//! The program `evenkeel_probe` on the interfaces: health checks through the VIP.
//!
//! It reads the balancer's pinned member and egress tables. Its own maps are not pinned: the paths are
//! written at every start. It is attached to both directions of an interface in the traffic-control
//! layer, by links that end with this process (tcx, Linux 6.6). On older kernels it is a filter of the
//! `clsact` qdisc, which outlives a killed process; the next one, and `unload`, remove it by its name.
//! See `docs/adr/0005-probes-through-the-vip.md`.

use std::{collections::BTreeMap, fmt, io, net::IpAddr};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapType, PerCpuArray},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError},
    },
};
use bytemuck::Zeroable as _;
use lb_common::{
    address_of,
    probe::{MAX_PROBE_FLOWS, ProbeCounters, ProbeFlow, ProbePath as Entry, ProbedBackend},
    ring::MAX_MEMBERS,
    vip::forward,
};

use super::{
    catalog::{MapSpec, TABLES},
    counters::sum,
    error::{DataplaneError, PRIVILEGE_HINT, Result, chain, os_error},
    external::ExternalMaps,
    mapping::Plain,
    maps::data_of,
    pins::{self, Pins},
    take,
};

/// The object, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/evenkeel-probe"));

const PATHS: &str = "PROBE_PATHS";
const COUNTS: &str = "PROBE_COUNTS";

/// Programs and hooks in the order of attachment: replies must be handled before probes are sent.
const PROGRAMS: [(&str, TcAttachType); 2] = [
    ("probe_in", TcAttachType::Ingress),
    ("probe_out", TcAttachType::Egress),
];

const LOAD_HINT: &str = "root (or CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN) and Linux 5.10 or \
     newer are needed; until then set `via = \"direct\"` in [vip.health]";
const PINNED_HINT: &str = "load the data path first (`evenkeel run`)";
const ATTACH_HINT: &str = "before Linux 6.6 the kernel needs CONFIG_NET_SCH_INGRESS and \
     CONFIG_NET_CLS_BPF; without them set `via = \"direct\"` in [vip.health]";
const DETACH_HINT: &str = "remove it by hand: `tc filter del dev INTERFACE ingress`, and `egress`";

const MAPS: [MapSpec; 3] = [
    map::<u32, Entry>(PATHS, MapType::Array, MAX_MEMBERS, 0),
    map::<ProbeFlow, ProbedBackend>("PROBE_FLOWS", MapType::LruHash, MAX_PROBE_FLOWS, 0),
    map::<u32, ProbeCounters>(COUNTS, MapType::PerCpuArray, 1, 0),
];

const fn map<K, V>(name: &'static str, kind: MapType, max_entries: u32, flags: u32) -> MapSpec {
    MapSpec {
        name,
        kind,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries,
        flags,
    }
}

/// The path of a member's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePath {
    /// Address of the VIP, of the backend's family.
    pub vip: IpAddr,
    /// With an outer header (`ipip`), else by MAC address (`l2`).
    pub encapsulated: bool,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    /// tcx, Linux 6.6.
    Link,
    /// The `clsact` qdisc.
    Filter,
}

struct Attached {
    ifindex: u32,
    _links: Vec<SchedClassifierLink>,
}

/// The probe program. Dropping this detaches it.
pub struct ProbePaths {
    ebpf: Ebpf,
    paths: Array<MapData, Plain<Entry>>,
    counters: PerCpuArray<MapData, Plain<ProbeCounters>>,
    attached: BTreeMap<String, Attached>,
    hook: Hook,
}

impl fmt::Debug for ProbePaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbePaths")
            .field("interfaces", &self.attached.keys())
            .field("hook", &self.hook)
            .finish_non_exhaustive()
    }
}

impl ProbePaths {
    /// Loads the program, which reads the pinned member and egress tables.
    ///
    /// # Errors
    ///
    /// The data path is not pinned, or the kernel rejects the program.
    pub fn load(pins: &Pins) -> Result<Self> {
        let path = pins.maps().join(TABLES.name);
        if !path.exists() {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(pins::failed("open", &path, &missing, PINNED_HINT));
        }
        let tables = ExternalMaps::open([TABLES], &pins.maps())?;
        let object = tables.link(OBJECT)?;
        let mut ebpf = Ebpf::load(object.bytes()).map_err(|error| DataplaneError::Load {
            kernel: chain(&error),
            hint: LOAD_HINT,
        })?;
        check_maps(&ebpf)?;
        for (program, _) in PROGRAMS {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|error| DataplaneError::program("load", program, &error, LOAD_HINT))?;
        }
        Ok(Self {
            paths: take(&mut ebpf, PATHS)?,
            counters: take(&mut ebpf, COUNTS)?,
            ebpf,
            attached: BTreeMap::new(),
            hook: Hook::Link,
        })
    }

    /// Uses filters instead of tcx, as on kernels before 6.6; for tests.
    #[must_use]
    pub fn with_filters(mut self) -> Self {
        self.hook = Hook::Filter;
        self
    }

    /// Attaches the program to both directions of an interface, unless it is attached. Needed on all
    /// interfaces that transmit probes or receive replies.
    ///
    /// # Errors
    ///
    /// The kernel rejects it.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let ifindex = nix::net::if_::if_nametoindex(interface).map_err(|errno| {
            let error = io::Error::from(errno);
            attach_error(interface, &error)
        })?;
        match self.attached.get(interface) {
            Some(attached) if attached.ifindex == ifindex => return Ok(()),
            // Another interface of the same name.
            _ => self.attached.remove(interface),
        };
        let links = match self.attach_as(interface, self.hook) {
            Err(error) if self.hook == Hook::Link && lacks_tcx(&error) => {
                self.hook = Hook::Filter;
                self.attach_as(interface, Hook::Filter)
            }
            other => other,
        };
        let links = links.map_err(|error| attach_error(interface, &error))?;
        let attached = Attached {
            ifindex,
            _links: links,
        };
        self.attached.insert(interface.to_owned(), attached);
        Ok(())
    }

    fn attach_as(
        &mut self,
        interface: &str,
        hook: Hook,
    ) -> std::result::Result<Vec<SchedClassifierLink>, ProgramError> {
        if hook == Hook::Filter {
            add_qdisc(interface)?;
            remove_filters(interface)?;
        }
        let mut links = Vec::new();
        for (name, place) in PROGRAMS {
            let Some(program) = self.ebpf.program_mut(name) else {
                continue;
            };
            let program: &mut SchedClassifier = program.try_into()?;
            let options = match hook {
                Hook::Link => TcAttachOptions::TcxOrder(LinkOrder::default()),
                Hook::Filter => TcAttachOptions::Netlink(NlOptions::default()),
            };
            let id = program.attach_with_options(interface, place, options)?;
            links.push(program.take_link(id)?);
        }
        Ok(links)
    }

    /// Detaches the program from an interface; returns whether it was attached. A child process holds
    /// copies of the links, and with them the program, until it calls `exec`.
    pub fn detach(&mut self, interface: &str) -> bool {
        self.attached.remove(interface).is_some()
    }

    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.attached.keys().map(String::as_str)
    }

    /// Sets the path of a member's probes; `None`: direct to the backend. The member's entry must have
    /// been written before.
    ///
    /// # Errors
    ///
    /// There is no such member.
    pub fn set(&mut self, member: u32, path: Option<ProbePath>) -> Result<()> {
        let entry = path.map_or(Entry::zeroed(), |path| Entry {
            vip: address_of(path.vip).0,
            forward: u32::from(if path.encapsulated {
                forward::IPIP
            } else {
                forward::L2
            }),
            _pad: 0,
        });
        self.paths
            .set(member, Plain(entry), 0)
            .map_err(|error| DataplaneError::map("write", PATHS, &error, PRIVILEGE_HINT))
    }

    /// # Errors
    ///
    /// The map can't be read.
    pub fn counters(&self) -> Result<ProbeCounters> {
        sum(&self.counters, COUNTS, 0)
    }

    /// Removes filters that a killed controller may have left on an interface. Only needed on kernels
    /// before 6.6.
    ///
    /// # Errors
    ///
    /// The kernel rejects it.
    pub fn unload(interface: &str) -> Result<()> {
        remove_filters(interface).map_err(|error| DataplaneError::Interface {
            operation: "remove probe filters from",
            interface: interface.to_owned(),
            kernel: chain(&error),
            hint: DETACH_HINT,
        })
    }
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut SchedClassifier> {
    let missing = DataplaneError::Missing {
        kind: "program",
        name,
    };
    let program = ebpf.program_mut(name).ok_or(missing)?;
    program
        .try_into()
        .map_err(|error| DataplaneError::program("open", name, &error, LOAD_HINT))
}

fn check_maps(ebpf: &Ebpf) -> Result<()> {
    for spec in MAPS {
        let missing = DataplaneError::Missing {
            kind: "map",
            name: spec.name,
        };
        spec.check(
            spec.name,
            ebpf.map(spec.name).and_then(data_of).ok_or(missing)?,
        )?;
    }
    Ok(())
}

/// Whether the kernel does not know the link type, as without tcx.
fn lacks_tcx(error: &ProgramError) -> bool {
    os_error(error) == Some(libc::EINVAL)
}

/// Adds the qdisc of the filters, unless it exists.
fn add_qdisc(interface: &str) -> std::result::Result<(), ProgramError> {
    match tc::qdisc_add_clsact(interface) {
        Err(error) if os_error(&error) != Some(libc::EEXIST) => match error {
            TcError::AlreadyAttached => Ok(()),
            other => Err(other.into()),
        },
        _ => Ok(()),
    }
}

/// Removes our filters by the names of the programs.
fn remove_filters(interface: &str) -> std::result::Result<(), ProgramError> {
    for (name, place) in PROGRAMS {
        match tc::qdisc_detach_program(interface, place, name) {
            Ok(()) => {}
            // No filter, no qdisc, or no interface.
            Err(error)
                if matches!(
                    os_error(&error),
                    Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP)
                ) => {}
            // aya displays this system error as its own, so it is not in the error chain.
            Err(TcError::IoError(error))
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn attach_error(interface: &str, error: &(dyn std::error::Error + 'static)) -> DataplaneError {
    DataplaneError::Interface {
        operation: "attach the probe program to",
        interface: interface.to_owned(),
        kernel: chain(error),
        hint: ATTACH_HINT,
    }
}
