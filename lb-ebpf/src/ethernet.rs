//! Ethernet headers: MAC addresses, VLAN tags, and transmission of frames.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::{member::Egress, reason::Reason, station::Station};

use crate::{
    maps::DEVICES,
    packet::{Packet, View, ingress_ifindex},
    tables,
    wire::ethernet,
};

/// Whether a frame is a broadcast or multicast frame.
#[inline(always)]
pub(crate) fn is_multicast_frame<const LEN: usize>(frame: View<LEN>) -> bool {
    frame.get::<u8>(0) & 1 != 0
}

/// Whether a frame is for an address of the interface that received it. False for broadcast and
/// multicast frames.
#[inline(always)]
pub(crate) fn is_own_frame<const LEN: usize>(ctx: *mut xdp_md, frame: View<LEN>) -> bool {
    tables::accepts(Station::of_frame(frame.get(0), ingress_ifindex(ctx)))
}

/// Whether the current frame is for another host.
#[inline(always)]
pub(crate) fn is_for_other_host(ctx: *mut xdp_md) -> bool {
    Packet::of(ctx)
        .view::<{ ethernet::LEN }>(0)
        .is_some_and(|frame| !is_multicast_frame(frame) && !is_own_frame(ctx, frame))
}

/// Whether the current frame is a broadcast or multicast frame.
#[inline(always)]
pub(crate) fn is_multicast(ctx: *mut xdp_md) -> bool {
    Packet::of(ctx)
        .view::<{ ethernet::LEN }>(0)
        .is_some_and(is_multicast_frame)
}

/// Returns the VLAN tags of a frame whose IP header is at `l3`: the bytes between the addresses and
/// the last ether type.
#[inline(always)]
pub(crate) fn tags(ctx: *mut xdp_md, l3: usize) -> u64 {
    if l3 == ethernet::LEN {
        return 0;
    }
    let packet = Packet::of(ctx);
    match l3 {
        ethernet::TAGGED_LEN => packet
            .view::<{ ethernet::TAGGED_LEN }>(0)
            .map_or(0, |frame| {
                u64::from(frame.get::<u32>(ethernet::ADDRESSES_LEN))
            }),
        ethernet::DOUBLE_TAGGED_LEN => packet
            .view::<{ ethernet::DOUBLE_TAGGED_LEN }>(0)
            .map_or(0, |frame| frame.get::<u64>(ethernet::ADDRESSES_LEN)),
        _ => 0,
    }
}

/// Writes a link header that ends at `l3`. A frame keeps its VLAN tags.
#[inline(always)]
pub(crate) fn write(
    ctx: *mut xdp_md,
    l3: usize,
    addresses: Addresses,
    tags: u64,
    ether_type: u16,
) -> Result<(), Reason> {
    let packet = Packet::of(ctx);
    match l3 {
        ethernet::LEN => {
            let frame = packet.view::<{ ethernet::LEN }>(0).ok_or(Reason::NoRoom)?;
            write_into(frame, ethernet::LEN, addresses, tags, ether_type);
        }
        ethernet::TAGGED_LEN => {
            let frame = packet
                .view::<{ ethernet::TAGGED_LEN }>(0)
                .ok_or(Reason::NoRoom)?;
            write_into(frame, ethernet::TAGGED_LEN, addresses, tags, ether_type);
        }
        ethernet::DOUBLE_TAGGED_LEN => {
            let frame = packet
                .view::<{ ethernet::DOUBLE_TAGGED_LEN }>(0)
                .ok_or(Reason::NoRoom)?;
            write_into(
                frame,
                ethernet::DOUBLE_TAGGED_LEN,
                addresses,
                tags,
                ether_type,
            );
        }
        _ => return Err(Reason::Internal),
    }
    Ok(())
}

/// Writes a link header that ends at `l3` into a frame of sufficient length.
#[inline(always)]
pub(crate) fn write_into<const LEN: usize>(
    frame: View<LEN>,
    l3: usize,
    addresses: Addresses,
    tags: u64,
    ether_type: u16,
) {
    addresses.write_into(frame);
    match l3 {
        ethernet::TAGGED_LEN => frame.set(ethernet::ADDRESSES_LEN, tags as u32),
        ethernet::DOUBLE_TAGGED_LEN => frame.set(ethernet::ADDRESSES_LEN, tags),
        _ => {}
    }
    frame.set(l3 - 2, ether_type);
}

/// Destination and source MAC address of a frame, as three words.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    low: u32,
    middle: u32,
    high: u32,
}

impl Addresses {
    /// Addresses from the egress interface to a next hop (the word of the member table).
    #[inline(always)]
    pub(crate) fn new(next_hop: u64, egress: &Egress) -> Self {
        const { assert!(core::mem::offset_of!(Egress, mac) == 10) };
        const { assert!(core::mem::offset_of!(Egress, _pad) == 8) };
        // The address starts in the upper half of a word, as in the frame: two loads and no shift.
        let words = (&raw const egress._pad).cast::<u32>();
        // SAFETY: two bytes of padding, which are 0, and the six bytes of the address, at a
        // multiple of four.
        let (first, last) = unsafe { (words.read(), words.add(1).read()) };
        Self {
            low: next_hop as u32,
            middle: (next_hop >> 32) as u32 & 0xffff | first,
            high: last,
        }
    }

    /// Reads the addresses of the current frame.
    #[inline(always)]
    pub(crate) fn read(ctx: *mut xdp_md) -> Result<Self, Reason> {
        let frame = Packet::of(ctx)
            .view::<{ ethernet::ADDRESSES_LEN }>(0)
            .ok_or(Reason::Internal)?;
        Ok(Self {
            low: frame.get(0),
            middle: frame.get(4),
            high: frame.get(8),
        })
    }

    /// Whether the destination is a broadcast or multicast address.
    #[inline(always)]
    pub(crate) fn is_multicast(self) -> bool {
        self.low & 1 == 1
    }

    /// Swaps destination and source.
    #[inline(always)]
    pub(crate) fn swapped(self) -> Self {
        Self {
            low: self.middle >> 16 | self.high << 16,
            middle: self.high >> 16 | self.low << 16,
            high: self.low >> 16 | self.middle << 16,
        }
    }

    #[inline(always)]
    pub(crate) const fn words(self) -> [u32; 3] {
        [self.low, self.middle, self.high]
    }

    #[inline(always)]
    pub(crate) const fn from_words([low, middle, high]: [u32; 3]) -> Self {
        Self { low, middle, high }
    }

    /// Writes the addresses into the current frame.
    #[inline(always)]
    pub(crate) fn write(self, ctx: *mut xdp_md) -> Result<(), Reason> {
        self.write_into(
            Packet::of(ctx)
                .view::<{ ethernet::ADDRESSES_LEN }>(0)
                .ok_or(Reason::Internal)?,
        );
        Ok(())
    }

    /// Writes the addresses into a frame of sufficient length.
    #[inline(always)]
    fn write_into<const N: usize>(self, frame: View<N>) {
        frame.set(0, self.low);
        frame.set(4, self.middle);
        frame.set(8, self.high);
    }
}

/// Returns the XDP action that transmits a frame through an interface: `XDP_TX` if it came in
/// there, otherwise `XDP_REDIRECT`.
#[inline(always)]
pub(crate) fn transmit(ctx: *mut xdp_md, ifindex: u32) -> Result<u32, Reason> {
    if ifindex == ingress_ifindex(ctx) {
        return Ok(xdp_action::XDP_TX);
    }
    core::hint::cold_path();
    DEVICES.redirect(ifindex, 0).map_err(|_| Reason::NoNextHop)
}
