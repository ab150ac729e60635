//! `evenkeel decap` on a veth between network namespaces, in native mode.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
    sys::{
        signal::{Signal, kill},
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
            sendto, socket,
        },
    },
    unistd::Pid,
};

use crate::host::{evenkeel, in_network_namespace, ip, run};

const LIMIT: Duration = Duration::from_secs(10);

/// A process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

/// A backend: the namespace of this thread, whose `eth0.1` is connected to `far` in the namespace of a
/// balancer. It has VIPs on its loopback interface and sockets bound to them.
struct Backend {
    balancer: Process,
    sockets: [UdpSocket; 2],
    senders: [OwnedFd; 2],
    bpffs: tempfile::TempDir,
}

const VIP_V4: &str = "192.0.2.80";
const VIP_V6: &str = "2001:db8::80";

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
    }
}

impl Backend {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo; exec cat"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut balancer = Process(command.spawn().unwrap());
        // Its output shows that it is in its namespace.
        let mut line = [0];
        std::io::Read::read_exact(balancer.0.stdout.as_mut().unwrap(), &mut line).unwrap();
        run("ip link set lo up");
        run(&format!("ip addr add {VIP_V4}/32 dev lo"));
        run(&format!("ip addr add {VIP_V6}/128 dev lo nodad"));
        connect(&balancer);
        let socket = |vip: &str| {
            let socket = UdpSocket::bind((vip, 5000)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self {
            sockets: [socket(VIP_V4), socket(VIP_V6)],
            senders: senders(&balancer),
            balancer,
            bpffs: tempfile::tempdir().unwrap(),
        }
    }

    /// Sends a datagram for the VIP, encapsulated to `outer`.
    fn send(&self, outer: &str, inner: u8, text: &str) {
        let inner = if inner == 4 {
            (
                4,
                datagram(PacketBuilder::ipv4([10, 1, 0, 2], octets(VIP_V4), 64), text),
            )
        } else {
            let source = octets("fd00::2");
            (
                41,
                datagram(PacketBuilder::ipv6(source, octets(VIP_V6), 64), text),
            )
        };
        let flags = MsgFlags::empty();
        // Fails without a neighbour entry or while the interface is down: the caller sends again.
        let _ = match outer.parse().unwrap() {
            IpAddr::V4(dest) => {
                let packet = around_v4(dest, inner.0, &inner.1);
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(dest, 0));
                sendto(self.senders[0].as_raw_fd(), &packet, &to, flags)
            }
            IpAddr::V6(dest) => {
                let packet = around_v6(dest, inner.0, &inner.1);
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(dest, 0, 0, 0));
                sendto(self.senders[1].as_raw_fd(), &packet, &to, flags)
            }
        };
    }

    /// Sends datagrams until one arrives or the limit is reached. Returns whether one arrived.
    fn arrives_within(&self, limit: Duration, outer: &str, inner: u8) -> bool {
        let socket = &self.sockets[usize::from(inner == 6)];
        let mut bytes = [0; 100];
        while socket.recv_from(&mut bytes).is_ok() {}
        let text = format!("{inner} in {outer}");
        let until = Instant::now() + limit;
        while Instant::now() < until {
            self.send(outer, inner, &text);
            std::thread::sleep(Duration::from_millis(20));
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let sender: IpAddr = if inner == 4 { "10.1.0.2" } else { "fd00::2" }
                    .parse()
                    .unwrap();
                assert_eq!(from, SocketAddr::new(sender, 4000));
                if bytes[..length] == *text.as_bytes() {
                    return true;
                }
            }
        }
        false
    }

    fn assert_arrives(&self, outer: &str, inner: u8) {
        assert!(
            self.arrives_within(LIMIT, outer, inner),
            "{inner} in {outer}"
        );
    }

    /// Waits until datagrams no longer arrive.
    fn wait_until_lost(&self, outer: &str, inner: u8) {
        let until = Instant::now() + LIMIT;
        while self.arrives_within(Duration::from_millis(300), outer, inner) {
            assert!(Instant::now() < until, "{inner} in {outer} still arrives");
        }
    }

    fn assert_all_arrive(&self) {
        for outer in ["10.1.0.1", "fd00::1"] {
            for inner in [4, 6] {
                self.assert_arrives(outer, inner);
            }
        }
    }

    fn command(arguments: &str) -> Command {
        let mut command = evenkeel();
        command.args(["decap", "--interface", "eth0.1"]);
        command.args(arguments.split_whitespace());
        command
    }

    fn bpffs(&self) -> String {
        format!("--bpffs {}", self.bpffs.path().display())
    }

    fn output(&self, arguments: &str) -> Output {
        let arguments = format!("{arguments} {}", self.bpffs());
        Self::command(&arguments).output().unwrap()
    }

    /// Starts the command in the foreground. Returns the line that it prints when it is attached.
    fn start(arguments: &str) -> (Process, String) {
        let mut command = Self::command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.is_empty() {
            let mut why = String::new();
            let stderr = process.0.stderr.as_mut().unwrap();
            std::io::Read::read_to_string(stderr, &mut why).unwrap();
            panic!("decap {arguments}: {why}");
        }
        (process, line)
    }
}

/// Connects the two namespaces by `eth0.1` and `far`.
fn connect(balancer: &Process) {
    let far = |command: &str| run(&format!("nsenter -t {} -n {command}", balancer.pid()));
    run("ip link add eth0.1 type veth peer name far");
    run(&format!("ip link set far netns {}", balancer.pid()));
    run("ip addr add 10.1.0.1/24 dev eth0.1");
    run("ip addr add fd00::1/64 dev eth0.1 nodad");
    run("ip link set eth0.1 up");
    far("ip addr add 10.1.0.2/24 dev far");
    far("ip addr add fd00::2/64 dev far nodad");
    far("ip link set far up");
}

/// Returns raw sockets in the balancer's namespace, which send whole packets.
fn senders(balancer: &Process) -> [OwnedFd; 2] {
    let namespace = File::open(format!("/proc/{}/ns/net", balancer.pid())).unwrap();
    let open = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(family, SockType::Raw, flags, SockProtocol::Raw).unwrap()
        })
    };
    std::thread::spawn(open).join().unwrap()
}

fn octets<const N: usize>(address: &str) -> [u8; N] {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets()[..].try_into().unwrap(),
        IpAddr::V6(v6) => v6.octets()[..].try_into().unwrap(),
    }
}

fn datagram(ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>, text: &str) -> Vec<u8> {
    let mut packet = Vec::new();
    ip.udp(4000, 5000)
        .write(&mut packet, text.as_bytes())
        .unwrap();
    packet
}

fn around_v4(dest: Ipv4Addr, protocol: u8, inner: &[u8]) -> Vec<u8> {
    // The kernel fills in the lengths, the identification and the checksum of such a header.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 1, 0, 2];
    packet.extend(dest.octets());
    packet.extend(inner);
    packet
}

fn around_v6(dest: Ipv6Addr, protocol: u8, inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((inner.len() as u16).to_be_bytes());
    packet.extend([protocol, 64]);
    packet.extend(octets::<16>("fd00::2"));
    packet.extend(dest.octets());
    packet.extend(inner);
    packet
}

/// Runs a test in a new namespace.
fn on_a_backend(test: impl FnOnce(&Backend) + Send) {
    in_network_namespace(|| test(&Backend::new()));
}

fn terminate(process: &mut Process) {
    kill(process.pid(), Signal::SIGTERM).unwrap();
    let status = process.0.wait().unwrap();
    assert!(status.success(), "{status}");
}

fn has_program() -> bool {
    ip("link show eth0.1").contains("prog/xdp")
}

fn status(backend: &Backend) -> serde_json::Value {
    let output = backend.output("--status --json");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn delivers_datagrams_to_sockets_of_the_vip() {
    on_a_backend(|backend| {
        assert!(!backend.arrives_within(Duration::from_millis(300), "10.1.0.1", 4));
        let (mut process, line) = Backend::start(&format!("--mode native {}", backend.bpffs()));
        assert!(line.contains("attached to eth0.1 (native)"), "{line}");
        backend.assert_all_arrive();
        let before = status(backend);
        assert_eq!(before["mode"], "native");
        for counter in ["v4_in_v4", "v6_in_v4", "v4_in_v6", "v6_in_v6", "bytes"] {
            assert!(before["counters"][counter].as_u64() > Some(0), "{before}");
        }
        for counter in ["declined", "malformed", "congested", "failed"] {
            assert_eq!(before["counters"][counter], 0, "{before}");
        }

        // The program stays when the command exits; the next one adopts it with its counters.
        terminate(&mut process);
        backend.assert_all_arrive();
        let (mut process, _) = Backend::start(&backend.bpffs());
        backend.assert_all_arrive();
        let after = status(backend);
        assert!(
            after["counters"]["v4_in_v4"].as_u64() >= before["counters"]["v4_in_v4"].as_u64(),
            "{before} {after}"
        );
        terminate(&mut process);

        let output = backend.output("--remove");
        assert!(output.status.success(), "{output:?}");
        assert!(!has_program());
        backend.wait_until_lost("10.1.0.1", 4);
        assert_eq!(status(backend)["attached"], false);
        assert_eq!(backend.output("--status").status.code(), Some(1));
        assert!(!backend.bpffs.path().join("evenkeel-decap").exists());
        assert!(backend.output("--remove").status.success());
    });
}

#[test]
fn follows_the_addresses_while_it_runs() {
    on_a_backend(|backend| {
        let (_process, _) = Backend::start(&backend.bpffs());
        backend.assert_arrives("10.1.0.1", 4);
        run("ip addr add 10.1.0.9/24 dev eth0.1");
        run("ip addr add fd00::9/64 dev eth0.1 nodad");
        backend.assert_arrives("10.1.0.9", 6);
        backend.assert_arrives("fd00::9", 4);
        let addresses = status(backend)["addresses"].to_string();
        assert!(addresses.contains("\"10.1.0.9\""), "{addresses}");
        assert!(addresses.contains(VIP_V6), "{addresses}");
        assert!(!addresses.contains("127.0.0.1"), "{addresses}");
        run("ip addr del 10.1.0.9/24 dev eth0.1");
        let until = Instant::now() + LIMIT;
        while status(backend)["addresses"]
            .to_string()
            .contains("10.1.0.9")
        {
            assert!(
                Instant::now() < until,
                "the deleted address is still listed"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        backend.assert_arrives("10.1.0.1", 4);
    });
}

#[test]
fn attaches_again_to_a_recreated_interface() {
    on_a_backend(|backend| {
        let (_process, _) = Backend::start(&backend.bpffs());
        backend.assert_arrives("10.1.0.1", 4);
        run("ip link del eth0.1");
        connect(&backend.balancer);
        backend.assert_all_arrive();
    });
}

#[test]
fn unpinned_it_is_attached_only_while_it_runs() {
    on_a_backend(|backend| {
        let (mut process, line) = Backend::start("--unpinned");
        assert!(line.contains("not pinned"), "{line}");
        backend.assert_all_arrive();
        terminate(&mut process);
        let until = Instant::now() + LIMIT;
        while has_program() {
            assert!(Instant::now() < until, "still attached after its exit");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn once_attaches_and_exits() {
    on_a_backend(|backend| {
        let output = backend.output("--once --mode generic");
        assert!(output.status.success(), "{output:?}");
        backend.assert_all_arrive();
        assert_eq!(status(backend)["mode"], "generic");
        assert!(backend.output("--once --mode native").status.success());
        backend.assert_all_arrive();
        assert_eq!(status(backend)["mode"], "native");
    });
}
