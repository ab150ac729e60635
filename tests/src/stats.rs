//! Kernel counters that show corrupted and lost packets.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::namespace::Namespace;
use crate::process::output;
use crate::tool;
use crate::topology::Lab;

/// Returns the packets with a wrong checksum that a host received, by protocol (`Tcp` is both families).
pub fn checksum_errors(ns: &Namespace) -> Result<BTreeMap<String, u64>> {
    let mut errors = snmp_checksum_errors(&ns.read_proc_net("snmp")?);
    errors.extend(snmp6_checksum_errors(&ns.read_proc_net("snmp6")?));
    Ok(errors)
}

/// Parses `/proc/net/snmp`: a line of names and a line of values per protocol.
fn snmp_checksum_errors(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut errors = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let mut columns = pair[0]
            .split_ascii_whitespace()
            .zip(pair[1].split_ascii_whitespace());
        let Some((protocol, _)) = columns.next() else {
            continue;
        };
        if let Some((_, value)) = columns.find(|(name, _)| *name == "InCsumErrors") {
            let protocol = protocol.trim_end_matches(':').to_owned();
            errors.insert(protocol, value.parse().unwrap_or(0));
        }
    }
    errors
}

/// Parses `/proc/net/snmp6`: a name and a value per line.
fn snmp6_checksum_errors(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter_map(|(name, value)| {
            let protocol = name.strip_suffix("InCsumErrors")?;
            Some((protocol.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Returns the XDP statistics of an interface (`xdp_tx`, `xdp_tx_errors`, …), summed over its queues.
pub fn xdp_statistics(ns: &Namespace, interface: &str) -> Result<BTreeMap<String, u64>> {
    let mut command = tool::command("ethtool")?;
    command.args(["-S", interface]);
    let text = output(&ns.entry(), command, "")
        .with_context(|| format!("read the statistics of {interface} in {}", ns.name()))?;
    Ok(sum_queues(&text))
}

/// Parses lines such as `rx_queue_0_xdp_tx_errors: 0`.
fn sum_queues(text: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, value) in text.lines().filter_map(|line| line.trim().split_once(": ")) {
        if let Some(at) = name.find("xdp_")
            && let Ok(value) = value.parse::<u64>()
        {
            *sums.entry(name[at..].to_owned()).or_default() += value;
        }
    }
    sums
}

/// Of this many frames a veth may lose one: its queue has 256 places, and a machine that does not run the peer for a
/// moment fills it. TCP sends such a frame again. A wrong set-up loses every frame.
const FRAMES_PER_LOST: u64 = 100;

/// Returns every counter of damage in a lab that is not 0, as `(host, counter, value)`. Transmit errors count from one
/// frame in [`FRAMES_PER_LOST`] on.
///
/// Meaningful only in native mode: generic mode repairs checksums.
pub fn damage(lab: &Lab) -> Result<Vec<(String, String, u64)>> {
    let mut damage = Vec::new();
    for host in lab.hosts() {
        for (protocol, count) in checksum_errors(&host.ns)? {
            damage.push((host.name.clone(), format!("{protocol}InCsumErrors"), count));
        }
    }
    let ends = lab.balancers.iter().flat_map(|host| {
        host.ports.iter().flat_map(move |port| {
            [
                (&host.ns, &host.name, &port.interface),
                (&lab.switch, &port.switch_port, &port.switch_port),
            ]
        })
    });
    for (ns, name, interface) in ends {
        let statistics = xdp_statistics(ns, interface)?;
        let value = |counter: &str| {
            let value = statistics.get(counter).copied();
            value.with_context(|| format!("{interface} of {name} has no counter {counter}"))
        };
        for sent in ["xdp_tx", "xdp_xmit"] {
            let counter = format!("{sent}_errors");
            let errors = value(&counter)?;
            if errors * FRAMES_PER_LOST > value(sent)? {
                damage.push((name.clone(), format!("{interface} {counter}"), errors));
            }
        }
    }
    damage.retain(|(_, _, count)| *count != 0);
    Ok(damage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_checksum_column_of_each_protocol() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
                    Icmp: InMsgs InErrors InCsumErrors\nIcmp: 5 6 7\n\
                    Tcp: InErrs OutRsts InCsumErrors\nTcp: 1 2 3\n";
        let expected = [("Icmp".to_owned(), 7), ("Tcp".to_owned(), 3)];
        assert_eq!(snmp_checksum_errors(text), expected.into());
        let expected = [("Udp6".to_owned(), 9)];
        let text = "Udp6OutDatagrams   \t8\nUdp6InCsumErrors   \t9\n";
        assert_eq!(snmp6_checksum_errors(text), expected.into());
    }

    #[test]
    fn sums_over_queues() {
        let text = "NIC statistics:\n     peer_ifindex: 5\n     rx_queue_0_xdp_tx_errors: 2\n     \
                    rx_queue_1_xdp_tx_errors: 3\n     tx_queue_0_xdp_xmit: 7\n";
        let expected = [("xdp_tx_errors".to_owned(), 5), ("xdp_xmit".to_owned(), 7)];
        assert_eq!(sum_queues(text), expected.into());
    }
}
