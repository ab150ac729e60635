//! The maps of the balancer. `docs/architecture.md` says who writes and who reads each.
//!
//! Tables that only the controller writes are arrays mapped into its memory (`BPF_F_MMAPABLE`, Linux
//! 5.5): it stores single words in one step, and a lookup here is inlined. Those whose size is fixed are
//! parts of **one** element of one map ([`Tables`]), which is reached without a lookup ([`crate::table`]), and so are
//! the counters ([`crate::counters`]): these two maps are not here. Sizes of the others are defaults; those that
//! depend on the configuration are set when the object is loaded.

use core::hint::black_box;

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps, DevMapHash, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    fragment::{FragmentKey, FragmentTarget, MAX_DATAGRAMS},
    member::MAX_EGRESS,
    nat::{
        DEFAULT_EMBRYONIC, DEFAULT_SESSIONS, MAX_LOCKS, NatFlow, NatKey, ReplyBucket,
        RequestBucket, buckets_for,
    },
    node::{Budget, DEFAULT_ICMP_RATE},
    ring::{Image, MAX_IMAGES},
    sample::{FlowKey, FlowSample, MAX_SAMPLES},
    track::{Bucket, DEFAULT_BUCKETS},
};

pub(crate) use crate::table::{Tables, tables};

/// Flags of maps that the controller has in its memory.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// `index` below `LEN`, a power of two, in a way that every verifier sees: those of Linux 5.10 and 6.1 know nothing
/// of the result of an exclusive or of two variables, and the compiler drops a mask that it knows to change nothing.
#[inline(always)]
pub(crate) fn below<const LEN: usize>(index: usize) -> usize {
    const { assert!(LEN.is_power_of_two()) };
    black_box(index) & (LEN - 1)
}

/// Settings: written before the program is loaded, constants to the verifier. Their names are in
/// [`lb_common::node::setting`].
macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident = $default:expr;)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub(crate) static $name: Global<u32> = Global::new($default);
    )*};
}

settings! {
    /// Version of the maps' layout that this object was built for.
    ABI = lb_common::ABI_VERSION;
    /// CPUs that there are counters for.
    CPUS = 1;
    /// Seconds are jiffies shifted right by this.
    JIFFIES_SHIFT = 8;
    /// Buckets of the tracking table minus one.
    TRACK_MASK = DEFAULT_BUCKETS - 1;
    /// Buckets of each table of NAT sessions.
    NAT_BUCKETS = buckets_for(DEFAULT_SESSIONS);
    /// ICMP messages a second and CPU.
    ICMP_RATE = DEFAULT_ICMP_RATE;
    /// Write a trace for every packet.
    TRACING = 0;
}

/// Ring images. A VIP names its image, so that a swap is one store.
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<Array<Image, 1, MAPPED>, { MAX_IMAGES as usize }> =
    ArrayOfMaps::new();

/// The interfaces that frames leave through, by interface index, for `XDP_REDIRECT`.
#[btf_map]
pub(crate) static DEVICES: DevMapHash<{ MAX_EGRESS as usize }> = DevMapHash::new();

/// The tracking table.
#[btf_map]
pub(crate) static TRACK: Array<Bucket, { DEFAULT_BUCKETS as usize }, MAPPED> = Array::new();

/// Sessions of `nat`, as the clients' packets find them: a table of buckets, see [`lb_common::nat`].
#[btf_map]
pub(crate) static NAT_REQUESTS: Array<
    RequestBucket,
    { buckets_for(DEFAULT_SESSIONS) as usize },
    MAPPED,
> = Array::new();

/// The same sessions, as the backends' packets find them.
#[btf_map]
pub(crate) static NAT_REPLIES: Array<
    ReplyBucket,
    { buckets_for(DEFAULT_SESSIONS) as usize },
    MAPPED,
> = Array::new();

/// Buckets of these tables in which a CPU gives a cell away, at this moment.
#[btf_map]
pub(crate) static NAT_LOCKS: HashMap<u32, u32, { MAX_LOCKS as usize }> = HashMap::new();

/// Sessions of `nat` that have not been answered and followed yet.
#[btf_map]
pub(crate) static NAT_NEW: LruHashMap<NatKey, NatFlow, { 2 * DEFAULT_EMBRYONIC as usize }> =
    LruHashMap::new();

/// Datagrams in fragments.
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentTarget, { MAX_DATAGRAMS as usize }> =
    LruHashMap::new();

/// Sampled flows.
#[btf_map]
pub(crate) static SAMPLES: LruHashMap<FlowKey, FlowSample, { MAX_SAMPLES as usize }> =
    LruHashMap::new();

/// Flows that this CPU may still add to the sampled ones in this second.
#[btf_map]
pub(crate) static SAMPLE_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// ICMP messages that this CPU may still send in this second.
#[btf_map]
pub(crate) static ICMP_BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// The minute in which this CPU last wrote a message of a kind, by reason; see [`crate::log`].
#[btf_map]
pub(crate) static LOGGED: PerCpuArray<u64, { lb_common::log::KINDS }> = PerCpuArray::new();
