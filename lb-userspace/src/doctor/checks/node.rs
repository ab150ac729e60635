//! Checks on the state directory and the ports of `nat`.

use std::net::IpAddr;

use super::HOST;
use crate::doctor::{Directory, Findings, Host};
use lb_daemon::reconciler::nat_sources;
use lb_model::config::{Config, Forward};

/// Minimum free space for revisions, in bytes.
const MIN_FREE: u64 = 64 << 20;

pub(in super::super) fn node(host: &Host, config: &Config, findings: &mut Findings) {
    if let Some(directory) = &host.state_dir {
        state_dir(directory, findings);
    }
    if config.vips.iter().any(|vip| vip.forward == Forward::Nat) {
        ports(host, config, findings);
        sources(host, config, findings);
    }
}

/// Source addresses of `nat`.
fn sources(host: &Host, config: &Config, findings: &mut Findings) {
    let own: Vec<IpAddr> = host.addresses.iter().map(|(_, address)| *address).collect();
    let foreign = nat_sources::foreign_sources(config, &own);
    for &address in &foreign {
        findings.warn(
            "nat source",
            &address.to_string(),
            nat_sources::describe(address),
            format!(
                "add it to an interface (`ip addr add {address}/{} dev IF`), correct node.nat_source, or \
                 route it to this host",
                if address.is_ipv4() { 32 } else { 128 }
            ),
        );
    }
    if foreign.is_empty() {
        let text = "source addresses of `nat` are addresses of this host";
        findings.ok("nat source", HOST, text);
    }
}

fn state_dir(directory: &Directory, findings: &mut Findings) {
    let path = directory.path.display().to_string();
    if let Some(why) = &directory.unwritable {
        let advice = "make it writable for root, or set node.state_dir (under systemd: \
                      StateDirectory=evenkeel); revisions are stored there";
        let finding = format!("not writable: {why}");
        findings.problem("state_dir", &path, finding, advice);
        return;
    }
    match directory.file_system {
        Some("tmpfs") => findings.warn(
            "state_dir",
            &path,
            "tmpfs: revisions are lost at reboot",
            "set node.state_dir to a directory on a disk",
        ),
        Some("nfs") => findings.warn(
            "state_dir",
            &path,
            "NFS: without the network no change is possible",
            "set node.state_dir to a directory on a local disk",
        ),
        Some("overlay") => findings.warn(
            "state_dir",
            &path,
            "overlay file system: revisions are lost with the container",
            "mount a volume at this path",
        ),
        _ if directory.free_bytes < MIN_FREE => {
            let free = directory.free_bytes >> 20;
            let finding = format!("only {free} MiB free");
            findings.warn("state_dir", &path, finding, "free disk space");
        }
        _ if directory.exists => findings.ok("state_dir", &path, "writable"),
        _ => findings.ok("state_dir", &path, "does not exist; `run` creates it"),
    }
}

fn ports(host: &Host, config: &Config, findings: &mut Findings) {
    let Some(ports) = &host.ports else { return };
    let nat = &config.node.nat_ports;
    let shown = format!("{}-{}", nat.start(), nat.end());
    if let Some(conflict) = &ports.conflict {
        let advice =
            "stop that program or choose other node.nat_ports; until then `run` does not start";
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
        let text = format!("{shown}: not used by sockets, not in net.ipv4.ip_local_port_range");
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
            "choose node.nat_ports outside that range; otherwise `run` reserves them, and the host has \
             fewer ports for its own connections",
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

    fn state_dir_of(change: impl Fn(&mut Directory)) -> Level {
        let mut host = host();
        change(host.state_dir.as_mut().unwrap());
        level("state_dir", |findings| node(&host, &config(""), findings))
    }

    #[test]
    fn checks_that_the_state_directory_is_writable_and_persistent() {
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
    fn warns_of_nat_sources_that_the_host_does_not_have() {
        let sources_of = |source: [u8; 4]| {
            let mut config = config("");
            config.vips[0].forward = Forward::Nat;
            config.node.nat_source = vec![source.into()];
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
    fn checks_that_nat_ports_are_free() {
        assert_eq!(ports_of(|_| ()), Fine);
        assert_eq!(ports_of(|p| p.conflict = Some("tcp …".into())), Problem);
        assert_eq!(ports_of(|p| p.local = 32_767..=60_999), Warning);
        let reserved = |p: &mut Ports| {
            (p.local, p.reserved) = (32_767..=60_999, vec![16_384..=32_767]);
        };
        assert_eq!(ports_of(reserved), Fine);
        // Not checked without `nat`.
        let mut findings = Findings::default();
        node(&host(), &config(""), &mut findings);
        assert!(findings.0.iter().all(|f| f.check != "nat ports"));
    }
}
