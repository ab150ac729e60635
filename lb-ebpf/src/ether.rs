//! Ether types, in packet order.

/// IPv4.
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
/// IPv6.
pub(crate) const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();
const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();

/// Whether a VLAN tag comes here.
#[inline(always)]
pub(crate) const fn is_vlan(ether_type: u16) -> bool {
    ether_type == VLAN || ether_type == SERVICE_VLAN
}
