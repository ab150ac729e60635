//! Checks lengths and checksums of frames with etherparse.

use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};

/// Errors of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Descriptions of the errors.
    pub faults: Vec<String>,
    /// Whether a transport checksum is wrong.
    pub transport: bool,
    /// Whether the frame or an inner packet can't be parsed completely.
    pub unparsed: bool,
}

impl Findings {
    /// Returns the errors that were not in the input frame, whose findings are `before`. Errors that the data
    /// path neither causes nor repairs do not count.
    #[must_use]
    pub fn since(self, before: &Self) -> Vec<String> {
        let excused = |fault: &str| {
            before.faults.iter().any(|old| old == fault)
                || before.transport && is_transport(fault)
                || before.unparsed && fault.starts_with(INSIDE)
        };
        let faults = self.faults.into_iter();
        faults.filter(|fault| !excused(fault)).collect()
    }
}

const INSIDE: &str = "inside: ";

fn is_transport(fault: &str) -> bool {
    ["TCP", "UDP", "ICMP"]
        .iter()
        .any(|name| fault.starts_with(name))
}

/// Checks a frame and everything encapsulated in it.
#[must_use]
pub fn findings(frame: &[u8]) -> Findings {
    let mut findings = Findings::default();
    match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => check(&packet, &mut findings),
        Err(error) => {
            findings.unparsed = true;
            findings.faults.push(error.to_string());
        }
    }
    findings
}

fn check(packet: &SlicedPacket<'_>, findings: &mut Findings) {
    let Some(payload) = packet.ip_payload() else {
        return;
    };
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        // Over the bytes, because the parsed header loses the reserved flag.
        let rest = Sum16BitWords::new()
            .add_slice(ip.header().slice())
            .ones_complement();
        if rest != 0 {
            let has = ip.header().header_checksum();
            findings.faults.push(format!(
                "IPv4 header checksum {has:04x} is off by {rest:04x}"
            ));
        }
    }
    if payload.fragmented {
        return;
    }
    if [4, 41].contains(&payload.ip_number.0) {
        match SlicedPacket::from_ip(payload.payload) {
            Ok(inner) => check(&inner, findings),
            Err(error) => {
                findings.unparsed = true;
                findings.faults.push(format!("{INSIDE}{error}"));
            }
        }
        return;
    }
    if let (Some(net), Some(transport)) = (&packet.net, &packet.transport)
        && let Some((what, has, should)) = transport_checksum(net, transport)
        && has != should
    {
        findings.transport = true;
        findings
            .faults
            .push(format!("{what} checksum {has:04x} should be {should:04x}"));
    }
}

/// Returns the protocol, its checksum, and the expected one.
fn transport_checksum(
    net: &NetSlice<'_>,
    transport: &TransportSlice<'_>,
) -> Option<(&'static str, u16, u16)> {
    let v4 = |net: &NetSlice<'_>| {
        net.ipv4_ref()
            .map(|ip| (ip.header().source(), ip.header().destination()))
    };
    let v6 = |net: &NetSlice<'_>| {
        net.ipv6_ref()
            .map(|ip| (ip.header().source(), ip.header().destination()))
    };
    match transport {
        TransportSlice::Tcp(tcp) => {
            let should = match (v4(net), v6(net)) {
                (Some((from, to)), _) => tcp.calc_checksum_ipv4(from, to).ok()?,
                (_, Some((from, to))) => tcp.calc_checksum_ipv6(from, to).ok()?,
                _ => return None,
            };
            Some(("TCP", tcp.checksum(), should))
        }
        TransportSlice::Udp(udp) => {
            if udp.checksum() == 0 && v4(net).is_some() {
                return None;
            }
            let (header, payload) = (udp.to_header(), udp.payload());
            let should = match (v4(net), v6(net)) {
                (Some((from, to)), _) => header.calc_checksum_ipv4_raw(from, to, payload).ok()?,
                (_, Some((from, to))) => header.calc_checksum_ipv6_raw(from, to, payload).ok()?,
                _ => return None,
            };
            Some(("UDP", udp.checksum(), should))
        }
        TransportSlice::Icmpv4(icmp) => {
            // Over the bytes, because the parsed type loses fields that it does not use.
            let rest = Sum16BitWords::new()
                .add_slice(icmp.slice())
                .ones_complement();
            Some(("ICMP", icmp.checksum(), icmp.checksum() ^ rest))
        }
        TransportSlice::Icmpv6(icmp) => {
            let (from, to) = v6(net)?;
            let valid = icmp.is_checksum_valid(from, to);
            Some((
                "ICMPv6",
                icmp.checksum(),
                if valid {
                    icmp.checksum()
                } else {
                    !icmp.checksum()
                },
            ))
        }
        TransportSlice::Igmp(_) => None,
    }
}
