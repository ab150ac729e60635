//! BPF arrays mapped into this process.
//!
//! An array created with `BPF_F_MMAPABLE` (Linux 5.5) can be mapped. Its elements are then read and
//! written without system calls and, more important, **one word at a time atomically**, which a map
//! update does not guarantee. The kernel rounds the element size up to 8 bytes and the mapping up to
//! whole pages.
//!
//! The kernel writes to some of this memory at any time. So it is never a `&T`, but a slice of atomic
//! words from which values are assembled.

use std::{
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use bytemuck::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::error::{DataplaneError, Result};

const WORD: usize = size_of::<u64>();
const MEMORY_HINT: &str = "the machine may be short of memory or address space";

/// A mapped BPF array of plain values.
///
/// Dropping it unmaps the memory; the map lives as long as anything else refers to it.
#[derive(Debug)]
pub struct Mapped<T> {
    base: NonNull<AtomicU64>,
    bytes: NonZeroUsize,
    len: u32,
    name: &'static str,
    _values: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel and only accessed through atomic words, from any
// thread; it is unmapped by its single owner.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as for `Send`; no method gives out anything but atomic accesses.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    const WORDS: usize = {
        assert!(size_of::<T>() > 0 && size_of::<T>().is_multiple_of(WORD));
        size_of::<T>() / WORD
    };

    /// Maps `len` elements of the array behind `fd`, from a page-aligned `offset` in bytes.
    pub(super) fn of(name: &'static str, fd: impl AsFd, offset: usize, len: u32) -> Result<Self> {
        let bytes = Self::mapping_bytes(name, len)?;
        let offset = offset.try_into().map_err(|_| DataplaneError::OutOfRange {
            table: name,
            index: 0,
            len,
        })?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address chosen by the kernel overlaps nothing.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, fd, offset) };
        Self::from_base(name, base, bytes, len)
    }

    /// A zeroed table of the same form in anonymous memory, for tests and dry runs.
    pub fn anonymous(name: &'static str, len: u32) -> Result<Self> {
        let bytes = Self::mapping_bytes(name, len)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: as in `of`.
        let base = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) };
        Self::from_base(name, base, bytes, len)
    }

    fn mapping_bytes(name: &'static str, len: u32) -> Result<NonZeroUsize> {
        NonZeroUsize::new(len as usize * size_of::<T>()).ok_or(DataplaneError::OutOfRange {
            table: name,
            index: 0,
            len: 0,
        })
    }

    fn from_base(
        name: &'static str,
        base: nix::Result<NonNull<std::ffi::c_void>>,
        bytes: NonZeroUsize,
        len: u32,
    ) -> Result<Self> {
        let base = base.map_err(|error| DataplaneError::Map {
            operation: "mmap",
            map: name.to_owned(),
            kernel: error.to_string(),
            hint: MEMORY_HINT,
        })?;
        Ok(Self {
            base: base.cast(),
            bytes,
            len,
            name,
            _values: PhantomData,
        })
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Always false: an empty table can't be mapped.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All words of the table.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` starts a mapping of at least `len × WORDS` words that lives as long as
        // `self`, is aligned to a page, and is only ever accessed through atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len as usize * Self::WORDS) }
    }

    fn element(&self, index: u32) -> Result<&[AtomicU64]> {
        self.words()
            .chunks_exact(Self::WORDS)
            .nth(index as usize)
            .ok_or(DataplaneError::OutOfRange {
                table: self.name,
                index,
                len: self.len,
            })
    }

    /// A word of an element, by its offset in bytes.
    fn word(&self, index: u32, byte_offset: usize) -> Result<&AtomicU64> {
        let word = byte_offset / WORD;
        let found = if byte_offset.is_multiple_of(WORD) {
            self.element(index)?.get(word)
        } else {
            None
        };
        found.ok_or(DataplaneError::OutOfRange {
            table: self.name,
            index: byte_offset as u32,
            len: size_of::<T>() as u32,
        })
    }

    /// Reads an element, word by word in ascending order.
    pub fn read(&self, index: u32) -> Result<T> {
        let mut value = T::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut value).chunks_exact_mut(WORD);
        for (to, from) in bytes.zip(self.element(index)?) {
            to.copy_from_slice(&from.load(Ordering::Acquire).to_ne_bytes());
        }
        Ok(value)
    }

    /// Writes an element, word by word in ascending order.
    pub fn write(&self, index: u32, value: &T) -> Result<()> {
        let words = self.element(index)?;
        for (to, from) in words.iter().zip(words_of(value)) {
            to.store(from, Ordering::Release);
        }
        Ok(())
    }

    /// Writes an element, its first word last: for elements that become valid with that word.
    pub fn write_first_word_last(&self, index: u32, value: &T) -> Result<()> {
        let words = self.element(index)?;
        for (to, from) in words.iter().zip(words_of(value)).skip(1) {
            to.store(from, Ordering::Release);
        }
        if let (Some(to), Some(from)) = (words.first(), words_of(value).next()) {
            to.store(from, Ordering::Release);
        }
        Ok(())
    }

    /// Stores a word of an element atomically, after everything that was written before.
    pub fn store_word(&self, index: u32, byte_offset: usize, word: u64) -> Result<()> {
        self.word(index, byte_offset)?
            .store(word, Ordering::Release);
        Ok(())
    }

    /// Replaces a word of an element atomically if it is `old`; returns whether it was.
    pub fn exchange_word(
        &self,
        index: u32,
        byte_offset: usize,
        old: u64,
        new: u64,
    ) -> Result<bool> {
        let word = self.word(index, byte_offset)?;
        let exchanged = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        Ok(exchanged.is_ok())
    }

    pub fn load_word(&self, index: u32, byte_offset: usize) -> Result<u64> {
        Ok(self.word(index, byte_offset)?.load(Ordering::Acquire))
    }
}

fn words_of<T: Pod>(value: &T) -> impl Iterator<Item = u64> + '_ {
    bytemuck::bytes_of(value).chunks_exact(WORD).map(|bytes| {
        let mut word = [0; WORD];
        word.copy_from_slice(bytes);
        u64::from_ne_bytes(word)
    })
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing that refers to it outlives `self`.
        let unmapped = unsafe { munmap(self.base.cast(), self.bytes.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of {}: {unmapped:?}", self.name);
    }
}

/// A key or value for aya, whose `Pod` can't be implemented here for the types of lb-common.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: `T` is plain data without padding and valid for any bytes (checked by bytemuck's derive),
// and `Plain` has the same representation.
unsafe impl<T: Pod> aya::Pod for Plain<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_values_and_checks_bounds() {
        let table = Mapped::<[u64; 3]>::anonymous("TEST", 100).unwrap();
        table.write(7, &[1, 2, 3]).unwrap();
        table.store_word(7, 16, 9).unwrap();
        assert_eq!(table.read(7).unwrap(), [1, 2, 9]);
        assert_eq!(table.read(6).unwrap(), [0; 3]);
        assert_eq!(table.read(8).unwrap(), [0; 3]);
        assert_eq!(table.load_word(7, 8).unwrap(), 2);
        table.write_first_word_last(8, &[4, 5, 6]).unwrap();
        assert_eq!(table.read(8).unwrap(), [4, 5, 6]);
        assert!(table.read(100).is_err());
        assert!(table.store_word(0, 24, 0).is_err(), "past the element");
        assert!(table.store_word(0, 4, 0).is_err(), "not a whole word");
    }
}
