//! Type, sizes and flags of every map.
//!
//! Neither aya nor the verifier compares a pinned map with what the program was built for. So every
//! map is checked against this list, including new ones: object and controller can't disagree
//! unnoticed.

use std::{marker::PhantomData, mem::offset_of};

use aya::maps::{MapData, MapType};
use lb_common::{
    bound::{Candidates, CpuLoads, MemberBound, SYN_NOTES},
    capture::{CaptureCounts, Filter},
    counters::CpuBlock,
    fragment::{FragmentKey, FragmentTarget, MAX_DATAGRAMS},
    limit::{
        AREA_WORDS, LINES, Limit, LimitCounters, LimitedKey, Line, ListKey, MAX_LIMITED,
        MAX_PREFIXES, SYN_BLOCK_WORDS, SYN_BLOCKS,
    },
    member::{Egress, MAX_EGRESS, Member},
    nat::{
        MAX_LOCKS, MAX_NAT_SOURCES, NatSource, ReplyBucket, RequestBucket, buckets_for,
        embryonic_buckets,
    },
    node::Budget,
    ring::{Image, MAX_IMAGES, MAX_MEMBERS},
    sample::{FlowKey, FlowSample, MAX_SAMPLES},
    station::STATION_TABLE_SIZE,
    tables::Tables,
    track::Bucket,
    vip::{MAX_VIPS, VIP_TABLE_SIZE, Vip, VipEntry},
};

use super::{
    MapSize,
    error::{DataplaneError, MISMATCH_HINT, PRIVILEGE_HINT, Result},
    object::LoadOptions,
};

/// Names of the maps in the object.
pub(super) mod name {
    pub(in super::super) const TABLES: &str = "TABLES";
    pub(in super::super) const RINGS: &str = "RINGS";
    pub(in super::super) const DEVICES: &str = "DEVICES";
    pub(in super::super) const TRACK: &str = "TRACK";
    pub(in super::super) const NAT_REQUESTS: &str = "NAT_REQUESTS";
    pub(in super::super) const NAT_REPLIES: &str = "NAT_REPLIES";
    pub(in super::super) const NAT_LOCKS: &str = "NAT_LOCKS";
    pub(in super::super) const NAT_NEW: &str = "NAT_NEW";
    pub(in super::super) const NAT_INDEX: &str = "NAT_INDEX";
    pub(in super::super) const FRAGMENTS: &str = "FRAGMENTS";
    pub(in super::super) const SAMPLES: &str = "SAMPLES";
    pub(in super::super) const COUNTERS: &str = "COUNTERS";
    pub(in super::super) const ICMP_BUDGET: &str = "ICMP_BUDGET";
    pub(in super::super) const SAMPLE_BUDGET: &str = "SAMPLE_BUDGET";
    pub(in super::super) const LIMITS: &str = "LIMITS";
    pub(in super::super) const LIMIT_CELLS: &str = "LIMIT_CELLS";
    pub(in super::super) const LIMIT_VIPS: &str = "LIMIT_VIPS";
    pub(in super::super) const LIMIT_COUNTERS: &str = "LIMIT_COUNTERS";
    pub(in super::super) const PREFIXES: &str = "PREFIXES";
    pub(in super::super) const DENIED_AREAS: &str = "DENIED_AREAS";
    pub(in super::super) const FIRST_SYNS: &str = "FIRST_SYNS";
    pub(in super::super) const LIMITED: &str = "LIMITED";
    pub(in super::super) const LIMITED_BUDGET: &str = "LIMITED_BUDGET";
    pub(in super::super) const BOUNDS: &str = "BOUNDS";
    pub(in super::super) const CAPACITY_CELLS: &str = "CAPACITY_CELLS";
    pub(in super::super) const CANDIDATES: &str = "CANDIDATES";
    pub(in super::super) const SPILLED: &str = "SPILLED";
    pub(in super::super) const LOADS: &str = "LOADS";
    pub(in super::super) const SPILLED_SYNS: &str = "SPILLED_SYNS";
    pub(in super::super) const CAPTURE_FILTER: &str = "CAPTURE_FILTER";
    pub(in super::super) const CAPTURE_FRAMES: &str = "CAPTURE_FRAMES";
    pub(in super::super) const CAPTURE_COUNTS: &str = "CAPTURE_COUNTS";
    pub(in super::super) const CAPTURE_RECORDS: &str = "CAPTURE_RECORDS";
}

/// `BPF_F_MMAPABLE`, Linux 5.5.
pub(super) const MMAPABLE: u32 = 1 << 10;

/// `BPF_F_NO_PREALLOC`: tries need it.
const NO_PREALLOCATION: u32 = 1;

/// `BPF_F_RDONLY_PROG`: the kernel sets it on device maps itself.
const READ_ONLY_PROGRAM: u32 = 1 << 7;

/// Required properties of a map.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Name in the object and of the pin.
    pub name: &'static str,
    pub kind: MapType,
    /// In bytes.
    pub key_size: u32,
    /// In bytes.
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

impl MapSpec {
    /// Capacity in entries: an element may be a bucket of several.
    pub(super) fn places(&self) -> u64 {
        let in_an_element = match self.name {
            name::TRACK | name::NAT_INDEX => lb_common::track::WAYS as u32,
            name::NAT_REQUESTS | name::NAT_REPLIES | name::NAT_NEW => lb_common::nat::WAYS as u32,
            name::COUNTERS => self.value_size / size_of::<CpuBlock>() as u32,
            _ => 1,
        };
        u64::from(self.max_entries) * u64::from(in_an_element)
    }

    /// Size of all values in bytes.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.max_entries) * u64::from(self.value_size)
    }
}

const fn spec<K, V>(name: &'static str, kind: MapType, max_entries: u32, flags: u32) -> MapSpec {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    MapSpec {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
    }
}

/// A table of fixed size inside [`name::TABLES`].
#[derive(Debug)]
pub(super) struct Part<V> {
    /// Name in errors and metrics.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    pub len: u32,
    _values: PhantomData<V>,
}

impl<V> Part<V> {
    const fn new(name: &'static str, offset: usize, len: u32) -> Self {
        Self {
            name,
            offset,
            len,
            _values: PhantomData,
        }
    }

    const fn size(&self) -> MapSize {
        MapSize {
            name: self.name,
            places: self.len as u64,
            bytes: Some(self.len as u64 * size_of::<V>() as u64),
        }
    }
}

/// The parts of [`name::TABLES`].
pub(super) mod part {
    use super::{
        Egress, MAX_EGRESS, MAX_MEMBERS, MAX_NAT_SOURCES, MAX_VIPS, MapSize, Member, NatSource,
        Part, STATION_TABLE_SIZE, Tables, VIP_TABLE_SIZE, Vip, VipEntry, offset_of,
    };

    pub(in super::super) const SERVICES: Part<VipEntry> =
        Part::new("VIP_TABLE", offset_of!(Tables, services), VIP_TABLE_SIZE);
    pub(in super::super) const VIPS: Part<Vip> =
        Part::new("VIPS", offset_of!(Tables, vips), MAX_VIPS);
    pub(in super::super) const MEMBERS: Part<Member> =
        Part::new("MEMBERS", offset_of!(Tables, members), MAX_MEMBERS);
    pub(in super::super) const EGRESS: Part<Egress> =
        Part::new("EGRESS", offset_of!(Tables, egress), MAX_EGRESS);
    /// Words before the station table in its mapping, which starts at a page boundary.
    pub(in super::super) const BEFORE_STATIONS: u32 =
        ((offset_of!(Tables, stations) - offset_of!(Tables, egress)) / size_of::<u64>()) as u32;
    /// Position of the main station in that mapping.
    pub(in super::super) const MAIN_STATION: u32 =
        ((offset_of!(Tables, main_station) - offset_of!(Tables, egress)) / size_of::<u64>()) as u32;
    pub(in super::super) const STATIONS: Part<u64> =
        Part::new("STATIONS", offset_of!(Tables, egress), MAIN_STATION + 1);
    /// Position of the heartbeat in its mapping, which starts at a page boundary.
    pub(in super::super) const HEARTBEAT_AT: u32 =
        ((offset_of!(Tables, heartbeat_s) - offset_of!(Tables, egress)) / size_of::<u64>()) as u32;
    pub(in super::super) const HEARTBEAT: Part<u64> =
        Part::new("HEARTBEAT", offset_of!(Tables, egress), HEARTBEAT_AT + 1);
    /// Position of the clock in its mapping, as the heartbeat's.
    pub(in super::super) const CLOCK_AT: u32 =
        ((offset_of!(Tables, clock_ns) - offset_of!(Tables, egress)) / size_of::<u64>()) as u32;
    pub(in super::super) const CLOCK: Part<u64> =
        Part::new("CLOCK", offset_of!(Tables, egress), CLOCK_AT + 1);
    /// Position of the end of warming in its mapping, as the heartbeat's.
    pub(in super::super) const WARMING_AT: u32 = ((offset_of!(Tables, warming_until_s)
        - offset_of!(Tables, egress))
        / size_of::<u64>()) as u32;
    /// Position of the end of suspicion, which is mapped together with that of warming.
    pub(in super::super) const SUSPECT_AT: u32 = ((offset_of!(Tables, suspect_until_s)
        - offset_of!(Tables, egress))
        / size_of::<u64>()) as u32;
    pub(in super::super) const WARMING: Part<u64> =
        Part::new("WARMING", offset_of!(Tables, egress), SUSPECT_AT + 1);
    pub(in super::super) const NAT_SOURCES: Part<NatSource> = Part::new(
        "NAT_SOURCES",
        offset_of!(Tables, nat_sources),
        MAX_NAT_SOURCES,
    );

    /// Offset in [`super::name::TABLES`] of the table that the programs know by this symbol.
    pub(in super::super) fn offset_of_symbol(symbol: &str) -> Option<usize> {
        let symbols = [
            (SERVICES.name, SERVICES.offset),
            (VIPS.name, VIPS.offset),
            (MEMBERS.name, MEMBERS.offset),
            (EGRESS.name, EGRESS.offset),
            (STATIONS.name, offset_of!(Tables, stations)),
            ("MAIN_STATION", offset_of!(Tables, main_station)),
            (HEARTBEAT.name, offset_of!(Tables, heartbeat_s)),
            (CLOCK.name, offset_of!(Tables, clock_ns)),
            ("PATH_MTUS", offset_of!(Tables, path_mtus)),
            (NAT_SOURCES.name, NAT_SOURCES.offset),
        ];
        let found = symbols.into_iter().find(|(name, _)| *name == symbol);
        found.map(|(_, offset)| offset)
    }

    pub(in super::super) const SIZES: [MapSize; 6] = [
        SERVICES.size(),
        VIPS.size(),
        MEMBERS.size(),
        EGRESS.size(),
        MapSize {
            name: STATIONS.name,
            places: STATION_TABLE_SIZE as u64,
            bytes: Some(STATION_TABLE_SIZE as u64 * size_of::<u64>() as u64),
        },
        NAT_SOURCES.size(),
    ];
}

pub(super) const TABLES: MapSpec = spec::<u32, Tables>(name::TABLES, MapType::Array, 1, MMAPABLE);

/// A table whose size depends on the configuration: as many elements.
const fn sized_table<V>(name: &'static str, len: u32) -> MapSpec {
    spec::<u32, V>(name, MapType::Array, len, MMAPABLE)
}

const fn counts<V>(name: &'static str, max_entries: u32) -> MapSpec {
    spec::<u32, V>(name, MapType::PerCpuArray, max_entries, 0)
}

const fn recent<K, V>(name: &'static str, max_entries: u32) -> MapSpec {
    spec::<K, V>(name, MapType::LruHash, max_entries, 0)
}

/// The map with the counters of all CPUs that the machine may have.
pub(super) const fn counters(cpus: u32) -> MapSpec {
    let one = spec::<u32, CpuBlock>(name::COUNTERS, MapType::Array, 1, MMAPABLE);
    MapSpec {
        value_size: cpus * one.value_size,
        ..one
    }
}

/// The maps that programs reach as global data, see [`super::external`].
pub(super) fn external(cpus: u32) -> [MapSpec; 2] {
    [TABLES, counters(cpus)]
}

/// The balancer's other maps, sized by these options and the number of CPUs.
pub(super) fn ordinary(options: &LoadOptions, cpus: u32) -> Vec<MapSpec> {
    vec![
        spec::<u32, u32>(name::RINGS, MapType::ArrayOfMaps, MAX_IMAGES, 0),
        // An interface index and a program: `bpf_devmap_val`, Linux 5.8.
        spec::<u32, [u32; 2]>(
            name::DEVICES,
            MapType::DevMapHash,
            MAX_EGRESS,
            READ_ONLY_PROGRAM,
        ),
        sized_table::<Bucket>(name::TRACK, options.track_buckets),
        sized_table::<RequestBucket>(name::NAT_REQUESTS, buckets_for(options.nat_sessions)),
        sized_table::<ReplyBucket>(name::NAT_REPLIES, buckets_for(options.nat_sessions)),
        spec::<u32, u32>(name::NAT_LOCKS, MapType::Hash, MAX_LOCKS, 0),
        sized_table::<ReplyBucket>(name::NAT_NEW, embryonic_buckets(options.nat_embryonic)),
        sized_table::<Bucket>(name::NAT_INDEX, embryonic_buckets(options.nat_embryonic)),
        recent::<FragmentKey, FragmentTarget>(name::FRAGMENTS, MAX_DATAGRAMS),
        recent::<FlowKey, FlowSample>(name::SAMPLES, MAX_SAMPLES),
        counts::<Budget>(name::ICMP_BUDGET, 1),
        counts::<Budget>(name::SAMPLE_BUDGET, 1),
        sized_table::<Limit>(name::LIMITS, MAX_VIPS),
        sized_table::<Line>(name::LIMIT_CELLS, LINES),
        sized_table::<Line>(name::LIMIT_VIPS, MAX_VIPS),
        counts::<LimitCounters>(name::LIMIT_COUNTERS, MAX_VIPS),
        // A prefix length and the data: `bpf_lpm_trie_key`.
        spec::<[u8; 4 + size_of::<ListKey>()], u64>(
            name::PREFIXES,
            MapType::LpmTrie,
            MAX_PREFIXES,
            NO_PREALLOCATION,
        ),
        sized_table::<u64>(name::DENIED_AREAS, AREA_WORDS),
        spec::<u32, [u64; SYN_BLOCK_WORDS]>(name::FIRST_SYNS, MapType::Array, 2 * SYN_BLOCKS, 0),
        recent::<LimitedKey, u64>(name::LIMITED, MAX_LIMITED),
        counts::<Budget>(name::LIMITED_BUDGET, 1),
        sized_table::<MemberBound>(name::BOUNDS, MAX_MEMBERS),
        sized_table::<u64>(name::CAPACITY_CELLS, MAX_MEMBERS),
        sized_table::<Candidates>(name::CANDIDATES, MAX_VIPS),
        sized_table::<u64>(name::SPILLED, MAX_MEMBERS),
        sized_table::<CpuLoads>(name::LOADS, cpus),
        sized_table::<u64>(name::SPILLED_SYNS, SYN_NOTES),
    ]
}

/// Maps that builds before this one did not have, with the same layout of the others: where one is
/// missing beside pinned ones, an empty one is created.
pub(super) const ADDED: [&str; 15] = [
    name::LIMITS,
    name::LIMIT_CELLS,
    name::LIMIT_VIPS,
    name::LIMIT_COUNTERS,
    name::PREFIXES,
    name::DENIED_AREAS,
    name::FIRST_SYNS,
    name::LIMITED,
    name::LIMITED_BUDGET,
    name::BOUNDS,
    name::CAPACITY_CELLS,
    name::CANDIDATES,
    name::SPILLED,
    name::LOADS,
    name::SPILLED_SYNS,
];

/// All maps of the balancer, sized by these options and the number of CPUs.
#[must_use]
pub fn catalog(options: &LoadOptions, cpus: u32) -> Vec<MapSpec> {
    let mut maps = Vec::from(external(cpus));
    maps.extend(ordinary(options, cpus));
    maps
}

/// Maps of the capturing program that the controller maps into its memory. They belong to the loaded
/// program and are not pinned.
pub(super) const fn capture(cpus: u32) -> [MapSpec; 2] {
    [
        spec::<u32, Filter>(name::CAPTURE_FILTER, MapType::Array, 1, MMAPABLE),
        spec::<u32, CaptureCounts>(name::CAPTURE_COUNTS, MapType::Array, cpus, MMAPABLE),
    ]
}

pub(super) const IMAGE: MapSpec = spec::<u32, Image>("ring image", MapType::Array, 1, MMAPABLE);

impl MapSpec {
    pub(super) fn create(&self) -> Result<MapData> {
        let object = aya_obj::Map::new_from_params(
            self.kind as u32,
            self.key_size,
            self.value_size,
            self.max_entries,
            self.flags,
        );
        MapData::create(object, self.name, None)
            .map_err(|error| DataplaneError::map("create", self.name, &error, PRIVILEGE_HINT))
    }

    /// Checks that a map has the required properties. `shown` is the map's name in errors.
    pub(super) fn check(&self, shown: &str, map: &MapData) -> Result<()> {
        let info = map
            .info()
            .map_err(|error| DataplaneError::map("describe", shown, &error, PRIVILEGE_HINT))?;
        let kind = info
            .map_type()
            .map_err(|error| DataplaneError::map("describe", shown, &error, PRIVILEGE_HINT))?;
        let differs = |what, has: String, needs: String| {
            Err(DataplaneError::Incompatible {
                map: shown.to_owned(),
                what,
                has,
                needs,
                hint: MISMATCH_HINT,
            })
        };
        if kind != self.kind {
            return differs("type", format!("{kind:?}"), format!("{:?}", self.kind));
        }
        let flags = info.map_flags() | self.flags & READ_ONLY_PROGRAM;
        for (what, has, needs) in [
            ("key size", info.key_size(), self.key_size),
            ("value size", info.value_size(), self.value_size),
            ("size", info.max_entries(), self.max_entries),
            ("flags", flags, self.flags),
        ] {
            if has != needs {
                return differs(what, has.to_string(), needs.to_string());
            }
        }
        Ok(())
    }
}
