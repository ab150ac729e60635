//! Access to the bytes of a packet: the only module that touches them.
//!
//! The verifier wants every access to follow a comparison with the end of the packet, through the
//! very pointer that was compared. So a piece of a packet is checked once, when its [`View`] is made, and
//! its accessors can't fail. A check comes after the offset was added, and pointers die whenever the
//! head or the tail is moved: nothing of a [`View`] outlives that.

use core::{hint::black_box, marker::PhantomData};

use aya_ebpf::{bindings::xdp_md, helpers};

/// A packet, as the context describes it at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    start: usize,
    end: usize,
}

/// `LEN` bytes of a packet that are known to be there.
#[derive(Clone, Copy)]
pub(crate) struct View<const LEN: usize> {
    at: usize,
    _bytes: PhantomData<[u8; LEN]>,
}

impl Packet {
    /// Reads the ends of the packet from the context, in a way that the compiler can't relate to what
    /// was read before. Otherwise it drops checks that follow from earlier ones through a branch on a
    /// variable offset, and turns a context that is passed to a function into its ends as 32-bit
    /// numbers; the verifier sees neither and refuses the program.
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

    /// Bytes from the Ethernet header to the end.
    ///
    /// To the compiler the ends are numbers of 32 bits, of which it would keep half a register until the
    /// length is used; to the verifier they are pointers, which can't be halved. So it is worked out here.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        black_box(self.end - self.start) as u32
    }

    /// The same as a number of 64 bits, which the compiler does not halve.
    #[inline(always)]
    pub(crate) fn bytes(self) -> u64 {
        (self.end - self.start) as u64
    }

    /// Whether the packet has so many bytes, which must be known to be few to the verifier. A comparison of
    /// pointers, which costs less than [`Self::len`].
    #[inline(always)]
    pub(crate) fn holds(self, bytes: u32) -> bool {
        self.start + bytes as usize <= self.end
    }

    /// `LEN` bytes from `offset` on. `offset` must be known to be small to the verifier.
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
    /// Reads a number as it is in memory. BPF loads need no alignment on the machines we support.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(self, offset: usize) -> T {
        const { assert!(size_of::<T>() <= 16) };
        // SAFETY: `view` compared the bytes with the end of the packet; the verifier checks it again.
        unsafe { *((self.at + offset) as *const T) }
    }

    /// Reads a number in one load, however little of it is used.
    #[inline(always)]
    pub(crate) fn get_whole<T: Copy>(self, offset: usize) -> T {
        // SAFETY: as for `get`.
        unsafe { ((self.at + offset) as *const T).read_volatile() }
    }

    /// Writes a number as it is in memory.
    #[inline(always)]
    pub(crate) fn set<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as for `get`.
        unsafe { *((self.at + offset) as *mut T) = value }
    }

    /// Reads a number in network byte order.
    #[inline(always)]
    pub(crate) fn be16(self, offset: usize) -> u16 {
        u16::from_be(self.get(offset))
    }

    /// Sum of the first five 32-bit words: a plain IPv4 header's, for its checksum.
    #[inline(always)]
    pub(crate) fn sum_v4(self) -> u64 {
        u64::from(self.get::<u32>(0))
            + u64::from(self.get::<u32>(4))
            + u64::from(self.get::<u32>(8))
            + u64::from(self.get::<u32>(12))
            + u64::from(self.get::<u32>(16))
    }

    /// Sum of the 16-bit words of the `LEN` bytes, for a checksum. One helper call; at most 512 bytes.
    #[inline(always)]
    pub(crate) fn sum(self) -> u64 {
        const { assert!(LEN.is_multiple_of(4) && LEN <= 512) };
        // SAFETY: the bytes were compared with the end of the packet.
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

/// Moves the start of the packet by `delta` bytes; negative makes room in front.
#[inline(always)]
pub(crate) fn adjust_head(ctx: *mut xdp_md, delta: i32) -> bool {
    // SAFETY: a helper call on the program's own context.
    unsafe { helpers::generated::bpf_xdp_adjust_head(ctx, delta) == 0 }
}

/// Moves the end of the packet by `delta` bytes; negative cuts off.
#[inline(always)]
pub(crate) fn adjust_tail(ctx: *mut xdp_md, delta: i32) -> bool {
    // SAFETY: a helper call on the program's own context.
    unsafe { helpers::generated::bpf_xdp_adjust_tail(ctx, delta) == 0 }
}

/// Interface that the packet came in by.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the kernel passes a valid context to the program.
    unsafe { (*ctx).ingress_ifindex }
}
