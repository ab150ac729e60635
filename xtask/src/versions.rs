//! Every name and version that set-up installs or looks for, and nowhere else.
//!
//! The crates' versions are in the root `Cargo.toml` and `Cargo.lock`.

/// The linker for eBPF programs; a newer one that is already there is taken too.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// What makes Debian packages of cargo's output.
pub(crate) const CARGO_DEB: &str = "3.8.0";

/// Checks the licences and sources of dependencies.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// Finds out which libraries a package depends on.
pub(crate) const SHLIBDEPS: Tool = Tool {
    program: "dpkg-shlibdeps",
    package: "dpkg-dev",
    purpose: "finds the libraries that the package depends on",
};

/// The LLVM majors that this bpf-linker can be built with (its features `llvm-NN`).
pub(crate) const BPF_LINKER_LLVM: &[u32] = &[21, 22, 23];

/// What rustup calls Debian's rustc; `lb-userspace/dataplane/build.rs` looks for this name.
pub(crate) const BPF_TOOLCHAIN: &str = "evenkeel-bpf";

/// Names another toolchain for the eBPF programs; `lb-userspace/dataplane/build.rs` reads it too.
pub(crate) const BPF_TOOLCHAIN_VARIABLE: &str = "EVENKEEL_BPF_TOOLCHAIN";

/// What the eBPF programs are built for.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// The crate that may use unstable features of a stable rustc; same as in `lb-userspace/dataplane/build.rs`.
pub(crate) const BPF_BOOTSTRAP: &str = "aya_ebpf,evenkeel_lb";

/// Debian's rustc (the one it builds browsers with, hence the name) that comes with a core library
/// for BPF, its cargo, that library, and clippy for it.
pub(crate) const DEBIAN_RUST: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-clippy",
];

/// A program and where Debian has it.
pub(crate) struct Tool {
    /// Name on the PATH.
    pub(crate) program: &'static str,
    /// Debian's package.
    pub(crate) package: &'static str,
    /// What it is for.
    pub(crate) purpose: &'static str,
}

/// What tests, demo and benchmark call.
pub(crate) const TEST_TOOLS: &[Tool] = &[
    Tool {
        program: "ip",
        package: "iproute2",
        purpose: "makes the lab's namespaces and links",
    },
    Tool {
        program: "ethtool",
        package: "ethtool",
        purpose: "sets offloads of the lab's links",
    },
    Tool {
        program: "nginx",
        package: "nginx-light",
        purpose: "serves HTTP on the lab's backends",
    },
    Tool {
        program: "haproxy",
        package: "haproxy",
        purpose: "is compared with in the outage replay",
    },
    Tool {
        program: "nft",
        package: "nftables",
        purpose: "is compared with in the outage replay, and counts its connections",
    },
    Tool {
        program: "curl",
        package: "curl",
        purpose: "is the lab's HTTP client",
    },
    Tool {
        program: "iperf3",
        package: "iperf3",
        purpose: "moves bulk data through the lab",
    },
    Tool {
        program: "tcpdump",
        package: "tcpdump",
        purpose: "records packets in tests",
    },
    Tool {
        program: "tshark",
        package: "tshark",
        purpose: "reads captures in tests",
    },
    Tool {
        program: "promtool",
        package: "prometheus",
        purpose: "reads metrics and rules in tests",
    },
    Tool {
        program: "prometheus-alertmanager",
        package: "prometheus-alertmanager",
        purpose: "takes alerts in tests",
    },
    Tool {
        program: "bird",
        package: "bird2",
        purpose: "is a BGP router in tests",
    },
    Tool {
        // The daemons are in /usr/lib/frr, outside of the PATH.
        program: "vtysh",
        package: "frr",
        purpose: "is another BGP router in tests",
    },
    Tool {
        program: "dnsmasq",
        package: "dnsmasq-base",
        purpose: "is a DNS server in tests",
    },
    Tool {
        program: "etcd",
        package: "etcd-server",
        purpose: "has the configuration of a fleet in tests",
    },
    Tool {
        program: "etcdctl",
        package: "etcd-client",
        purpose: "makes snapshots of it in tests",
    },
];

/// What building bpf-linker needs besides cargo and LLVM: it links LLVM's C++.
pub(crate) const CPP_COMPILER: Tool = Tool {
    program: "g++",
    package: "g++",
    purpose: "has the C++ library that LLVM is linked with",
};

/// Debian suites, and how their kernel packages begin: the kernels that the programs are tried on.
pub(crate) const KERNELS: &[(&str, &str)] = &[
    ("bullseye", "linux-image-5.10."),
    ("bookworm", "linux-image-6.1."),
    ("trixie", "linux-image-6.12."),
];

/// What they are booted in.
pub(crate) const EMULATOR: Tool = Tool {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    purpose: "emulates a machine",
};

/// What else booting them needs.
pub(crate) const KERNEL_TOOLS: &[Tool] = &[
    Tool {
        program: "busybox",
        package: "busybox-static",
        purpose: "is the guest's shell",
    },
    Tool {
        program: "cpio",
        package: "cpio",
        purpose: "packs the RAM disk",
    },
    Tool {
        program: "strip",
        package: "binutils",
        purpose: "makes the RAM disk small",
    },
];
