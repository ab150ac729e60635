//! What the configuration of the node asks of the host: its folder, its ports.

use std::net::IpAddr;

use super::HOST;
use crate::doctor::{Findings, Folder, Host};
use lb_daemon::reconciler::nat_sources;
use lb_model::config::{Config, Forward};

/// Less room than this for revisions is soon used up.
const LITTLE_ROOM: u64 = 64 << 20;

pub(in super::super) fn node(host: &Host, config: &Config, findings: &mut Findings) {
    if let Some(folder) = &host.state_dir {
        state_dir(folder, findings);
    }
    if config.vips.iter().any(|vip| vip.forward == Forward::Nat) {
        ports(host, config, findings);
        sources(host, config, findings);
    }
}

/// The addresses that `nat` sends from.
fn sources(host: &Host, config: &Config, findings: &mut Findings) {
    let own: Vec<IpAddr> = host.addresses.iter().map(|(_, address)| *address).collect();
    let foreign = nat_sources::foreign_sources(config, &own);
    for &address in &foreign {
        findings.warn(
            "nat source",
            &address.to_string(),
            nat_sources::describe(address),
            format!(
                "give it to an interface (`ip addr add {address}/{} dev IF`), correct node.nat_source, \
                 or have the network route it to this host",
                if address.is_ipv4() { 32 } else { 128 }
            ),
        );
    }
    if foreign.is_empty() {
        let text = "addresses that `nat` sends from are this host's";
        findings.ok("nat source", HOST, text);
    }
}

fn state_dir(folder: &Folder, findings: &mut Findings) {
    let path = folder.path.display().to_string();
    if let Some(why) = &folder.unwritable {
        let advice = "revisions are kept there: make it a folder that root can write to, or set \
                      node.state_dir (under systemd: StateDirectory=evenkeel)";
        let finding = format!("nothing can be written there: {why}");
        findings.problem("state_dir", &path, finding, advice);
        return;
    }
    match folder.file_system {
        Some("tmpfs") => findings.warn(
            "state_dir",
            &path,
            "in memory (tmpfs): revisions are gone after a reboot",
            "set node.state_dir to a folder on a disk",
        ),
        Some("nfs") => findings.warn(
            "state_dir",
            &path,
            "on a network file system: without the network no change is possible",
            "set node.state_dir to a folder on a disk of this host",
        ),
        Some("overlay") => findings.warn(
            "state_dir",
            &path,
            "on an overlay (a container's): revisions go with the container",
            "mount a volume there",
        ),
        _ if folder.free_bytes < LITTLE_ROOM => {
            let free = folder.free_bytes >> 20;
            let finding = format!("only {free} MiB are free");
            findings.warn("state_dir", &path, finding, "make room");
        }
        _ if folder.exists => findings.ok("state_dir", &path, "can be written to"),
        _ => findings.ok("state_dir", &path, "is not there; `run` creates it"),
    }
}

fn ports(host: &Host, config: &Config, findings: &mut Findings) {
    let Some(ports) = &host.ports else { return };
    let nat = &config.node.nat_ports;
    let shown = format!("{}-{}", nat.start(), nat.end());
    if let Some(conflict) = &ports.conflict {
        let advice = "`run` refuses to start until that is mended";
        findings.problem("nat ports", HOST, conflict, advice);
        return;
    }
    let local = &ports.local;
    let is_reserved = |port: &u16| ports.reserved.iter().any(|range| range.contains(port));
    let shared = nat
        .clone()
        .filter(|port| local.contains(port) && !is_reserved(port))
        .count();
    if shared == 0 {
        let text = format!("{shown}: no socket has one of them, and the kernel gives none away");
        findings.ok("nat ports", HOST, text);
    } else {
        findings.warn(
            "nat ports",
            HOST,
            format!(
                "{shared} ports of {shown} are also in net.ipv4.ip_local_port_range ({}-{})",
                local.start(),
                local.end()
            ),
            "`run` reserves them, which leaves fewer to the host's own connections: choose \
             node.nat_ports apart from that range",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::Level::Ok as Fine;
    use crate::doctor::Level::Problem;
    use crate::doctor::Level::Warning;
    use crate::doctor::Ports;
    use crate::doctor::checks::sample::config;
    use crate::doctor::checks::sample::host;
    use crate::doctor::checks::sample::level;

    fn state_dir_of(change: impl Fn(&mut Folder)) -> Level {
        let mut host = host();
        change(host.state_dir.as_mut().unwrap());
        level("state_dir", |findings| node(&host, &config(""), findings))
    }

    #[test]
    fn the_state_folder_must_be_writable_and_should_last() {
        assert_eq!(state_dir_of(|_| ()), Fine);
        assert_eq!(state_dir_of(|f| f.exists = false), Fine);
        assert_eq!(
            state_dir_of(|f| f.unwritable = Some("EROFS".into())),
            Problem
        );
        for name in ["tmpfs", "nfs", "overlay"] {
            assert_eq!(state_dir_of(|f| f.file_system = Some(name)), Warning);
        }
        assert_eq!(state_dir_of(|f| f.free_bytes = 1 << 20), Warning);
    }

    #[test]
    fn a_source_of_nat_that_the_host_does_not_have_is_a_warning() {
        let sources_of = |source: [u8; 4]| {
            let mut config = config("");
            config.vips[0].forward = Forward::Nat;
            config.node.nat_sources = vec![source.into()];
            level("nat source", |findings| node(&host(), &config, findings))
        };
        assert_eq!(sources_of([192, 0, 2, 200]), Warning);
        assert_eq!(sources_of([192, 0, 2, 2]), Fine);
    }

    fn ports_of(change: impl Fn(&mut Ports)) -> Level {
        let mut host = host();
        change(host.ports.as_mut().unwrap());
        let mut config = config("");
        config.vips[0].forward = Forward::Nat;
        level("nat ports", |findings| node(&host, &config, findings))
    }

    #[test]
    fn ports_of_nat_are_to_be_nobody_elses() {
        assert_eq!(ports_of(|_| ()), Fine);
        assert_eq!(ports_of(|p| p.conflict = Some("tcp …".into())), Problem);
        assert_eq!(ports_of(|p| p.local = 32_767..=60_999), Warning);
        let reserved = |p: &mut Ports| {
            (p.local, p.reserved) = (32_767..=60_999, vec![16_384..=32_767]);
        };
        assert_eq!(ports_of(reserved), Fine);
        // Without `nat` they don't matter.
        let mut findings = Findings::default();
        node(&host(), &config(""), &mut findings);
        assert!(findings.0.iter().all(|f| f.check != "nat ports"));
    }
}
