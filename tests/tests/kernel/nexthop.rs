//! Resolution of next hops in network namespaces.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use lb_daemon::nexthop::{NextHopState, NextHops, Resolver, Stations, UnresolvedReason};
use tokio::sync::watch;

use crate::host::{in_network_namespace, run};

/// A second network namespace, which exists as long as this idle process.
struct Neighbour(Child);

impl Neighbour {
    fn new() -> Self {
        let mut child = Command::new("unshare");
        child.args(["-n", "sh", "-c", "echo; exec cat"]);
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its output shows that it is in its namespace.
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self(child)
    }

    fn run(&self, command: &str) {
        run(&format!("nsenter -t {} -n {command}", self.0.id()));
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test in a new namespace whose interface `near` (10.1.0.1, fd00::1) is connected to `far` (10.1.0.2,
/// fd00::2) in the namespace of a neighbour.
fn with_a_neighbour(test: impl AsyncFnOnce(&Neighbour) + Send) {
    in_network_namespace(|| {
        let neighbour = Neighbour::new();
        run("ip link set lo up");
        run("ip link add near type veth peer name far");
        run(&format!("ip link set far netns {}", neighbour.0.id()));
        run("ip addr add 10.1.0.1/24 dev near");
        run("ip addr add fd00::1/64 dev near nodad");
        run("ip link set near up");
        neighbour.run("ip addr add 10.1.0.2/24 dev far");
        neighbour.run("ip addr add fd00::2/64 dev far nodad");
        neighbour.run("ip link set far address 02:00:00:00:00:02");
        neighbour.run("ip link set far up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test(&neighbour));
    });
}

/// Waits until the state of a backend is as expected.
async fn wait(
    table: &mut watch::Receiver<NextHops>,
    backend: &str,
    expected: impl Fn(&NextHopState) -> bool,
) {
    let backend: IpAddr = backend.parse().unwrap();
    let found = tokio::time::timeout(
        Duration::from_secs(10),
        table.wait_for(|table| table.get(&backend).is_some_and(&expected)),
    );
    let found = found.await.map(drop);
    assert!(
        found.is_ok(),
        "{backend}: {:?}",
        table.borrow().get(&backend)
    );
}

fn mac_is(mac: u8) -> impl Fn(&NextHopState) -> bool {
    move |state| {
        state
            .resolved()
            .is_some_and(|way| way.mac == [2, 0, 0, 0, 0, mac])
    }
}

fn because(reason: fn(&UnresolvedReason) -> bool) -> impl Fn(&NextHopState) -> bool {
    move |state| matches!(state, NextHopState::Unresolved(why) if reason(why))
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter()
        .map(|address| address.parse().unwrap())
        .collect()
}

#[test]
fn resolves_and_watches_neighbours_and_gateways() {
    with_a_neighbour(async |neighbour| {
        run("ip route add 10.9.0.0/16 via 10.1.0.2 mtu 1400");
        run("ip route add 10.8.0.0/16 via inet6 fd00::2 src 10.1.0.1");
        let resolver =
            Resolver::start(addresses(&["10.1.0.2", "fd00::2", "10.9.1.1", "10.8.1.1"])).unwrap();
        let mut table = resolver.watch();
        for backend in ["10.1.0.2", "fd00::2", "10.9.1.1", "10.8.1.1"] {
            wait(&mut table, backend, mac_is(2)).await;
        }
        let known = table.borrow().clone();
        let way = known[&"10.9.1.1".parse::<IpAddr>().unwrap()]
            .resolved()
            .unwrap()
            .clone();
        assert_eq!((way.ifname.as_str(), way.mtu), ("near", 1400));
        assert_eq!(way.gateway, Some("10.1.0.2".parse().unwrap()));
        assert_eq!(way.source, Some("10.1.0.1".parse().unwrap()));
        let own = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(own.contains("near:"), "{own}");
        let way = known[&"fd00::2".parse::<IpAddr>().unwrap()]
            .resolved()
            .unwrap()
            .clone();
        assert_eq!(
            (way.mtu, way.source),
            (1500, Some("fd00::1".parse().unwrap()))
        );
        assert_ne!(way.own_mac, [0; 6]);
        assert_eq!(way.gateway, None);
        let way = known[&"10.8.1.1".parse::<IpAddr>().unwrap()]
            .resolved()
            .unwrap()
            .clone();
        assert_eq!(way.gateway, Some("fd00::2".parse().unwrap()));

        // The neighbour gets another MAC address and announces it.
        neighbour.run("ip link set far down");
        neighbour.run("ip link set far address 02:00:00:00:00:03");
        neighbour.run("ip link set far up");
        run("ip neigh flush all");
        wait(&mut table, "10.1.0.2", mac_is(3)).await;

        // A permanent entry works as well.
        run("ip neigh replace 10.1.0.77 lladdr 02:00:00:00:00:4d dev near nud permanent");
        resolver.set_backends(addresses(&["10.1.0.77"]));
        wait(&mut table, "10.1.0.77", mac_is(0x4d)).await;
        let entry = Command::new("ip")
            .args(["neigh", "show", "10.1.0.77"])
            .output()
            .unwrap();
        let entry = String::from_utf8(entry.stdout).unwrap();
        assert!(entry.contains("PERMANENT"), "it is left as it is: {entry}");
        assert_eq!(table.borrow().len(), 1, "others are forgotten");

        // The route changes to another gateway.
        resolver.set_backends(addresses(&["10.9.1.1"]));
        wait(&mut table, "10.9.1.1", mac_is(3)).await;
        run("ip route replace 10.9.0.0/16 via 10.1.0.77");
        wait(&mut table, "10.9.1.1", mac_is(0x4d)).await;
        run("ip link set near mtu 1300");
        wait(&mut table, "10.9.1.1", |state| {
            state.resolved().is_some_and(|way| way.mtu == 1300)
        })
        .await;
    });
}

#[test]
fn reports_why_a_next_hop_is_unresolved() {
    with_a_neighbour(async |neighbour| {
        let backends = [
            "10.1.0.1",
            "10.1.0.50",
            "10.200.0.1",
            "fd99::1",
            "10.1.0.255",
            "10.7.0.1",
        ];
        run("ip route add blackhole 10.7.0.0/16");
        let resolver = Resolver::start(addresses(&backends)).unwrap();
        let mut table = resolver.watch();
        wait(
            &mut table,
            "10.1.0.1",
            because(|why| *why == UnresolvedReason::Local),
        )
        .await;
        for backend in ["10.200.0.1", "fd99::1", "10.1.0.255", "10.7.0.1"] {
            wait(
                &mut table,
                backend,
                because(|why| matches!(why, UnresolvedReason::NoRoute { .. })),
            )
            .await;
        }
        wait(
            &mut table,
            "10.1.0.50",
            because(|why| matches!(why, UnresolvedReason::NoAnswer { .. })),
        )
        .await;
        for state in table.borrow().values() {
            if let NextHopState::Unresolved(reason) = state {
                println!("{reason}");
            }
        }

        // The neighbour replies to a later probe, and the route is added.
        neighbour.run("ip addr add 10.1.0.50/24 dev far");
        wait(&mut table, "10.1.0.50", mac_is(2)).await;
        run("ip route add 10.200.0.0/16 via 10.1.0.50");
        wait(&mut table, "10.200.0.1", mac_is(2)).await;

        // The link goes down.
        neighbour.run("ip link set far down");
        wait(
            &mut table,
            "10.1.0.50",
            because(|why| matches!(why, UnresolvedReason::InterfaceDown { .. })),
        )
        .await;
        neighbour.run("ip link set far up");
        wait(&mut table, "10.1.0.50", mac_is(2)).await;
        run("ip link del near");
        wait(
            &mut table,
            "10.1.0.50",
            because(|why| matches!(why, UnresolvedReason::NoRoute { .. })),
        )
        .await;
    });
}

/// Frames are accepted for the addresses that the kernel accepts them for, also after changes.
#[test]
fn follows_the_mac_addresses_of_interfaces() {
    with_a_neighbour(async |_| {
        run("ip link set near address 02:00:00:00:00:10");
        let near = nix::net::if_::if_nametoindex("near").unwrap();
        let resolver = Resolver::start([]).unwrap();
        let mut stations = resolver.watch_stations();
        let mut wait = async |expected: &[u8]| {
            let expected = expected.iter().map(|last| [2, 0, 0, 0, 0, *last]).collect();
            let of_near = |all: &Stations| -> BTreeSet<[u8; 6]> {
                let of_near = all.iter().filter(|(ifindex, _)| *ifindex == near);
                of_near.map(|(_, mac)| *mac).collect()
            };
            let reached = stations.wait_for(|all| of_near(all) == expected);
            let reached = tokio::time::timeout(Duration::from_secs(40), reached).await;
            let reached = reached.map(drop);
            assert!(reached.is_ok(), "{expected:?}: {:?}", stations.borrow());
        };
        wait(&[0x10]).await;
        run("ip link set near address 02:00:00:00:00:11");
        wait(&[0x11]).await;
        // As VRRP does.
        run("ip link add vrrp link near address 02:00:00:00:00:12 type macvlan mode private");
        run("ip link set vrrp up");
        wait(&[0x11, 0x12]).await;
        run("ip link del vrrp");
        wait(&[0x11]).await;
        run("ip link add bridge address 02:00:00:00:00:13 type bridge");
        run("ip link set near master bridge");
        wait(&[0x11, 0x13]).await;
        run("ip link set near nomaster");
        wait(&[0x11]).await;
        // Not announced by the kernel.
        run("bridge fdb add 02:00:00:00:00:14 dev near self permanent");
        wait(&[0x11, 0x14]).await;
    });
}
