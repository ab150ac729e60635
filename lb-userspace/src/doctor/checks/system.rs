//! The kernel, what this process may do, and what is mounted.

use super::HOST;
use crate::doctor::{Bpffs, Findings, Host};

/// The oldest kernel that the programs are made for.
const OLDEST: (u32, u32) = (5, 10);
/// From here on BPF memory is not counted as locked memory.
const NO_MEMLOCK: (u32, u32) = (5, 11);
/// From here on there is tcx.
const TCX: (u32, u32) = (6, 6);

/// Capabilities that `run` needs, with their numbers (`linux/capability.h`).
const CAPABILITIES: [(&str, u32); 3] =
    [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
const CAP_SYS_RESOURCE: u32 = 24;

pub(in super::super) fn system(host: &Host, findings: &mut Findings) {
    kernel(host, findings);
    privileges(host, findings);
    types(host, findings);
    jit(host, findings);
    trial(host, findings);
    tcx(host, findings);
    memlock(host, findings);
    bpffs(host, findings);
    clock(host, findings);
}

fn kernel(host: &Host, findings: &mut Findings) {
    let release = &host.kernel;
    match host.version() {
        Some(version) if version < OLDEST => findings.problem(
            "kernel",
            HOST,
            format!("Linux {release} is too old"),
            "install Linux 5.10 or newer (XDP links are of 5.9); 6.6 or newer is recommended",
        ),
        Some(_) => findings.ok("kernel", HOST, format!("Linux {release}; has XDP links")),
        None => findings.warn(
            "kernel",
            HOST,
            format!("{release:?} is no version that is understood"),
            "Linux 5.10 or newer is needed",
        ),
    }
}

fn has(host: &Host, capability: u32) -> bool {
    host.capabilities >> capability & 1 == 1
}

fn privileges(host: &Host, findings: &mut Findings) {
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, number)| !has(host, *number))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        findings.ok("privileges", HOST, "this process may use BPF");
    } else {
        findings.warn(
            "privileges",
            HOST,
            format!("this process lacks {}", missing.join(", ")),
            "run this as root, to find out what only root can; `evenkeel run` needs them too",
        );
    }
}

fn types(host: &Host, findings: &mut Findings) {
    if host.btf {
        findings.ok("btf", HOST, "the kernel describes its types");
    } else {
        findings.warn(
            "btf",
            HOST,
            "there is no /sys/kernel/btf/vmlinux",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of distributions are",
        );
    }
}

fn jit(host: &Host, findings: &mut Findings) {
    match host.jit {
        Some(0) => findings.problem(
            "jit",
            HOST,
            "BPF programs are interpreted: several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(2) => findings.warn(
            "jit",
            HOST,
            "BPF programs are compiled, and every one is dumped to the kernel's log",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => findings.ok("jit", HOST, "BPF programs are compiled"),
        None => findings.ok(
            "jit",
            HOST,
            "can't be seen in this network namespace; kernels compile BPF programs by default",
        ),
    }
}

fn trial(host: &Host, findings: &mut Findings) {
    match &host.trial {
        Ok(()) => findings.ok(
            "program",
            HOST,
            "the kernel's verifier takes the program, and it runs (on a packet of ours)",
        ),
        Err(why) if has(host, CAPABILITIES[1].1) || has(host, CAPABILITIES[2].1) => findings
            .problem(
                "program",
                HOST,
                format!("the program could not be loaded and run: {why}"),
                "see whether a security module or container forbids bpf(); else report this \
                 with the kernel's version",
            ),
        Err(_) => findings.warn(
            "program",
            HOST,
            "not tried: only root can load programs",
            "run this as root",
        ),
    }
}

fn tcx(host: &Host, findings: &mut Findings) {
    match host.version() {
        Some(version) if version < TCX => findings.warn(
            "tcx",
            HOST,
            "the kernel has no tcx (it is of 6.6)",
            "nothing, unless health checks through the VIP's path (`via = \"vip\"`) can't be \
             attached: then use Linux 6.6, or `via = \"direct\"`",
        ),
        Some(_) => findings.ok("tcx", HOST, "the kernel has tcx"),
        None => {}
    }
}

fn memlock(host: &Host, findings: &mut Findings) {
    let counted = host.version().is_some_and(|version| version < NO_MEMLOCK);
    match host.memlock {
        Some(bytes) if counted && !has(host, CAP_SYS_RESOURCE) => findings.problem(
            "memlock",
            HOST,
            format!("this kernel counts BPF maps as locked memory, limited to {bytes} bytes"),
            "LimitMEMLOCK=infinity in the systemd unit, or `ulimit -l unlimited`",
        ),
        Some(_) if counted => findings.ok("memlock", HOST, "the limit can be raised by `run`"),
        _ => findings.ok("memlock", HOST, "locked memory is no limit for BPF here"),
    }
}

fn bpffs(host: &Host, findings: &mut Findings) {
    match &host.bpffs {
        Bpffs::Mounted(path) => {
            let text = format!("the BPF file system is mounted at {}", path.display());
            findings.ok("bpffs", HOST, text);
        }
        Bpffs::Mountable(path) => {
            let path = path.display();
            findings.ok(
                "bpffs",
                HOST,
                format!("not mounted at {path}; `run` does it"),
            );
        }
        Bpffs::Missing { path, why } => findings.problem(
            "bpffs",
            HOST,
            format!("no BPF file system at {}: {why}", path.display()),
            format!(
                "mount -t bpf bpf {0}; or give another folder with --bpffs",
                path.display()
            ),
        ),
    }
}

fn clock(host: &Host, findings: &mut Findings) {
    match host.clock_synchronised {
        Some(false) => findings.warn(
            "clock",
            HOST,
            "no time service keeps the clock",
            "run chrony or systemd-timesyncd: revisions, deadlines to confirm and alerts carry \
             the time of day",
        ),
        Some(true) => findings.ok("clock", HOST, "kept by a time service"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level::Ok as Fine;
    use crate::doctor::Level::Problem;
    use crate::doctor::Level::Warning;
    use crate::doctor::checks::sample::host;
    use crate::doctor::checks::sample::level;

    #[test]
    fn a_good_host_has_nothing_to_mend() {
        let mut findings = Findings::default();
        system(&host(), &mut findings);
        assert_eq!(findings.0.len(), 9);
        assert!(findings.0.iter().all(|f| f.level == Fine), "{findings:#?}");
    }

    #[test]
    fn each_shortcoming_is_found() {
        let found = |check, change: fn(&mut Host)| {
            let mut host = host();
            change(&mut host);
            level(check, |findings| system(&host, findings))
        };
        assert_eq!(found("kernel", |h| h.kernel = "5.4.0".into()), Problem);
        assert_eq!(
            found("kernel", |h| h.kernel = "5.10.0-9-amd64".into()),
            Fine
        );
        assert_eq!(found("kernel", |h| h.kernel = "custom".into()), Warning);
        assert_eq!(found("privileges", |h| h.capabilities = 1 << 12), Warning);
        assert_eq!(found("btf", |h| h.btf = false), Warning);
        assert_eq!(found("jit", |h| h.jit = Some(0)), Problem);
        assert_eq!(found("jit", |h| h.jit = Some(2)), Warning);
        assert_eq!(found("jit", |h| h.jit = None), Fine);
        let no = || Err("EPERM".to_owned());
        assert_eq!(found("program", |h| h.trial = Err("EPERM".into())), Problem);
        let mut unprivileged = host();
        (unprivileged.trial, unprivileged.capabilities) = (no(), 0);
        assert_eq!(level("program", |f| system(&unprivileged, f)), Warning);
        assert_eq!(found("tcx", |h| h.kernel = "6.1.0".into()), Warning);
        assert_eq!(
            found("clock", |h| h.clock_synchronised = Some(false)),
            Warning
        );
        let missing = |h: &mut Host| {
            h.bpffs = Bpffs::Missing {
                path: "/sys/fs/bpf".into(),
                why: "no such folder".into(),
            };
        };
        assert_eq!(found("bpffs", missing), Problem);
        let mountable = |h: &mut Host| h.bpffs = Bpffs::Mountable("/sys/fs/bpf".into());
        assert_eq!(found("bpffs", mountable), Fine);
    }

    #[test]
    fn locked_memory_matters_to_old_kernels_only() {
        let mut host = host();
        host.memlock = Some(8 << 20);
        host.capabilities &= !(1 << CAP_SYS_RESOURCE);
        assert_eq!(level("memlock", |f| system(&host, f)), Fine);
        host.kernel = "5.10.1".into();
        assert_eq!(level("memlock", |f| system(&host, f)), Problem);
        host.capabilities |= 1 << CAP_SYS_RESOURCE;
        assert_eq!(level("memlock", |f| system(&host, f)), Fine);
    }
}
