//! The parsed headers of a packet.

use crate::{
    packet::View,
    wire::{ipv4, ipv6, udp},
};
use lb_common::{Address, address_v4, family, hash, is_host, proto, sample::FlowKey, vip::Vip};

/// The headers of a TCP or UDP packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    /// Offset of the IP header: 14, 18 or 22.
    pub(crate) l3: u32,
    /// Offset of the TCP or UDP header.
    pub(crate) l4: u32,
    /// Length of the IP packet from its header; at most the length of the frame.
    pub(crate) length: u32,
    /// Address family, see [`family`].
    pub(crate) family: u8,
    /// Protocol.
    pub(crate) protocol: u8,
    /// TCP flags; 0 for UDP.
    pub(crate) tcp_flags: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Whether this is the first fragment of a datagram; its identification is `fragment_id`.
    pub(crate) first_fragment: bool,
    /// IPv6: where the fragment header is, in units of eight bytes behind the fixed header, plus 1; 0
    /// if there is none, or at another place than headers of standard length leave it.
    pub(crate) fragment_header: u8,
    /// Source port (packet order).
    pub(crate) source_be: u16,
    /// Destination port (packet order).
    pub(crate) dest_be: u16,
    /// Identification of a fragmented datagram (packet order).
    pub(crate) fragment_id: u32,
    /// Source address.
    pub(crate) source: Address,
    /// Destination address.
    pub(crate) dest: Address,
}

/// TCP flags.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;

    /// Whether a packet with these flags starts a connection: SYN without ACK.
    #[inline(always)]
    pub(crate) const fn opens(flags: u8) -> bool {
        flags & (SYN | ACK) == SYN
    }

    /// Whether the packet closes the connection, or the sender's half of it.
    #[inline(always)]
    pub(crate) const fn closes(flags: u8) -> bool {
        flags & (FIN | RST) != 0 && flags & SYN == 0
    }

    /// Whether the packet shows that the connection is in use: it ends a block of data (PSH) and is
    /// not the last packet. After closing its half, a peer sends only acknowledgements.
    #[inline(always)]
    pub(crate) const fn shows_activity(flags: u8) -> bool {
        flags & (PSH | FIN | RST | SYN) == PSH
    }
}

/// Whether the source is a single host other than this node: not a martian source. A router does
/// not forward other packets (RFC 1812 §5.3.7), and a reply would go to many hosts or return here.
#[inline(always)]
pub(crate) fn is_valid_source(source: &Address, dest: &Address, family: u8) -> bool {
    is_host(source, family) && source != dest
}

impl Headers {
    /// Nothing.
    pub(crate) const EMPTY: Self = Self {
        l3: 0,
        l4: 0,
        length: 0,
        family: 0,
        protocol: 0,
        tcp_flags: 0,
        ttl: 0,
        first_fragment: false,
        fragment_header: 0,
        source_be: 0,
        dest_be: 0,
        fragment_id: 0,
        source: [0; 2],
        dest: [0; 2],
    };

    /// Parses the headers of a packet without options and fragments, except for the TCP flags.
    ///
    /// What the flow hash needs is read here, even if it was read before: a load from the packet is
    /// cheaper than a register that is kept for it, or a store and a load of the stack.
    #[inline(always)]
    pub(crate) fn plain_v4(ip: View<{ ipv4::LEN + udp::LEN }>, l3: usize) -> Self {
        let (source_be, dest_be) = both_ports(ip.get_whole(ipv4::LEN));
        Self {
            l3: l3 as u32,
            l4: (l3 + ipv4::LEN) as u32,
            length: u32::from(ip.be16(ipv4::TOTAL_LENGTH)),
            family: family::V4,
            protocol: ip.get(ipv4::PROTOCOL),
            tcp_flags: 0,
            ttl: ip.get_whole(ipv4::TTL),
            first_fragment: false,
            fragment_header: 0,
            source_be,
            dest_be,
            fragment_id: 0,
            source: address_v4(ip.get_whole(ipv4::SOURCE)),
            dest: address_v4(ip.get(ipv4::DEST)),
        }
    }

    /// Parses the headers of a packet without extension headers, except for the TCP flags.
    #[inline(always)]
    pub(crate) fn plain_v6(ip: View<{ ipv6::LEN + udp::LEN }>, l3: usize) -> Self {
        let (source_be, dest_be) = both_ports(ip.get_whole(ipv6::LEN));
        Self {
            protocol: ip.get(ipv6::NEXT_HEADER),
            ttl: ip.get_whole(ipv6::HOP_LIMIT),
            source_be,
            dest_be,
            source: [ip.get_whole(ipv6::SOURCE), ip.get_whole(ipv6::SOURCE + 8)],
            ..Self::fixed_v6(ip, l3)
        }
    }

    /// Parses the fixed IPv6 header.
    #[inline(always)]
    pub(crate) fn fixed_v6<const N: usize>(ip: View<N>, l3: usize) -> Self {
        Self {
            l3: l3 as u32,
            l4: (l3 + ipv6::LEN) as u32,
            length: u32::from(ip.be16(ipv6::PAYLOAD_LENGTH)) + ipv6::LEN as u32,
            family: family::V6,
            protocol: 0,
            tcp_flags: 0,
            ttl: ip.get(ipv6::HOP_LIMIT),
            first_fragment: false,
            fragment_header: 0,
            source_be: 0,
            dest_be: 0,
            fragment_id: 0,
            source: source_v6(ip),
            dest: dest_v6(ip),
        }
    }

    /// Offset of the IP header, with a bound that the verifier knows.
    #[inline(always)]
    pub(crate) fn l3(&self) -> usize {
        (self.l3 & 0x1f) as usize
    }

    /// Offset of the transport header, with a bound that the verifier knows. In a quoted packet it
    /// may follow two chains of extension headers.
    #[inline(always)]
    pub(crate) fn l4(&self) -> usize {
        (self.l4 & 0x7ff) as usize
    }

    /// Whether the packet starts a TCP connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        tcp::opens(self.tcp_flags)
    }

    #[inline(always)]
    pub(crate) fn is_tcp(&self) -> bool {
        self.protocol == proto::TCP
    }

    /// See [`is_valid_source`].
    #[inline(always)]
    pub(crate) fn has_valid_source(&self) -> bool {
        is_valid_source(&self.source, &self.dest, self.family)
    }

    /// Hash of the flow under the VIP's key.
    #[inline(always)]
    pub(crate) fn flow_hash(&self, vip: &Vip) -> u64 {
        self.hash_with(vip, hash::ports_word(self.source_be, self.dest_be))
    }

    /// Hash of the source address under the VIP's key.
    #[inline(always)]
    pub(crate) fn source_hash(&self, vip: &Vip) -> u64 {
        self.hash_with(vip, 0)
    }

    #[inline(always)]
    fn hash_with(&self, vip: &Vip, ports: u64) -> u64 {
        ports_hash(vip, self.family, &self.source, ports)
    }

    #[inline(always)]
    pub(crate) fn flow_key(&self) -> FlowKey {
        FlowKey {
            source: self.source,
            dest: self.dest,
            source_be: self.source_be,
            dest_be: self.dest_be,
            protocol: self.protocol,
            family: self.family,
            _pad: 0,
        }
    }
}

/// Hash of a source address and two ports ([`hash::ports_word`]) under the VIP's key.
#[inline(always)]
pub(crate) fn ports_hash(vip: &Vip, of: u8, source: &Address, ports: u64) -> u64 {
    if of == family::V4 {
        hash::flow_hash_v4(&vip.hash_key, source[0] as u32, ports)
    } else {
        hash::flow_hash_v6(&vip.hash_key, source, ports)
    }
}

/// Splits the word of source and destination port.
#[inline(always)]
const fn both_ports(word: u32) -> (u16, u16) {
    (word as u16, (word >> 16) as u16)
}

#[inline(always)]
pub(crate) fn source_v6<const N: usize>(ip: View<N>) -> Address {
    [ip.get(ipv6::SOURCE), ip.get(ipv6::SOURCE + 8)]
}

#[inline(always)]
pub(crate) fn dest_v6<const N: usize>(ip: View<N>) -> Address {
    [ip.get(ipv6::DEST), ip.get(ipv6::DEST + 8)]
}
