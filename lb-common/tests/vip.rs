//! The meaning of entries of the VIP table.

use lb_common::{
    proto,
    vip::target::{ADDRESS, NAT_SOURCE, VIP, index, kind, may_serve, pack, protocol_bit},
};

#[test]
fn address_serves_the_protocols_of_its_mask() {
    let (tcp, udp) = (protocol_bit(proto::TCP), protocol_bit(proto::UDP));
    for (bits, serves_tcp, serves_udp) in [
        (0, false, false),
        (tcp, true, false),
        (udp, false, true),
        (tcp | udp, true, true),
    ] {
        let address = pack(ADDRESS, bits);
        assert_eq!((kind(address), index(address)), (ADDRESS, bits));
        assert_eq!(may_serve(address, proto::TCP), serves_tcp);
        assert_eq!(may_serve(address, proto::UDP), serves_udp);
    }
}

#[test]
fn serves_only_tcp_and_udp() {
    for protocol in 0..=255 {
        let can_be = protocol == proto::TCP || protocol == proto::UDP;
        assert_eq!(may_serve(pack(ADDRESS, u16::MAX), protocol), can_be);
        // Their index is another thing.
        assert_eq!(may_serve(pack(NAT_SOURCE, 0), protocol), can_be);
        assert_eq!(may_serve(pack(VIP, 0), protocol), can_be);
    }
}
