//! Is the packet for a VIP?

use lb_common::{
    Address, family,
    reason::Reason,
    vip::{MAX_PROBES, VIP_TABLE_SIZE, VipKey, target},
};

use crate::{headers::Headers, maps::Tables, packet::Packet, verdict::Verdict, wire::ports};

/// What a packet's destination is: what the table has for it, a [`target`].
///
/// One word, and not an enumeration of these: the way of the common packet is one comparison.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Service(u64);

impl Service {
    /// Whether it is none of ours.
    #[inline(always)]
    pub(crate) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether it is a VIP; else, if ours, it is a source address of `nat`.
    #[inline(always)]
    pub(crate) const fn is_vip(self) -> bool {
        self.0 & target::VIP as u64 != 0
    }

    /// Index of the VIP, or of the source.
    #[inline(always)]
    pub(crate) const fn index(self) -> u16 {
        target::index(self.0)
    }
}

/// What a destination is: the exact service first, then the address with any port.
#[inline(always)]
pub(crate) fn service(
    tables: Tables,
    dest: &Address,
    family: u8,
    protocol: u8,
    dest_be: u16,
) -> Service {
    let key = VipKey::new(dest, family, protocol, dest_be);
    let mut found = find(tables, &key, family);
    if found == 0 {
        found = find(tables, &key.with_port(0), family);
    }
    Service(found)
}

/// Whether any VIP or NAT source has this address, and as what: [`target::ADDRESS`],
/// [`target::NAT_SOURCE`], or 0.
#[inline(always)]
pub(crate) fn address(tables: Tables, dest: &Address, family: u8) -> u64 {
    find(tables, &VipKey::new(dest, family, 0, 0), family)
}

/// Why a packet for no service is passed: its address is a VIP's, or not even that.
#[inline(always)]
pub(crate) fn unknown_service(tables: Tables, dest: &Address, family: u8) -> Verdict {
    let kind = target::kind(address(tables, dest, family));
    Verdict::of(if kind == target::ADDRESS {
        Reason::NoService
    } else {
        Reason::NoVip
    })
}

#[inline(always)]
fn find(tables: Tables, key: &VipKey, family: u8) -> u64 {
    let mut at = key.home();
    for _ in 0..MAX_PROBES {
        let entry = tables.service(at);
        // SAFETY: an entry of a mapped array; the controller changes it word by word, so each word is
        // read once.
        unsafe {
            let service = (&raw const (*entry).key.service).read_volatile();
            // The service says the family, and of IPv4 there is no second half.
            if service == key.service
                && (*entry).key.high == key.high
                && (family == family::V4 || (*entry).key.low == key.low)
            {
                return (&raw const (*entry).target).read_volatile();
            }
            if service == 0 {
                return 0;
            }
        }
        at = (at + 1) % VIP_TABLE_SIZE;
    }
    0
}

/// The service that a packet which is no later fragment is for, if it is so long that it has ports. They are written to its
/// headers.
#[inline(always)]
pub(crate) fn find_service(
    packet: Packet,
    tables: Tables,
    headers: &mut Headers,
) -> Option<Service> {
    if headers.length + headers.l3 < headers.l4 + ports::LEN as u32 {
        return None;
    }
    let view = packet.view::<{ ports::LEN }>(headers.l4())?;
    headers.source_be = view.get(ports::SOURCE);
    headers.dest_be = view.get(ports::DEST);
    let Headers {
        family, protocol, ..
    } = *headers;
    let dest_be = headers.dest_be;
    Some(service(tables, &headers.dest, family, protocol, dest_be))
}
