//! Tables of fixed size, which programs share: see `maps.rs` for why they are one map.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array};
use lb_common::{
    member::{Egress, Member},
    nat::NatSource,
    ring::MemberIndex,
    tables,
    vip::{Vip, VipEntry},
};

/// Flags of maps that the controller has in its memory.
pub(crate) const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// The map that has them all.
pub(crate) type TablesMap = Array<tables::Tables, 1, MAPPED>;

/// The tables, once they have been looked up.
///
/// What the controller changes in them while packets flow it replaces word by word; such words are to be read
/// once. The rest of an element is constant while something names it.
#[derive(Clone, Copy)]
pub(crate) struct Tables(*const tables::Tables);

impl Tables {
    /// Those of the map.
    #[inline(always)]
    pub(crate) fn of(map: &TablesMap) -> Option<Self> {
        map.get_ptr(0).map(Self)
    }

    /// A place of the probe table of services.
    #[inline(always)]
    pub(crate) fn service(self, place: u32) -> *const VipEntry {
        // SAFETY: an element of a mapped array.
        element(unsafe { &raw const (*self.0).services }, place)
    }

    /// A member. What changes while packets flow is to be read through the pointer, word by word.
    #[inline(always)]
    pub(crate) fn member(self, index: MemberIndex) -> *const Member {
        // SAFETY: an element of a mapped array.
        element(unsafe { &raw const (*self.0).members }, index.into())
    }

    /// A VIP. Its ring and its sample mask change while packets flow.
    #[inline(always)]
    pub(crate) fn vip(self, index: u16) -> &'static Vip {
        // SAFETY: an element of a mapped array.
        unsafe { &*element(&raw const (*self.0).vips, index.into()) }
    }

    /// An interface that frames leave through; constant while a next hop names it.
    #[inline(always)]
    pub(crate) fn egress(self, index: u16) -> &'static Egress {
        // SAFETY: an element of a mapped array.
        unsafe { &*element(&raw const (*self.0).egress, index.into()) }
    }

    /// An address that `nat` sends from; constant while members name it.
    #[inline(always)]
    pub(crate) fn nat_source(self, index: u16) -> &'static NatSource {
        // SAFETY: an element of a mapped array.
        unsafe { &*element(&raw const (*self.0).nat_sources, index.into()) }
    }
}

/// The element at `index`, which is to be below the table's length, a power of two.
///
/// The index is masked and not compared: after a comparison the compiler would work the offset out anew
/// from what the index came from, and the verifier would not know its bound.
#[inline(always)]
fn element<T, const LEN: usize>(table: *const [T; LEN], index: u32) -> *const T {
    const { assert!(LEN.is_power_of_two()) };
    // SAFETY: inside the table.
    unsafe { table.cast::<T>().add(index as usize & (LEN - 1)) }
}
