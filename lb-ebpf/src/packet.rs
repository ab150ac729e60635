//! Access to the bytes of a packet. No other module dereferences packet pointers.
//!
//! The verifier requires that every access follow a comparison with the end of the packet through
//! the very pointer that was compared. A [`View`] is bounds-checked once, when it is created, and
//! its accessors cannot fail. The check must follow the addition of the offset. Pointers become
//! invalid when the head or the tail moves, so no [`View`] may outlive that.

use core::{hint::black_box, marker::PhantomData};

use aya_ebpf::{bindings::xdp_md, helpers};

/// The bounds of a packet at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    start: usize,
    end: usize,
}

/// `LEN` bytes of a packet, bounds-checked.
#[derive(Clone, Copy)]
pub(crate) struct View<const LEN: usize> {
    at: usize,
    _bytes: PhantomData<[u8; LEN]>,
}

impl Packet {
    /// Reads the bounds from the context, volatile so that the compiler cannot relate them to
    /// earlier reads. Otherwise it removes bounds checks that follow from earlier ones through a
    /// branch on a variable offset, or splits the context into 32-bit bounds when it is passed to a
    /// function; the verifier rejects both.
    #[inline(always)]
    pub(crate) fn of(ctx: *mut xdp_md) -> Self {
        // SAFETY: the kernel passes a valid context to the program.
        unsafe {
            Self {
                start: (&raw const (*ctx).data).read_volatile() as usize,
                end: (&raw const (*ctx).data_end).read_volatile() as usize,
            }
        }
    }

    /// Returns the length of the frame in bytes.
    ///
    /// `black_box` forces the subtraction here: the compiler sees 32-bit numbers and would keep
    /// half registers, but to the verifier they are pointers, which cannot be truncated.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        black_box(self.end - self.start) as u32
    }

    /// Returns the length of the frame as a 64-bit number, which the compiler does not truncate.
    #[inline(always)]
    pub(crate) fn bytes(self) -> u64 {
        (self.end - self.start) as u64
    }

    /// Whether the packet has at least `bytes` bytes; the verifier must know a small bound of
    /// `bytes`. A comparison of pointers is cheaper than [`Self::len`].
    #[inline(always)]
    pub(crate) fn holds(self, bytes: u32) -> bool {
        self.start + bytes as usize <= self.end
    }

    /// Returns `LEN` bytes from `offset`, if the packet has them. The verifier must know a small
    /// bound of `offset`.
    #[inline(always)]
    pub(crate) fn view<const LEN: usize>(self, offset: usize) -> Option<View<LEN>> {
        let at = self.start + offset;
        if at + LEN > self.end {
            None
        } else {
            Some(View {
                at,
                _bytes: PhantomData,
            })
        }
    }
}

impl<const LEN: usize> View<LEN> {
    /// Reads a value in memory order. The supported machines do not require alignment.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(self, offset: usize) -> T {
        const { assert!(size_of::<T>() <= 16) };
        // SAFETY: `view` has checked the bounds; the verifier checks them again.
        unsafe { *((self.at + offset) as *const T) }
    }

    /// Reads a value with a single load, even if only a part of it is used.
    #[inline(always)]
    pub(crate) fn get_whole<T: Copy>(self, offset: usize) -> T {
        // SAFETY: as in `get`.
        unsafe { ((self.at + offset) as *const T).read_volatile() }
    }

    /// Writes a value in memory order.
    #[inline(always)]
    pub(crate) fn set<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as in `get`.
        unsafe { *((self.at + offset) as *mut T) = value }
    }

    /// Reads a 16-bit value in network byte order.
    #[inline(always)]
    pub(crate) fn be16(self, offset: usize) -> u16 {
        u16::from_be(self.get(offset))
    }

    /// Reads a 32-bit value in network byte order.
    #[inline(always)]
    pub(crate) fn be32(self, offset: usize) -> u32 {
        u32::from_be(self.get(offset))
    }

    /// Returns the sum of the first five 32-bit words: an IPv4 header without options.
    #[inline(always)]
    pub(crate) fn sum_v4(self) -> u64 {
        u64::from(self.get::<u32>(0))
            + u64::from(self.get::<u32>(4))
            + u64::from(self.get::<u32>(8))
            + u64::from(self.get::<u32>(12))
            + u64::from(self.get::<u32>(16))
    }

    /// Returns the sum of the 16-bit words of the `LEN` bytes (at most 512) with one helper call.
    #[inline(always)]
    pub(crate) fn sum(self) -> u64 {
        const { assert!(LEN.is_multiple_of(4) && LEN <= 512) };
        // SAFETY: `view` has checked the bounds.
        unsafe {
            helpers::generated::bpf_csum_diff(
                core::ptr::null_mut(),
                0,
                self.at as *mut u32,
                LEN as u32,
                0,
            ) as u64
        }
    }
}

/// Moves the start of the packet by `delta` bytes; a negative `delta` adds headroom.
#[inline(always)]
pub(crate) fn adjust_head(ctx: *mut xdp_md, delta: i32) -> bool {
    // SAFETY: a helper call on the program's own context.
    unsafe { helpers::generated::bpf_xdp_adjust_head(ctx, delta) == 0 }
}

/// Moves the end of the packet by `delta` bytes; a negative `delta` truncates.
#[inline(always)]
pub(crate) fn adjust_tail(ctx: *mut xdp_md, delta: i32) -> bool {
    // SAFETY: a helper call on the program's own context.
    unsafe { helpers::generated::bpf_xdp_adjust_tail(ctx, delta) == 0 }
}

/// Returns the interface that received the packet.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the kernel passes a valid context to the program.
    unsafe { (*ctx).ingress_ifindex }
}
