//! Tables of fixed size, shared by the programs. [`lb_common::tables`] explains why they are one
//! map.

use lb_common::{
    member::{Egress, Member},
    nat::NatSource,
    ring::MemberIndex,
    station::{FREE, MAX_STATION_PROBES, STATION_TABLE_SIZE, Station},
    tables,
    vip::{Vip, VipEntry},
};

unsafe extern "C" {
    /// The only element of the map. The loader patches the map and the offset into every
    /// instruction that uses this address (`BPF_PSEUDO_MAP_VALUE`, Linux 5.2), and the verifier
    /// knows the size. The tables are therefore addressed like global data, without a lookup.
    static TABLES: tables::Tables;
}

/// The tables of the node.
///
/// While packets flow, the controller changes single words atomically; read such a word once. The
/// rest of an element is constant while anything refers to it.
#[derive(Clone, Copy)]
pub(crate) struct Tables(*const tables::Tables);

#[inline(always)]
pub(crate) fn tables() -> Tables {
    Tables(&raw const TABLES)
}

impl Tables {
    /// A position of the VIP table.
    #[inline(always)]
    pub(crate) fn service(self, place: u32) -> *const VipEntry {
        // SAFETY: an element of a mapped array.
        element(unsafe { &raw const (*self.0).services }, place)
    }

    /// A member. Read fields that may change through the pointer, word by word.
    #[inline(always)]
    pub(crate) fn member(self, index: MemberIndex) -> *const Member {
        // SAFETY: an element of a mapped array.
        element(unsafe { &raw const (*self.0).members }, index.into())
    }

    /// The VIP of a member; constant while a tracked flow refers to the member.
    #[inline(always)]
    pub(crate) fn vip_of(self, index: MemberIndex) -> u16 {
        // SAFETY: as in `member`.
        unsafe { (*self.member(index)).vip }
    }

    /// A VIP. Its `ring` and `sample_mask` may change.
    #[inline(always)]
    pub(crate) fn vip(self, index: u16) -> &'static Vip {
        // SAFETY: an element of a mapped array.
        unsafe { &*element(&raw const (*self.0).vips, index.into()) }
    }

    /// An egress interface; constant while a next hop refers to it.
    #[inline(always)]
    pub(crate) fn egress(self, index: u16) -> &'static Egress {
        // SAFETY: an element of a mapped array.
        unsafe { &*element(&raw const (*self.0).egress, index.into()) }
    }

    /// Whether an interface accepts frames for a station.
    #[inline(always)]
    pub(crate) fn accepts(self, station: Station) -> bool {
        let mut at = station.home();
        for _ in 0..MAX_STATION_PROBES {
            // SAFETY: a word of a mapped array, stored atomically by the controller.
            let found = unsafe { element(&raw const (*self.0).stations, at).read_volatile() };
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

    /// The path MTU of a member ([`lb_common::tunnel`]).
    #[inline(always)]
    pub(crate) fn path_mtu(self, member: MemberIndex) -> *const u64 {
        // SAFETY: a word of a mapped array; read and written as a whole.
        element(unsafe { &raw const (*self.0).path_mtus }, member.into())
    }

    /// A NAT source address; constant while a member refers to it.
    #[inline(always)]
    pub(crate) fn nat_source(self, index: u16) -> &'static NatSource {
        // SAFETY: an element of a mapped array.
        unsafe { &*element(&raw const (*self.0).nat_sources, index.into()) }
    }
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
