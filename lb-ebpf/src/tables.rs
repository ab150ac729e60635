//! Tables of fixed size, shared by the programs. [`lb_common::tables`] explains why they are one
//! map.
//!
//! While packets flow, the controller changes single words atomically; read such a word once. The
//! rest of an element is constant while anything refers to it.

use lb_common::{
    member::{Egress, MAX_EGRESS, Member},
    nat::{MAX_NAT_SOURCES, NatSource},
    ring::{MAX_MEMBERS, MemberIndex},
    station::{FREE, MAX_STATION_PROBES, STATION_TABLE_SIZE, Station},
    vip::{MAX_VIPS, VIP_TABLE_SIZE, Vip, VipEntry},
};

unsafe extern "C" {
    // Parts of the only element of the map. The loader patches the map and the offset into every
    // instruction that uses such an address (`BPF_PSEUDO_MAP_VALUE`, Linux 5.2), and the verifier
    // knows the size. The tables are therefore addressed like global data, without a lookup. A
    // symbol for each of them saves the addition of its offset.
    static VIP_TABLE: [VipEntry; VIP_TABLE_SIZE as usize];
    static MEMBERS: [Member; MAX_MEMBERS as usize];
    static VIPS: [Vip; MAX_VIPS as usize];
    static EGRESS: [Egress; MAX_EGRESS as usize];
    static STATIONS: [u64; STATION_TABLE_SIZE as usize];
    static MAIN_STATION: u64;
    static HEARTBEAT: u64;
    static CLOCK: u64;
    static PATH_MTUS: [u64; MAX_MEMBERS as usize];
    static NAT_SOURCES: [NatSource; MAX_NAT_SOURCES as usize];
}

/// A position of the VIP table.
#[inline(always)]
pub(crate) fn service(place: u32) -> *const VipEntry {
    element(&raw const VIP_TABLE, place)
}

/// A member. Read fields that may change through the pointer, word by word.
#[inline(always)]
pub(crate) fn member(index: MemberIndex) -> *const Member {
    element(&raw const MEMBERS, index.into())
}

/// The VIP of a member; constant while a tracked flow refers to the member.
#[inline(always)]
pub(crate) fn vip_of(index: MemberIndex) -> u16 {
    // SAFETY: an element of a mapped array.
    unsafe { (*member(index)).vip }
}

/// A VIP. Its `ring` and `sample_mask` may change.
#[inline(always)]
pub(crate) fn vip(index: u16) -> &'static Vip {
    // SAFETY: an element of a mapped array.
    unsafe { &*element(&raw const VIPS, index.into()) }
}

/// An egress interface; constant while a next hop refers to it.
#[inline(always)]
pub(crate) fn egress(index: u16) -> &'static Egress {
    // SAFETY: an element of a mapped array.
    unsafe { &*element(&raw const EGRESS, index.into()) }
}

/// Whether an interface accepts frames for a station.
#[inline(always)]
pub(crate) fn accepts(station: Station) -> bool {
    // SAFETY: as below.
    if unsafe { (&raw const MAIN_STATION).read_volatile() } == station.0 {
        return true;
    }
    let mut at = station.home();
    for _ in 0..MAX_STATION_PROBES {
        // SAFETY: a word of a mapped array, stored atomically by the controller.
        let found = unsafe { element(&raw const STATIONS, at).read_volatile() };
        if found == station.0 {
            return true;
        }
        if found == FREE {
            return false;
        }
        at = (at + 1) % STATION_TABLE_SIZE;
    }
    false
}

/// When the controller was last seen, in the data path's seconds; 0: never.
#[inline(always)]
pub(crate) fn heartbeat_s() -> u64 {
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    unsafe { (&raw const HEARTBEAT).read_volatile() }
}

/// The time for rate limits in nanoseconds; 0: the kernel's clock has it.
#[inline(always)]
pub(crate) fn clock_ns() -> u64 {
    // SAFETY: a word of a mapped array, stored atomically by the controller.
    unsafe { (&raw const CLOCK).read_volatile() }
}

/// The path MTU of a member ([`lb_common::tunnel`]). Read and written as a whole.
#[inline(always)]
pub(crate) fn path_mtu(member: MemberIndex) -> *const u64 {
    element(&raw const PATH_MTUS, member.into())
}

/// A NAT source address; constant while a member refers to it.
#[inline(always)]
pub(crate) fn nat_source(index: u16) -> &'static NatSource {
    // SAFETY: an element of a mapped array.
    unsafe { &*element(&raw const NAT_SOURCES, index.into()) }
}

/// Returns the element at `index`, which must be below the table's length, a power of two.
///
/// The index is masked and not compared: after a comparison the compiler may recompute the offset
/// from the original value, whose bound the verifier does not know.
#[inline(always)]
fn element<T, const LEN: usize>(table: *const [T; LEN], index: u32) -> *const T {
    const { assert!(LEN.is_power_of_two()) };
    // SAFETY: the mask keeps the index in bounds.
    unsafe { table.cast::<T>().add(index as usize & (LEN - 1)) }
}
