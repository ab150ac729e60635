//! Checks on veth interfaces in native mode: containers and network namespaces
//! (`docs/containers.md`).

use crate::doctor::{Findings, Interface, Peer, xdp_feature};

/// Checks a veth. Only its peer decides what XDP can transmit on it.
pub(super) fn veth(interface: &Interface, findings: &mut Findings) {
    if interface.driver.as_deref() != Some("veth") {
        return;
    }
    let features = interface.xdp_features.unwrap_or(xdp_feature::NDO_XMIT);
    match &interface.peer {
        Some(peer) => {
            program(interface, peer, features, findings);
            checksums(interface, peer, findings);
        }
        None if features & xdp_feature::NDO_XMIT == 0 => findings.warn(
            "veth",
            &interface.name,
            "frames transmitted on this veth are lost: its peer has neither an XDP program nor GRO",
            "on the peer: ip link set dev PEER xdp obj pass.o sec xdp (a program that passes everything, \
             see docs/containers.md)",
        ),
        None => findings.warn(
            "veth",
            &interface.name,
            "the peer is in a network namespace that can't be read from here",
            "on the peer: attach an XDP program that passes everything, and `ethtool -K PEER tx off` \
             (docs/containers.md)",
        ),
    }
}

/// The start of a command for the peer.
fn at(peer: &Peer) -> &'static str {
    if peer.is_elsewhere {
        "in the peer's network namespace: "
    } else {
        ""
    }
}

fn program(interface: &Interface, peer: &Peer, features: u64, findings: &mut Findings) {
    let (name, other) = (&interface.name, &peer.name);
    if peer.has_program {
        let text = format!("its peer {other} has an XDP program and takes transmitted frames");
        findings.ok("veth", name, text);
        return;
    }
    let finding = if features & xdp_feature::NDO_XMIT == 0 {
        format!("frames transmitted on this veth are lost: its peer {other} has no XDP program")
    } else {
        format!(
            "frames transmitted back on this veth (XDP_TX) wait in a queue until the host itself sends \
             something: its peer {other} has GRO, but no XDP program"
        )
    };
    let advice = format!(
        "{}ip link set dev {other} xdp obj pass.o sec xdp (a program that passes everything, see \
         docs/containers.md)",
        at(peer)
    );
    findings.warn("veth", name, finding, advice);
}

fn checksums(interface: &Interface, peer: &Peer, findings: &mut Findings) {
    let (name, other) = (&interface.name, &peer.name);
    match peer.tx_checksum {
        Some(true) => findings.warn(
            "checksums",
            name,
            format!(
                "its peer {other} has tx checksum offload: packets of senders on this host have partial \
                 checksums, which native XDP forwards as they are, and backends drop them"
            ),
            format!("{}ethtool -K {other} tx off", at(peer)),
        ),
        Some(false) => {
            let text = format!("its peer {other} completes checksums");
            findings.ok("checksums", name, text);
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level::{self, Ok as Fine, Warning};
    use crate::doctor::checks::sample::level;

    fn found(check: &str, features: u64, peer: Option<Peer>) -> (Level, String) {
        let interface = Interface {
            name: "eth0".into(),
            driver: Some("veth".into()),
            xdp_features: Some(features),
            peer,
            ..Interface::default()
        };
        let mut findings = Findings::default();
        veth(&interface, &mut findings);
        let level = level(check, |findings| veth(&interface, findings));
        let advice = findings.0.into_iter().filter(|found| found.check == check);
        (level, advice.filter_map(|found| found.advice).collect())
    }

    fn peer(has_program: bool, tx_checksum: bool) -> Peer {
        Peer {
            name: "vethX".into(),
            is_elsewhere: true,
            has_program,
            tx_checksum: Some(tx_checksum),
        }
    }

    #[test]
    fn the_peer_needs_a_program_and_no_checksum_offload() {
        assert_eq!(found("veth", 7, Some(peer(true, false))).0, Fine);
        // With GRO alone, frames wait; without it, they are lost.
        for features in [3, 7] {
            let (level, advice) = found("veth", features, Some(peer(false, false)));
            assert_eq!(level, Warning);
            assert!(advice.contains("ip link set dev vethX xdp obj"), "{advice}");
            assert_eq!(found("veth", features, None).0, Warning);
        }
        assert_eq!(found("checksums", 7, Some(peer(true, false))).0, Fine);
        let (level, advice) = found("checksums", 7, Some(peer(true, true)));
        assert_eq!(level, Warning);
        assert_eq!(
            advice,
            "in the peer's network namespace: ethtool -K vethX tx off"
        );
    }
}
