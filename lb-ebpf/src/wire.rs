//! Layouts of the headers: lengths and byte offsets, from `network-types`, and the values that the
//! programs compare with. Multi-byte values are in packet order.
//!
//! The header structs themselves are not used to read packets: the verifier needs few wide loads at
//! known offsets, and `Ipv4Hdr::options_len` underflows for a header length below 5 words.

/// Ether types, in packet order.
pub(crate) mod ether {
    use network_types::eth::EtherType;

    pub(crate) const IPV4: u16 = EtherType::Ipv4 as u16;
    pub(crate) const IPV6: u16 = EtherType::Ipv6 as u16;

    /// Bytes of a VLAN tag.
    pub(crate) const TAG_LEN: usize = 4;

    #[inline(always)]
    pub(crate) const fn is_vlan(ether_type: u16) -> bool {
        ether_type == EtherType::Ieee8021q as u16 || ether_type == EtherType::Ieee8021ad as u16
    }
}

pub(crate) mod ethernet {
    use core::mem::offset_of;

    use network_types::eth::EthHdr;

    pub(crate) const LEN: usize = EthHdr::LEN;
    /// Bytes of a header with one VLAN tag.
    pub(crate) const TAGGED_LEN: usize = LEN + super::ether::TAG_LEN;
    /// Bytes of a header with two VLAN tags.
    pub(crate) const DOUBLE_TAGGED_LEN: usize = TAGGED_LEN + super::ether::TAG_LEN;
    /// Bytes of both MAC addresses.
    pub(crate) const ADDRESSES_LEN: usize = ETHER_TYPE;
    pub(crate) const ETHER_TYPE: usize = offset_of!(EthHdr, ether_type);
}

/// IPv4 (RFC 791).
pub(crate) mod ipv4 {
    use core::mem::offset_of;

    use network_types::ip::Ipv4Hdr;

    /// Bytes of a header without options.
    pub(crate) const LEN: usize = Ipv4Hdr::LEN;
    pub(crate) const VERSION_IHL: usize = offset_of!(Ipv4Hdr, vihl);
    pub(crate) const TOS: usize = offset_of!(Ipv4Hdr, tos);
    pub(crate) const TOTAL_LENGTH: usize = offset_of!(Ipv4Hdr, tot_len);
    pub(crate) const ID: usize = offset_of!(Ipv4Hdr, id);
    pub(crate) const FRAGMENT: usize = offset_of!(Ipv4Hdr, frags);
    pub(crate) const TTL: usize = offset_of!(Ipv4Hdr, ttl);
    pub(crate) const PROTOCOL: usize = offset_of!(Ipv4Hdr, proto);
    pub(crate) const CHECKSUM: usize = offset_of!(Ipv4Hdr, check);
    pub(crate) const SOURCE: usize = offset_of!(Ipv4Hdr, src_addr);
    pub(crate) const DEST: usize = offset_of!(Ipv4Hdr, dst_addr);

    /// [`VERSION_IHL`] of a header without options.
    pub(crate) const NO_OPTIONS: u8 = 0x45;
    /// Bits of [`FRAGMENT`]: the fragment offset.
    pub(crate) const OFFSET_BITS: u16 = 0x1fff_u16.to_be();
    /// Bits of [`FRAGMENT`]: "more fragments" and the fragment offset.
    pub(crate) const FRAGMENT_BITS: u16 = 0x3fff_u16.to_be();
    /// Bit of [`FRAGMENT`]: "don't fragment".
    pub(crate) const DF: u16 = 0x4000_u16.to_be();
    /// The word at [`ID`] of a packet with "don't fragment" and identification 0.
    pub(crate) const DONT_FRAGMENT: u32 = 0x0040 << 16;
}

/// IPv6 (RFC 8200).
pub(crate) mod ipv6 {
    use core::mem::offset_of;

    use network_types::ip::Ipv6Hdr;

    pub(crate) const LEN: usize = Ipv6Hdr::LEN;
    /// Version, traffic class and flow label: four bytes.
    pub(crate) const VERSION: usize = 0;
    pub(crate) const PAYLOAD_LENGTH: usize = offset_of!(Ipv6Hdr, payload_len);
    pub(crate) const NEXT_HEADER: usize = offset_of!(Ipv6Hdr, next_hdr);
    pub(crate) const HOP_LIMIT: usize = offset_of!(Ipv6Hdr, hop_limit);
    pub(crate) const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    pub(crate) const DEST: usize = offset_of!(Ipv6Hdr, dst_addr);
}

/// IPv6 extension headers (RFC 8200 §4).
pub(crate) mod extension {
    /// Bytes of the shortest one.
    pub(crate) const MIN_LEN: usize = 8;
    pub(crate) const NEXT_HEADER: usize = 0;
    /// Length in units of eight bytes (authentication header: four), without the first eight bytes.
    pub(crate) const LENGTH: usize = 1;
    /// Routing header.
    pub(crate) const SEGMENTS_LEFT: usize = 3;
    /// Fragment header: offset and "more fragments".
    pub(crate) const FRAGMENT_OFFSET: usize = 2;
    /// Fragment header: identification, four bytes.
    pub(crate) const FRAGMENT_ID: usize = 4;

    /// Bits of [`FRAGMENT_OFFSET`]: the offset.
    pub(crate) const OFFSET_BITS: u16 = 0xfff8_u16.to_be();
    /// Bits of [`FRAGMENT_OFFSET`]: the offset and "more fragments".
    pub(crate) const FRAGMENT_BITS: u16 = 0xfff9_u16.to_be();
}

/// The ports, with which TCP and UDP headers begin.
pub(crate) mod ports {
    pub(crate) const LEN: usize = 4;
    pub(crate) const SOURCE: usize = 0;
    pub(crate) const DEST: usize = 2;
}

pub(crate) mod tcp {
    use core::mem::offset_of;

    use network_types::tcp::TcpHdr;

    /// Bytes of a header without options.
    pub(crate) const LEN: usize = TcpHdr::LEN;
    pub(crate) const SEQ: usize = offset_of!(TcpHdr, seq);
    pub(crate) const ACK_SEQ: usize = offset_of!(TcpHdr, ack_seq);
    /// Header length in words, in the upper four bits.
    pub(crate) const DATA_OFFSET: usize = offset_of!(TcpHdr, _bitfield_1);
    pub(crate) const FLAGS: usize = DATA_OFFSET + 1;
    pub(crate) const CHECKSUM: usize = offset_of!(TcpHdr, check);

    /// Options (RFC 9293 §3.1, RFC 7323 §3.2).
    pub(crate) mod option {
        pub(crate) const END: u8 = 0;
        pub(crate) const NOP: u8 = 1;
        pub(crate) const TIMESTAMPS: u8 = 8;
        /// Kind, length and the first value of a timestamps option.
        pub(crate) const TIMESTAMP_LEN: usize = 6;
    }
}

pub(crate) mod udp {
    use core::mem::offset_of;

    use network_types::udp::UdpHdr;

    pub(crate) const LEN: usize = UdpHdr::LEN;
    pub(crate) const LENGTH: usize = offset_of!(UdpHdr, len);
    pub(crate) const CHECKSUM: usize = offset_of!(UdpHdr, check);
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
pub(crate) mod icmp {
    /// Bytes of the header of every message used here.
    pub(crate) const LEN: usize = 8;
    pub(crate) const TYPE: usize = 0;
    pub(crate) const CODE: usize = 1;
    pub(crate) const CHECKSUM: usize = 2;
    /// Bytes of the transport header that every error quotes.
    pub(crate) const QUOTED_LEN: usize = 8;
    /// Four bytes that depend on the type: the MTU, for one.
    pub(crate) const REST: usize = 4;

    /// Message types of ICMP.
    pub(crate) mod v4 {
        pub(crate) const ECHO_REPLY: u8 = 0;
        pub(crate) const UNREACHABLE: u8 = 3;
        pub(crate) const ECHO_REQUEST: u8 = 8;
        pub(crate) const TIME_EXCEEDED: u8 = 11;
        const PARAMETER_PROBLEM: u8 = 12;

        /// Code of [`UNREACHABLE`]: fragmentation needed.
        pub(crate) const FRAGMENTATION_NEEDED: u8 = 4;

        pub(crate) const fn is_error(kind: u8) -> bool {
            matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
        }
    }

    /// Message types of ICMPv6.
    pub(crate) mod v6 {
        pub(crate) const UNREACHABLE: u8 = 1;
        pub(crate) const PACKET_TOO_BIG: u8 = 2;
        pub(crate) const TIME_EXCEEDED: u8 = 3;
        const PARAMETER_PROBLEM: u8 = 4;
        pub(crate) const ECHO_REQUEST: u8 = 128;
        pub(crate) const ECHO_REPLY: u8 = 129;

        pub(crate) const fn is_error(kind: u8) -> bool {
            matches!(kind, UNREACHABLE..=PARAMETER_PROBLEM)
        }
    }
}
