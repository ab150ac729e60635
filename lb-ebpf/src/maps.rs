//! The maps of the balancer. `docs/architecture.md` lists the writer and the readers of each.
//!
//! Tables that only the controller writes are arrays mapped into its memory (`BPF_F_MMAPABLE`,
//! Linux 5.5): the controller stores words atomically, and lookups are inlined. Tables of fixed
//! size are parts of one map that is addressed without a lookup ([`crate::tables`]),
//! and so are the counters ([`crate::counters`]); those two maps are not declared here. The sizes
//! below are defaults; sizes that depend on the configuration are set at load time.

use core::hint::black_box;

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    bound::{Candidates, CpuLoads, MemberBound, SYN_NOTES},
    fragment::{FragmentKey, FragmentTarget, MAX_DATAGRAMS},
    limit::{
        AREA_WORDS, LINES, Limit, LimitCounters, LimitedKey, Line, ListKey, MAX_LIMITED,
        MAX_PREFIXES, SYN_BLOCK_WORDS, SYN_BLOCKS,
    },
    member::MAX_EGRESS,
    nat::{
        DEFAULT_EMBRYONIC, DEFAULT_SESSIONS, MAX_LOCKS, ReplyBucket, RequestBucket, buckets_for,
        embryonic_buckets,
    },
    node::{Budget, DEFAULT_ICMP_RATE},
    ring::{Image, MAX_IMAGES, MAX_MEMBERS},
    sample::{FlowKey, FlowSample, MAX_SAMPLES},
    track::{Bucket, DEFAULT_BUCKETS},
    vip::MAX_VIPS,
};

/// Flags of maps that the controller maps into its memory.
pub(crate) const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// Reduces `index` below `LEN`, a power of two, so that every verifier sees the bound. Those of
/// Linux 5.10 and 6.1 track no bounds through the xor of two variables, and the compiler removes
/// masks that it proves redundant.
#[inline(always)]
pub(crate) fn below<const LEN: usize>(index: usize) -> usize {
    const { assert!(LEN.is_power_of_two()) };
    black_box(index) & (LEN - 1)
}

/// Read-only globals: set before the program is loaded, constants to the verifier. Their names are
/// in [`lb_common::node::setting`].
macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident = $default:expr;)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub(crate) static $name: Global<u32> = Global::new($default);
    )*};
}

settings! {
    /// Version of the map layout that this object was built for.
    ABI = lb_common::ABI_VERSION;
    /// Number of counter blocks.
    CPUS = 1;
    /// Seconds are jiffies shifted right by this.
    JIFFIES_SHIFT = 8;
    /// Number of buckets of the tracking table, minus one.
    TRACK_MASK = DEFAULT_BUCKETS - 1;
    /// Number of buckets of each table of NAT sessions.
    NAT_BUCKETS = buckets_for(DEFAULT_SESSIONS);
    /// Number of buckets of embryonic NAT sessions, and of their index, minus one.
    NAT_NEW_MASK = embryonic_buckets(DEFAULT_EMBRYONIC) - 1;
    /// ICMP messages per second and CPU.
    ICMP_RATE = DEFAULT_ICMP_RATE;
    /// 1: write a trace for every packet.
    TRACING = 0;
}

/// Ring images. A VIP refers to its image by index, so a swap is one store.
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<Array<Image, 1, MAPPED>, { MAX_IMAGES as usize }> =
    ArrayOfMaps::new();

/// Egress interfaces by interface index, for `XDP_REDIRECT`.
#[btf_map]
pub(crate) static DEVICES: DevMapHash<{ MAX_EGRESS as usize }> = DevMapHash::new();

/// The tracking table, see [`lb_common::track`].
#[btf_map]
pub(crate) static TRACK: Array<Bucket, { DEFAULT_BUCKETS as usize }, MAPPED> = Array::new();

/// Established `nat` sessions by the clients' packets, see [`lb_common::nat`].
#[btf_map]
pub(crate) static NAT_REQUESTS: Array<
    RequestBucket,
    { buckets_for(DEFAULT_SESSIONS) as usize },
    MAPPED,
> = Array::new();

/// Established `nat` sessions by the backends' packets.
#[btf_map]
pub(crate) static NAT_REPLIES: Array<
    ReplyBucket,
    { buckets_for(DEFAULT_SESSIONS) as usize },
    MAPPED,
> = Array::new();

/// Buckets of the tables of sessions in which a CPU is allocating a cell.
#[btf_map]
pub(crate) static NAT_LOCKS: HashMap<u32, u32, { MAX_LOCKS as usize }> = HashMap::new();

/// Embryonic `nat` sessions by the backends' packets.
#[btf_map]
pub(crate) static NAT_NEW: Array<
    ReplyBucket,
    { embryonic_buckets(DEFAULT_EMBRYONIC) as usize },
    MAPPED,
> = Array::new();

/// Their index by flow: buckets of [`lb_common::nat::IndexWord`]s.
#[btf_map]
pub(crate) static NAT_INDEX: Array<
    Bucket,
    { embryonic_buckets(DEFAULT_EMBRYONIC) as usize },
    MAPPED,
> = Array::new();

/// Fragmented datagrams.
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentTarget, { MAX_DATAGRAMS as usize }> =
    LruHashMap::new();

#[btf_map]
pub(crate) static SAMPLES: LruHashMap<FlowKey, FlowSample, { MAX_SAMPLES as usize }> =
    LruHashMap::new();

/// Sampled flows that this CPU may still add in this second.
#[btf_map]
pub(crate) static SAMPLE_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// ICMP messages that this CPU may still send in this second.
#[btf_map]
pub(crate) static ICMP_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// Minute in which this CPU last logged each reason, see [`crate::log`].
#[btf_map]
pub(crate) static LOGGED: PerCpuArray<u64, { lb_common::log::KINDS }> = PerCpuArray::new();

/// Limits of the VIPs, see [`lb_common::limit`].
#[btf_map]
pub(crate) static LIMITS: Array<Limit, { MAX_VIPS as usize }, MAPPED> = Array::new();

/// How far the limits of sources are used up.
#[btf_map]
pub(crate) static LIMIT_CELLS: Array<Line, { LINES as usize }, MAPPED> = Array::new();

/// How far the limits of VIPs are used up: a line for each, with a cell for each [`lb_common::limit::Kind`].
#[btf_map]
pub(crate) static LIMIT_VIPS: Array<Line, { MAX_VIPS as usize }, MAPPED> = Array::new();

#[btf_map]
pub(crate) static LIMIT_COUNTERS: PerCpuArray<LimitCounters, { MAX_VIPS as usize }> =
    PerCpuArray::new();

/// Lists of exempt and denied prefixes.
#[btf_map]
pub(crate) static PREFIXES: LpmTrie<ListKey, u64, { MAX_PREFIXES as usize }> = LpmTrie::new();

/// A bit for each area that a denied prefix touches.
#[btf_map]
pub(crate) static DENIED_AREAS: Array<u64, { AREA_WORDS as usize }, MAPPED> = Array::new();

/// Two filters of first SYNs: those of even epochs, and those of odd ones.
#[btf_map]
pub(crate) static FIRST_SYNS: Array<[u64; SYN_BLOCK_WORDS], { 2 * SYN_BLOCKS as usize }> =
    Array::new();

/// Packets over a limit by source.
#[btf_map]
pub(crate) static LIMITED: LruHashMap<LimitedKey, u64, { MAX_LIMITED as usize }> =
    LruHashMap::new();

/// Packets over a limit that this CPU may still record in this second.
#[btf_map]
pub(crate) static LIMITED_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// What bounds the members, see [`lb_common::bound`].
#[btf_map]
pub(crate) static BOUNDS: Array<MemberBound, { MAX_MEMBERS as usize }, MAPPED> = Array::new();

/// The members of each VIP that spilled flows may go to, whatever their weights.
#[btf_map]
pub(crate) static CANDIDATES: Array<Candidates, { MAX_VIPS as usize }, MAPPED> = Array::new();

/// How far the capacity of each member is used up.
#[btf_map]
pub(crate) static CAPACITY_CELLS: Array<u64, { MAX_MEMBERS as usize }, MAPPED> = Array::new();

/// When each member last spilled a flow, or had a packet of a spilled one, in seconds; 0: it has none.
#[btf_map]
pub(crate) static SPILLED: Array<u64, { MAX_MEMBERS as usize }, MAPPED> = Array::new();

/// New flows, by CPU.
#[btf_map]
pub(crate) static LOADS: Array<CpuLoads, 1, MAPPED> = Array::new();

/// Sequence numbers of spilled SYNs: [`lb_common::bound::SynNote`]s.
#[btf_map]
pub(crate) static SPILLED_SYNS: Array<u64, { SYN_NOTES as usize }, MAPPED> = Array::new();
