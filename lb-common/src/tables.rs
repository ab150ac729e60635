//! Tables of fixed size, as parts of one map.
//!
//! One array lookup is cheap, but five of them would depend on one another between a packet's bytes
//! and its member. The single element of this map is addressed like global data, without a lookup;
//! each table is at a fixed offset.

use crate::{
    member::{Egress, MAX_EGRESS, Member},
    nat::{MAX_NAT_SOURCES, NatSource},
    ring::MAX_MEMBERS,
    station::STATION_TABLE_SIZE,
    vip::{MAX_VIPS, VIP_TABLE_SIZE, Vip, VipEntry},
};

/// Alignment of every table in bytes. The controller maps each table separately, which requires
/// page boundaries; pages have up to 64 KiB (arm64).
pub const PART_ALIGN: usize = 64 << 10;

const EGRESS_BYTES: usize = MAX_EGRESS as usize * size_of::<Egress>();
const STATION_BYTES: usize = STATION_TABLE_SIZE as usize * size_of::<u64>();
const PATH_MTU_BYTES: usize = MAX_MEMBERS as usize * size_of::<u64>();

/// The single element of the map `TABLES`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// The VIP table: an open-addressing hash table of services.
    pub services: [VipEntry; VIP_TABLE_SIZE as usize],
    /// Members, by index.
    pub members: [Member; MAX_MEMBERS as usize],
    /// VIPs, by index.
    pub vips: [Vip; MAX_VIPS as usize],
    /// Egress interfaces, by index.
    pub egress: [Egress; MAX_EGRESS as usize],
    /// The station table. It is mapped together with the egress table: the two share a part.
    pub stations: [u64; STATION_TABLE_SIZE as usize],
    /// Path MTUs of `ipip`, by member; the only table that the data path writes
    /// ([`crate::tunnel`]).
    pub path_mtus: [u64; MAX_MEMBERS as usize],
    /// One of the stations, or [`crate::station::FREE`]: asked before the table, which takes three times
    /// as many instructions.
    pub main_station: u64,
    /// When the controller was last seen, in [`crate::node::seconds`]; 0: never.
    pub heartbeat_s: u64,
    /// The time for rate limits in nanoseconds, where it is not the kernel's: a simulation has that of
    /// its packets. 0: the kernel's.
    pub clock_ns: u64,
    /// Until when, in [`crate::node::seconds`], backends may lack the first verdict of their health checks;
    /// 0: all have one. For `evenkeel announce`; the data path does not read it.
    pub warming_until_s: u64,
    /// Until when, likewise, this node is suspect to the other nodes of its fleet; 0: it is not.
    pub suspect_until_s: u64,
    /// Padding.
    pub _pad:
        [u8; PART_ALIGN - EGRESS_BYTES - STATION_BYTES - PATH_MTU_BYTES - 5 * size_of::<u64>()],
    /// Source addresses for `nat`, by index.
    pub nat_sources: [NatSource; MAX_NAT_SOURCES as usize],
}

const _: () = {
    assert!(core::mem::offset_of!(Tables, services).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, members).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, vips).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, egress).is_multiple_of(PART_ALIGN));
    assert!(core::mem::offset_of!(Tables, nat_sources).is_multiple_of(PART_ALIGN));
};
