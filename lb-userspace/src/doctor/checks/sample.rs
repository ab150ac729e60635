//! A host without problems and a configuration for it.

use crate::doctor::{Bpffs, Channels, Directory, Findings, Host, Interface, Level, Ports};
use lb_daemon::nexthop::{NextHopState, ResolvedNextHop};
use lb_model::config::{self, Config};

/// One `ipip` VIP with one backend and health checks through the VIP; `more` is added to `[node]`.
pub(super) fn config(more: &str) -> Config {
    let text = format!(
        "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n{more}\n\
         [[vip]]\nname = \"web\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"ipip\"\n[vip.health]\nkind = \"tcp\"\n\
         [[vip.backend]]\nname = \"one\"\naddress = \"10.0.1.11\"\n"
    );
    config::parse("sample.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn interface(name: &str, mtu: u32) -> Interface {
    Interface {
        name: name.into(),
        usable: true,
        ethernet: true,
        mtu,
        driver: Some("ice".into()),
        channels: Some(Channels {
            current: 4,
            max: 64,
        }),
        lro: Some(false),
        gro: Some(true),
        xdp_features: Some(7),
        ..Interface::default()
    }
}

pub(super) fn host() -> Host {
    let route = ResolvedNextHop {
        ifindex: 3,
        ifname: "eth1".into(),
        mac: [2; 6],
        own_mac: [4; 6],
        gateway: None,
        mtu: 1600,
        source: None,
        receivers: vec!["eth1".into()],
        ..ResolvedNextHop::default()
    };
    let sysctls = [
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.eth1.rp_filter", "0"),
    ];
    Host {
        kernel: "6.12.48-amd64".into(),
        btf: true,
        jit: Some(1),
        trial: Ok(()),
        capabilities: u64::MAX,
        memlock: None,
        cpus: 4,
        bpffs: Bpffs::Mounted("/sys/fs/bpf".into()),
        pinned: Vec::new(),
        clock_synchronised: Some(true),
        interfaces: vec![interface("eth0", 1500), interface("eth1", 1600)],
        addresses: vec![("eth0".into(), [192, 0, 2, 2].into())],
        sysctls: sysctls
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        next_hops: [([10, 0, 1, 11].into(), NextHopState::Resolved(route))].into(),
        ports: Some(Ports {
            local: 32_768..=60_999,
            reserved: Vec::new(),
            conflict: None,
        }),
        announcer: None,
        sources: Vec::new(),
        state_dir: Some(Directory {
            path: "/var/lib/evenkeel".into(),
            exists: true,
            unwritable: None,
            free_bytes: 1 << 40,
            file_system: None,
        }),
    }
}

/// The highest level of a check's findings. Panics if there is none.
pub(super) fn level(check: &str, run: impl FnOnce(&mut Findings)) -> Level {
    let mut findings = Findings::default();
    run(&mut findings);
    let of_check = findings.0.iter().filter(|finding| finding.check == check);
    for finding in of_check.clone() {
        assert_eq!(
            finding.level != Level::Ok,
            finding.advice.is_some(),
            "findings have advice unless they are ok: {finding:?}"
        );
    }
    of_check
        .map(|finding| finding.level)
        .max()
        .unwrap_or_else(|| panic!("no finding of {check}: {findings:#?}"))
}
