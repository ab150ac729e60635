//! Tables of fixed size, which programs share: see `maps.rs` for why they are one map.

use lb_common::{
    member::{Egress, Member},
    nat::NatSource,
    ring::MemberIndex,
    tables,
    vip::{Vip, VipEntry},
};

unsafe extern "C" {
    /// The one element of the map. The loader links it: it writes the map and the place in it into every
    /// instruction that takes this address (`BPF_PSEUDO_MAP_VALUE`, Linux 5.2), and the verifier knows the
    /// element's size. So the tables are where global data is, and are reached without a lookup.
    static TABLES: tables::Tables;
}

/// The tables.
///
/// What the controller changes in them while packets flow it replaces word by word; such words are to be read
/// once. The rest of an element is constant while something names it.
#[derive(Clone, Copy)]
pub(crate) struct Tables(*const tables::Tables);

/// The tables of the node.
#[inline(always)]
pub(crate) fn tables() -> Tables {
    Tables(&raw const TABLES)
}

impl Tables {
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
