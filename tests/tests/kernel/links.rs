//! The program on interfaces: attached, replaced, detached.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use aya::programs::links::{FdLink, PinnedLink};
use lb_dataplane::{AttachedMode, Dataplane, DataplaneError, Pins, XdpMode};

use crate::host::{Bpffs, in_network_namespace, ip, small};

fn link_id(path: &Path) -> u32 {
    FdLink::from(PinnedLink::from_pin(path).unwrap())
        .info()
        .unwrap()
        .id()
}

fn link_program(path: &Path) -> u32 {
    FdLink::from(PinnedLink::from_pin(path).unwrap())
        .info()
        .unwrap()
        .program_id()
}

fn link_of(pins: &Pins, name: &str) -> PathBuf {
    pins.folder().join("links").join(name)
}

fn attached_program(interface: &str) -> String {
    let output = Command::new("ip")
        .args(["-d", "link", "show", interface])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn replaces_the_program_in_the_existing_link() {
    in_network_namespace(|| {
        ip("link add one type veth peer name two");
        ip("link add dot.ted type veth peer name three");
        let bpffs = Bpffs::new();
        let pins = bpffs.pins();
        let path = link_of(&pins, "one");
        let (id, program) = {
            let (mut dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
            assert_eq!(
                dataplane.attach("one", XdpMode::Native).unwrap(),
                AttachedMode::Native
            );
            assert_eq!(
                dataplane.attach("dot.ted", XdpMode::Auto).unwrap(),
                AttachedMode::Native
            );
            let mut interfaces = dataplane.interfaces().unwrap();
            interfaces.sort();
            assert_eq!(interfaces, ["dot.ted", "one"]);
            assert_eq!(link_program(&path), dataplane.program_id().unwrap());
            (link_id(&path), dataplane.program_id().unwrap())
        };
        assert!(
            attached_program("one").contains("xdp"),
            "attached without a process"
        );

        let (mut dataplane, _) = Dataplane::open(&small(), &pins).unwrap();
        assert_eq!(
            link_program(&path),
            program,
            "the old program runs on until attach"
        );
        assert_eq!(
            dataplane.attach("one", XdpMode::Native).unwrap(),
            AttachedMode::Native
        );
        assert_eq!(link_id(&path), id, "the same link");
        assert_eq!(link_program(&path), dataplane.program_id().unwrap());

        // The interface is deleted and created again with the same name.
        ip("link del one");
        ip("link add one type veth peer name two");
        dataplane.attach("one", XdpMode::Native).unwrap();
        assert_ne!(link_id(&path), id);
        assert!(attached_program("one").contains("xdp"));

        // To generic mode and back.
        assert_eq!(
            dataplane.attach("one", XdpMode::Generic).unwrap(),
            AttachedMode::Generic
        );
        assert!(attached_program("one").contains("xdpgeneric"));
        assert_eq!(
            dataplane.attach("one", XdpMode::Auto).unwrap(),
            AttachedMode::Generic
        );
        assert_eq!(
            dataplane.attach("one", XdpMode::Native).unwrap(),
            AttachedMode::Native
        );
        assert!(!attached_program("one").contains("xdpgeneric"));

        assert!(dataplane.detach("one").unwrap());
        assert!(!dataplane.detach("one").unwrap());
        assert!(!attached_program("one").contains("xdp"));
        // Unloaded while a controller runs.
        Dataplane::unload(&pins).unwrap();
        assert!(!attached_program("dot.ted").contains("xdp"));
        assert!(!pins.folder().exists());
    });
}

#[test]
fn errors_of_unusable_interfaces_say_what_to_do() {
    in_network_namespace(|| {
        ip("link add one type veth peer name two");
        let bpffs = Bpffs::new();
        let (mut dataplane, _) = Dataplane::open(&small(), &bpffs.pins()).unwrap();
        let text = |result: lb_dataplane::Result<AttachedMode>| {
            let error = result.unwrap_err();
            assert!(matches!(error, DataplaneError::Interface { .. }), "{error}");
            error.to_string()
        };
        let unknown = text(dataplane.attach("nosuch", XdpMode::Auto));
        assert!(
            unknown.contains("nosuch") && unknown.contains("ip link"),
            "{unknown}"
        );

        // `lo` has no native XDP.
        let native = text(dataplane.attach("lo", XdpMode::Native));
        assert!(
            native.contains("lo") && native.contains("xdp_mode"),
            "{native}"
        );
        let fallback = dataplane.attach("lo", XdpMode::Auto).unwrap();
        assert!(matches!(fallback, AttachedMode::Fallback { why } if why.contains("lo")));

        // After a failed change of mode, the old attachment remains.
        text(dataplane.attach("lo", XdpMode::Native));
        assert!(attached_program("lo").contains("xdpgeneric"));

        // A foreign program.
        let mut other = Dataplane::load(&small()).unwrap();
        other.attach("one", XdpMode::Native).unwrap();
        let busy = text(dataplane.attach("one", XdpMode::Native));
        assert!(busy.contains("another XDP program"), "{busy}");
        drop(other);
        dataplane.attach("one", XdpMode::Native).unwrap();

        // With native XDP on veth, packets must fit into a page.
        ip("link add big mtu 9000 type veth peer name four mtu 9000");
        let big = text(dataplane.attach("big", XdpMode::Native));
        assert!(big.contains("MTU"), "{big}");
    });
}

#[test]
fn keeps_egress_table_and_device_map_consistent() {
    in_network_namespace(|| {
        ip("link add one type veth peer name two");
        let (one, two) = ("one", "two").into_index();
        let mut dataplane = Dataplane::load(&small()).unwrap();
        let entry = dataplane.egress.assign(one, 1500, [1; 6]).unwrap();
        assert_eq!(
            dataplane.egress.assign(two, 1500, [2; 6]).unwrap(),
            entry + 1
        );
        assert_eq!(
            dataplane.egress.assign(one, 9000, [3; 6]).unwrap(),
            entry,
            "updated"
        );
        let all: Vec<_> = dataplane
            .egress
            .iter()
            .map(|(entry, egress)| (entry, egress.mtu))
            .collect();
        assert_eq!(all, [(1, 9000), (2, 1500)]);
        dataplane.egress.release(one).unwrap();
        dataplane.egress.release(one).unwrap();
        assert_eq!(dataplane.egress.find(one).unwrap(), None);
        let error = dataplane
            .egress
            .assign(4_000_000, 1500, [0; 6])
            .unwrap_err();
        assert!(error.to_string().contains("4000000"), "{error}");
        assert_eq!(
            dataplane.egress.find(4_000_000).unwrap(),
            None,
            "only in one of the tables"
        );
    });
}

trait IntoIndex {
    fn into_index(self) -> (u32, u32);
}

impl IntoIndex for (&str, &str) {
    fn into_index(self) -> (u32, u32) {
        let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
        (index(self.0), index(self.1))
    }
}
