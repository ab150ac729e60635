//! Is the packet for a VIP?

use lb_common::{
    Address,
    reason::Reason,
    vip::{MAX_PROBES, VIP_TABLE_SIZE, VipKey, target},
};

use crate::maps::{Elements as _, VIP_TABLE};

/// What a packet's destination is.
pub(crate) enum Service {
    /// A VIP, by index.
    Vip(u16),
    /// A source address of `nat`, by index.
    NatSource(u16),
    /// None of ours: pass it.
    Foreign(Reason),
}

/// What a destination is: the exact service first, then the address with any port.
#[inline(always)]
pub(crate) fn service(dest: &Address, family: u8, protocol: u8, dest_be: u16) -> Service {
    let key = VipKey::new(dest, family, protocol, dest_be);
    let mut found = find(&key);
    if found == 0 {
        found = find(&key.with_port(0));
    }
    match target::kind(found) {
        target::VIP => Service::Vip(target::index(found)),
        target::NAT_SOURCE => Service::NatSource(target::index(found)),
        _ => Service::Foreign(Reason::NoVip),
    }
}

/// Whether any VIP or NAT source has this address, and as what: [`target::ADDRESS`],
/// [`target::NAT_SOURCE`], or 0.
#[inline(always)]
pub(crate) fn address(dest: &Address, family: u8) -> u64 {
    find(&VipKey::new(dest, family, 0, 0))
}

#[inline(always)]
fn find(key: &VipKey) -> u64 {
    let mut at = key.home();
    for _ in 0..MAX_PROBES {
        let Some(entry) = VIP_TABLE.at(at) else {
            return 0;
        };
        // SAFETY: an entry of a mapped array; the controller changes it word by word, so each word is
        // read once.
        unsafe {
            let service = (&raw const (*entry).key.service).read_volatile();
            if service == key.service
                && (*entry).key.high == key.high
                && (*entry).key.low == key.low
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
