//! Looks up the service that a packet is addressed to.

use lb_common::{
    Address, family,
    reason::Reason,
    vip::{MAX_PROBES, VIP_TABLE_SIZE, VipKey, target},
};

use crate::{headers::Headers, packet::Packet, tables, verdict::Verdict, wire::ports};

/// Result of a lookup in the VIP table: a [`target`].
///
/// One word instead of an enum: the fast path needs a single comparison.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Service(u64);

impl Service {
    const SERVICES: u64 = (target::VIP | target::NAT_SOURCE) as u64;

    /// Whether the destination matches no service.
    #[inline(always)]
    pub(crate) const fn is_none(self) -> bool {
        self.0 & Self::SERVICES == 0
    }

    /// Whether it is a VIP; otherwise, if not none, it is a NAT source.
    #[inline(always)]
    pub(crate) const fn is_vip(self) -> bool {
        self.0 & target::VIP as u64 != 0
    }

    /// Index of the VIP or of the NAT source.
    #[inline(always)]
    pub(crate) const fn index(self) -> u16 {
        target::index(self.0)
    }

    /// Passes a packet for no service; the reason depends on whether its address is a VIP.
    #[inline(always)]
    pub(crate) const fn unknown(self) -> Verdict {
        Verdict::of(if self.0 == 0 {
            Reason::NoVip
        } else {
            Reason::NoService
        })
    }
}

/// Looks up a service: the exact port first, then the address, and any port only if the address has a
/// VIP of the protocol. The entry of a NAT source's address is the same for all protocols.
#[inline(always)]
pub(crate) fn service(dest: &Address, family: u8, protocol: u8, dest_be: u16) -> Service {
    let key = VipKey::new(dest, family, protocol, dest_be);
    let exact = find(&key, family);
    if exact != 0 {
        return Service(exact);
    }
    let of_address = address(dest, family);
    // An earlier controller has recorded no protocols.
    let has_any = target::kind(of_address) == target::ADDRESS
        && (target::index(of_address) == 0 || target::may_serve(of_address, protocol));
    if has_any {
        let any = find(&key.with_port(0), family);
        if any != 0 {
            return Service(any);
        }
    }
    Service(of_address)
}

/// Looks up an address: [`target::ADDRESS`] or [`target::NAT_SOURCE`], or 0 if no VIP or NAT source
/// has it.
#[inline(always)]
pub(crate) fn address(dest: &Address, family: u8) -> u64 {
    find(&VipKey::new(dest, family, 0, 0), family)
}

#[inline(always)]
fn find(key: &VipKey, family: u8) -> u64 {
    let mut at = key.home();
    for _ in 0..MAX_PROBES {
        let entry = tables::service(at);
        // SAFETY: an entry of a mapped array; the controller changes it word by word, so each word
        // is read once.
        unsafe {
            let service = (&raw const (*entry).key.service).read_volatile();
            // The service word includes the family, and an IPv4 address has no second word.
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

/// Looks up the service of a packet that is not a later fragment, and stores its ports in
/// `headers`. `None` if the packet is too short to have ports.
#[inline(always)]
pub(crate) fn find_service(packet: Packet, headers: &mut Headers) -> Option<Service> {
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
    Some(service(&headers.dest, family, protocol, dest_be))
}
