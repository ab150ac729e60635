//! The tables whose size is fixed, as parts of one map.
//!
//! A lookup in an array costs little, but five of them would follow from one another on the way from a packet's
//! bytes to its member. The only element of one map is reached like global data, without any; a table is an offset in it.

use crate::{
    member::{Egress, MAX_EGRESS, Member},
    nat::{MAX_NAT_SOURCES, NatSource},
    ring::MAX_MEMBERS,
    vip::{MAX_VIPS, VIP_TABLE_SIZE, Vip, VipEntry},
};

/// Every part begins at a multiple of this, bytes: the controller maps each into its memory by itself, which is
/// possible where a page begins, and pages have up to 64 KiB (arm64).
pub const PART_ALIGN: usize = 64 << 10;

const EGRESS_BYTES: usize = MAX_EGRESS as usize * size_of::<Egress>();

/// All of them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Which packets are for a VIP: a probe table.
    pub services: [VipEntry; VIP_TABLE_SIZE as usize],
    /// The members.
    pub members: [Member; MAX_MEMBERS as usize],
    /// The VIPs.
    pub vips: [Vip; MAX_VIPS as usize],
    /// Interfaces that frames leave through.
    pub egress: [Egress; MAX_EGRESS as usize],
    /// Unused.
    pub _pad: [u8; PART_ALIGN - EGRESS_BYTES],
    /// Addresses that `nat` sends from.
    pub nat_sources: [NatSource; MAX_NAT_SOURCES as usize],
}

const _: () = {
    assert!(core::mem::offset_of!(Tables, services).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, members).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, vips).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, egress).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, nat_sources).is_multiple_of(PART_ALIGN));
};
