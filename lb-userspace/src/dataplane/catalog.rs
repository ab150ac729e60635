//! What each map of the object must be: kind, sizes, flags.
//!
//! aya opens a pinned map without comparing it with what the program was built for, and so would
//! the verifier let a program work on a map of another size. So every map is compared with this
//! list, those that were just created as well: then object and controller can't disagree silently.

use aya::maps::{MapData, MapType};
use lb_common::{
    counters::{MemberCounters, NodeCounters, VipCounters},
    fragment::{FragmentKey, FragmentTarget, MAX_DATAGRAMS},
    member::{Egress, MAX_EGRESS, Member},
    nat::{
        MAX_LOCKS, MAX_NAT_SOURCES, NatFlow, NatKey, NatSource, ReplyBucket, RequestBucket,
        buckets_for,
    },
    node::Budget,
    ring::{IMAGE_WORDS, MAX_IMAGES, MAX_MEMBERS},
    sample::{FlowKey, FlowSample, MAX_SAMPLES},
    trace::Trace,
    track::Bucket,
    vip::{MAX_VIPS, VIP_TABLE_SIZE, Vip, VipEntry},
};

use super::{
    error::{DataplaneError, MISMATCH_HINT, PRIVILEGE_HINT, Result},
    object::LoadOptions,
};

/// Names of the maps, as the object has them.
pub(super) mod name {
    pub(in super::super) const VIP_TABLE: &str = "VIP_TABLE";
    pub(in super::super) const VIPS: &str = "VIPS";
    pub(in super::super) const RINGS: &str = "RINGS";
    pub(in super::super) const MEMBERS: &str = "MEMBERS";
    pub(in super::super) const EGRESS: &str = "EGRESS";
    pub(in super::super) const DEVICES: &str = "DEVICES";
    pub(in super::super) const TRACK: &str = "TRACK";
    pub(in super::super) const NAT_REQUESTS: &str = "NAT_REQUESTS";
    pub(in super::super) const NAT_REPLIES: &str = "NAT_REPLIES";
    pub(in super::super) const NAT_LOCKS: &str = "NAT_LOCKS";
    pub(in super::super) const NAT_NEW: &str = "NAT_NEW";
    pub(in super::super) const NAT_SOURCES: &str = "NAT_SOURCES";
    pub(in super::super) const FRAGMENTS: &str = "FRAGMENTS";
    pub(in super::super) const SAMPLES: &str = "SAMPLES";
    pub(in super::super) const MEMBER_COUNTS: &str = "MEMBER_COUNTS";
    pub(in super::super) const VIP_COUNTS: &str = "VIP_COUNTS";
    pub(in super::super) const NODE_COUNTS: &str = "NODE_COUNTS";
    pub(in super::super) const ICMP_BUDGET: &str = "ICMP_BUDGET";
    pub(in super::super) const SAMPLE_BUDGET: &str = "SAMPLE_BUDGET";
    pub(in super::super) const TRACE: &str = "TRACE";
}

/// `BPF_F_MMAPABLE`, Linux 5.5.
pub(super) const MMAPABLE: u32 = 1 << 10;

/// `BPF_F_RDONLY_PROG`: the kernel sets it on device maps by itself.
const READ_ONLY_PROGRAM: u32 = 1 << 7;

/// What a map must be.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Name in the object, and of its pin.
    pub name: &'static str,
    /// Type.
    pub kind: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries.
    pub max_entries: u32,
    /// Flags.
    pub flags: u32,
}

impl MapSpec {
    /// What the map has room for: a table is one element, a bucket has several places.
    pub(super) fn places(&self) -> u64 {
        let in_an_element = match self.name {
            name::VIP_TABLE => VIP_TABLE_SIZE,
            name::VIPS => MAX_VIPS,
            name::MEMBERS => MAX_MEMBERS,
            name::EGRESS => MAX_EGRESS,
            name::NAT_SOURCES => MAX_NAT_SOURCES,
            name::TRACK => lb_common::track::WAYS as u32,
            name::NAT_REQUESTS | name::NAT_REPLIES => lb_common::nat::WAYS as u32,
            _ => 1,
        };
        u64::from(self.max_entries) * u64::from(in_an_element)
    }

    /// Bytes of all values.
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

/// A table of fixed size: one element, in which the data path finds its way without a lookup.
pub(super) const fn table<V>(name: &'static str, len: u32) -> MapSpec {
    let one = spec::<u32, V>(name, MapType::Array, 1, MMAPABLE);
    MapSpec {
        value_size: one.value_size * len,
        ..one
    }
}

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

/// All maps of the balancer, as these options make them.
#[must_use]
pub fn catalog(options: &LoadOptions) -> Vec<MapSpec> {
    vec![
        table::<VipEntry>(name::VIP_TABLE, VIP_TABLE_SIZE),
        table::<Vip>(name::VIPS, MAX_VIPS),
        spec::<u32, u32>(name::RINGS, MapType::ArrayOfMaps, MAX_IMAGES, 0),
        table::<Member>(name::MEMBERS, MAX_MEMBERS),
        table::<Egress>(name::EGRESS, MAX_EGRESS),
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
        recent::<NatKey, NatFlow>(name::NAT_NEW, 2 * options.nat_embryonic),
        table::<NatSource>(name::NAT_SOURCES, MAX_NAT_SOURCES),
        recent::<FragmentKey, FragmentTarget>(name::FRAGMENTS, MAX_DATAGRAMS),
        recent::<FlowKey, FlowSample>(name::SAMPLES, MAX_SAMPLES),
        counts::<MemberCounters>(name::MEMBER_COUNTS, MAX_MEMBERS),
        counts::<VipCounters>(name::VIP_COUNTS, MAX_VIPS),
        counts::<NodeCounters>(name::NODE_COUNTS, 1),
        counts::<Budget>(name::ICMP_BUDGET, 1),
        counts::<Budget>(name::SAMPLE_BUDGET, 1),
        counts::<Trace>(name::TRACE, 1),
    ]
}

/// What each ring image must be.
pub(super) const IMAGE: MapSpec = table::<u64>("ring image", IMAGE_WORDS);

impl MapSpec {
    /// Compares a map with what it must be. `shown` is how errors call the map.
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
