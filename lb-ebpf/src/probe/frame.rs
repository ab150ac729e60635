//! A frame in the traffic-control layer. Helpers read and write it, because it may be fragmented in
//! memory.

use aya_ebpf::{bindings::__sk_buff, helpers::generated};
use lb_common::{Address, address_v4, checksum, family};

use crate::wire::{ether, ethernet, ipv4, ipv6};

/// Offset of the IP header.
pub(crate) const L3: u32 = ethernet::LEN as u32;
/// Bytes of an IPv4 header without options.
pub(crate) const V4: u32 = ipv4::LEN as u32;
pub(crate) const V6: u32 = ipv6::LEN as u32;

const PSEUDO_HEADER: u64 = 1 << 4;
const ZERO_IS_NONE: u64 = 1 << 5;
/// Linux 6.16. Without it, the helper updates a NIC's sum over the whole packet although the
/// transport checksum already compensates for the new IPv6 address.
const IS_IPV6: u64 = 1 << 7;

#[derive(Clone, Copy)]
pub(crate) struct Frame(pub(crate) *mut __sk_buff);

/// A helper returned an error.
pub(crate) struct HelperError;

/// Position of an address in a frame.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) family: u8,
    pub(crate) at: u32,
}

/// Position of a checksum that covers an address through the pseudo-header.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    pub(crate) at: u32,
    /// UDP: 0 means "no checksum".
    pub(crate) is_udp: bool,
}

impl Frame {
    /// Returns the address family, if it is an Ethernet frame with an IP packet.
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u8> {
        // SAFETY: the kernel passes a valid context to the program.
        let protocol = unsafe { (*self.0).protocol } as u16;
        let family = match protocol {
            ether::IPV4 => family::V4,
            ether::IPV6 => family::V6,
            _ => return None,
        };
        // The balancer does not run on interfaces without Ethernet headers.
        (self.load::<u16>(ethernet::ETHER_TYPE as u32)? == protocol).then_some(family)
    }

    /// Reads a value in memory order.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, at: u32) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the helper fills all bytes of `value` or returns an error. `T` is plain data.
        unsafe {
            let to = value.as_mut_ptr().cast();
            let done = generated::bpf_skb_load_bytes(self.0.cast(), at, to, size_of::<T>() as u32);
            (done == 0).then(|| value.assume_init())
        }
    }

    /// Writes a value in memory order, without updating checksums.
    #[inline(always)]
    pub(crate) fn store<T: Copy>(self, at: u32, value: &T) -> Result<(), HelperError> {
        let from = core::ptr::from_ref(value).cast();
        // SAFETY: the helper only reads the bytes of `value`.
        done(unsafe { generated::bpf_skb_store_bytes(self.0, at, from, size_of::<T>() as u32, 0) })
    }

    #[inline(always)]
    pub(crate) fn address(self, field: Field) -> Option<Address> {
        if field.family == family::V4 {
            Some(address_v4(self.load(field.at)?))
        } else {
            self.load(field.at)
        }
    }

    /// Writes an address, without updating checksums.
    #[inline(always)]
    fn set_address(self, field: Field, new: &Address) -> Result<(), HelperError> {
        if field.family == family::V4 {
            self.store(field.at, &(new[0] as u32))
        } else {
            self.store(field.at, new)
        }
    }

    /// Replaces an address in an IP header, and updates the header's checksum.
    #[inline(always)]
    pub(crate) fn replace_in_header(
        self,
        header: u32,
        field: Field,
        old: &Address,
        new: &Address,
    ) -> Result<(), HelperError> {
        if field.family == family::V4 {
            let (old, new) = (u64::from(old[0] as u32), u64::from(new[0] as u32));
            // SAFETY: a helper call on the program's own context.
            done(unsafe {
                generated::bpf_l3_csum_replace(self.0, header + ipv4::CHECKSUM as u32, old, new, 4)
            })?;
        }
        self.set_address(field, new)
    }

    /// Updates a transport checksum after an address of the pseudo-header was replaced.
    #[inline(always)]
    pub(crate) fn replace_in_pseudo_header(
        self,
        family: u8,
        sum: Sum,
        old: &Address,
        new: &Address,
    ) -> Result<(), HelperError> {
        let zero = if sum.is_udp { ZERO_IS_NONE } else { 0 };
        let flags = PSEUDO_HEADER | zero;
        let delta = u64::from(delta(old, new));
        if family == family::V6 && self.replace_by(sum.at, delta, flags | IS_IPV6).is_ok() {
            return Ok(());
        }
        self.replace_by(sum.at, delta, flags)
    }

    /// Updates a checksum after an address in the data it covers was replaced.
    #[inline(always)]
    pub(crate) fn replace_in_payload(
        self,
        sum_at: u32,
        old: &Address,
        new: &Address,
    ) -> Result<(), HelperError> {
        self.replace_by(sum_at, u64::from(delta(old, new)), 0)
    }

    #[inline(always)]
    fn replace_by(self, at: u32, delta: u64, flags: u64) -> Result<(), HelperError> {
        // SAFETY: a helper call on the program's own context.
        done(unsafe { generated::bpf_l4_csum_replace(self.0, at, 0, delta, flags) })
    }
}

/// Returns what replacing an address adds to a sum, in 32 bits.
#[inline(always)]
fn delta(old: &Address, new: &Address) -> u32 {
    let sum = checksum::replace_u64(old[0], new[0]) + checksum::replace_u64(old[1], new[1]);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

#[inline(always)]
pub(crate) fn done(result: i64) -> Result<(), HelperError> {
    if result == 0 {
        Ok(())
    } else {
        Err(HelperError)
    }
}
