//! Tables in one element of a map, which programs share: see `maps.rs` for why.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, btf_maps::Array};

/// Flags of maps that the controller has in its memory.
pub(crate) const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// A table of `LEN` elements in one element of a map.
pub(crate) type Table<T, const LEN: usize> = Array<[T; LEN], 1, MAPPED>;

/// Access to the elements of a [`Table`].
pub(crate) trait Elements<T> {
    /// The element at `index`, which is to be below the table's length, a power of two.
    ///
    /// The index is masked and not compared: after a comparison the compiler would work the offset out anew
    /// from what the index came from, and the verifier would not know its bound.
    fn at(&self, index: u32) -> Option<*const T>;
}

impl<T, const LEN: usize> Elements<T> for Table<T, LEN> {
    #[inline(always)]
    fn at(&self, index: u32) -> Option<*const T> {
        const { assert!(LEN.is_power_of_two()) };
        let table = self.get_ptr(0)?.cast::<T>();
        // SAFETY: inside the table.
        Some(unsafe { table.add(index as usize & (LEN - 1)) })
    }
}
