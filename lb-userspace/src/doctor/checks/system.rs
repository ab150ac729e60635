//! Checks on the kernel, privileges, file systems and clock.

use super::HOST;
use crate::doctor::{Bpffs, Findings, Host};

/// The oldest supported kernel.
const OLDEST: (u32, u32) = (5, 10);
/// The first kernel that does not charge BPF memory to RLIMIT_MEMLOCK.
const NO_MEMLOCK: (u32, u32) = (5, 11);
/// The first kernel with tcx.
const TCX: (u32, u32) = (6, 6);

/// Capabilities that `run` needs (`linux/capability.h`).
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
            "install Linux 5.10 or later; 6.6 or later is recommended",
        ),
        Some(_) => findings.ok("kernel", HOST, format!("Linux {release}")),
        None => findings.warn(
            "kernel",
            HOST,
            format!("cannot parse the version {release:?}"),
            "make sure that it is Linux 5.10 or later",
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
            "run `evenkeel doctor` as root for all checks; `evenkeel run` needs these capabilities",
        );
    }
}

fn types(host: &Host, findings: &mut Findings) {
    if host.btf {
        findings.ok("btf", HOST, "/sys/kernel/btf/vmlinux exists");
    } else {
        findings.warn(
            "btf",
            HOST,
            "/sys/kernel/btf/vmlinux does not exist",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y, such as those of distributions",
        );
    }
}

fn jit(host: &Host, findings: &mut Findings) {
    match host.jit {
        Some(0) => findings.problem(
            "jit",
            HOST,
            "off: BPF programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(2) => findings.warn(
            "jit",
            HOST,
            "on, with debug output: every BPF program is dumped to the kernel log",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => findings.ok("jit", HOST, "on"),
        None => findings.ok(
            "jit",
            HOST,
            "not visible in this network namespace; on by default",
        ),
    }
}

fn trial(host: &Host, findings: &mut Findings) {
    match &host.trial {
        Ok(()) => findings.ok(
            "program",
            HOST,
            "the XDP program passes the verifier and runs on a test packet",
        ),
        Err(why) if has(host, CAPABILITIES[1].1) || has(host, CAPABILITIES[2].1) => findings
            .problem(
                "program",
                HOST,
                format!("cannot load and run the XDP program: {why}"),
                "check whether a security module or container forbids bpf(); otherwise report this with the \
                 kernel version",
            ),
        Err(_) => findings.warn(
            "program",
            HOST,
            "not tested: only root can load programs",
            "run `evenkeel doctor` as root",
        ),
    }
}

fn tcx(host: &Host, findings: &mut Findings) {
    match host.version() {
        Some(version) if version < TCX => findings.warn(
            "tcx",
            HOST,
            "the kernel has no tcx (since Linux 6.6)",
            "only if health checks through the VIP (`via = \"vip\"`) cannot be attached: use Linux 6.6 or \
             `via = \"direct\"`",
        ),
        Some(_) => findings.ok("tcx", HOST, "supported"),
        None => {}
    }
}

fn memlock(host: &Host, findings: &mut Findings) {
    let counted = host.version().is_some_and(|version| version < NO_MEMLOCK);
    match host.memlock {
        Some(bytes) if counted && !has(host, CAP_SYS_RESOURCE) => findings.problem(
            "memlock",
            HOST,
            format!("this kernel charges BPF maps to the limit of locked memory, {bytes} bytes"),
            "set LimitMEMLOCK=infinity in the systemd unit, or run `ulimit -l unlimited`",
        ),
        Some(_) if counted => findings.ok("memlock", HOST, "`run` can raise the limit"),
        _ => findings.ok("memlock", HOST, "no limit for BPF"),
    }
}

fn bpffs(host: &Host, findings: &mut Findings) {
    match &host.bpffs {
        Bpffs::Mounted(path) => {
            let text = format!("mounted at {}", path.display());
            findings.ok("bpffs", HOST, text);
        }
        Bpffs::Mountable(path) => {
            let path = path.display();
            findings.ok(
                "bpffs",
                HOST,
                format!("not mounted at {path}; `run` mounts it"),
            );
        }
        Bpffs::Missing { path, why } => findings.problem(
            "bpffs",
            HOST,
            format!("no BPF file system at {}: {why}", path.display()),
            format!(
                "mount -t bpf -o mode=0700 bpf {0}, or name another mount point with --bpffs",
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
            "not synchronised",
            "run chrony or systemd-timesyncd: revisions, confirmation deadlines and alerts use the time \
             of day",
        ),
        Some(true) => findings.ok("clock", HOST, "synchronised"),
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
    fn accepts_a_good_host() {
        let mut findings = Findings::default();
        system(&host(), &mut findings);
        assert_eq!(findings.0.len(), 9);
        assert!(findings.0.iter().all(|f| f.level == Fine), "{findings:#?}");
    }

    #[test]
    fn finds_each_problem() {
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
    fn checks_locked_memory_on_old_kernels_only() {
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
