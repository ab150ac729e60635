//! The packet tables after the pinned maps were migrated from the layout before, and sessions that were
//! established before.

use std::{collections::BTreeSet, fs};

use aya::maps::{Array, MapData};
use lab::{
    bpffs::Bpffs,
    bytecode::{
        Bench,
        tables::{self, Service},
    },
    packet::{ACK, Frame, OWN},
};
use lb_common::{member::control, vip::forward};
use lb_dataplane::{Dataplane, Opened, Pins, XdpMode};

use crate::{
    nat::{self, Session},
    nat_sessions::{assert_translates, establish},
    replaced::everything,
    stage::{Client, PORT, PORT_MAC, enter_namespace, options},
};

/// Words of a bucket of `NAT_REQUESTS` and of `NAT_REPLIES`.
type Requests = [u64; 32];
type Replies = [u64; 64];

/// State bit of layout 5: a packet was seen in this direction. It is in word 3 of a cell.
const SEEN: u64 = 1 << 12;

fn array<T: aya::Pod>(pins: &Pins, name: &str) -> Array<MapData, T> {
    let map = MapData::from_pin(pins.maps().join(name)).unwrap();
    Array::try_from(aya::maps::Map::from_map_data(map).unwrap()).unwrap()
}

/// Makes the pinned maps those of layout 5.
fn make_layout_5(dataplane: &mut Dataplane, pins: &Pins) {
    for service in tables::SERVICES
        .iter()
        .filter(|s| s.forward == forward::NAT)
    {
        let member = dataplane.members.read(service.index).unwrap();
        let source = dataplane
            .nat_sources
            .read(member.nat_source.into())
            .unwrap();
        let member = lb_common::member::Member {
            source: source.address,
            ..member
        };
        dataplane.members.write(service.index, &member).unwrap();
    }
    let mut requests = array::<Requests>(pins, "NAT_REQUESTS");
    for index in 0..requests.len() {
        let mut bucket = requests.get(&index, 0).unwrap();
        for cell in bucket.chunks_exact_mut(4).filter(|cell| cell[2] != 0) {
            cell[3] |= SEEN;
        }
        requests.set(index, bucket, 0).unwrap();
    }
    let mut replies = array::<Replies>(pins, "NAT_REPLIES");
    for index in 0..replies.len() {
        let mut bucket = replies.get(&index, 0).unwrap();
        for cell in bucket.chunks_exact_mut(8).filter(|cell| cell[2] != 0) {
            cell[3] |= SEEN;
            // The address of the VIP; which one does not matter.
            cell[4..6].copy_from_slice(&lb_common::address_of(tables::VIP4.into()).0);
        }
        replies.set(index, bucket, 0).unwrap();
    }
    dataplane.stations.set(&BTreeSet::new()).unwrap();
    fs::remove_file(pins.maps().join("NAT_INDEX")).unwrap();
    array::<u32>(&Pins::at(pins.bpffs()), "../abi")
        .set(0, 5, 0)
        .unwrap();
}

#[test]
fn a_migrated_data_path_keeps_its_flows_and_behaves_the_same() {
    migrate(false);
}

#[test]
fn an_interrupted_migration_begins_again() {
    migrate(true);
}

fn migrate(interrupted: bool) {
    let folder = tempfile::tempdir().unwrap();
    let bpffs = Bpffs::mount(folder.path()).unwrap();
    let pins = Pins::at(bpffs.path());
    let elsewhere = enter_namespace();
    let (mut dataplane, _) = Dataplane::open(&options(), &pins).unwrap();
    tables::fill(&mut dataplane, Some((elsewhere, PORT_MAC))).unwrap();
    dataplane.attach(PORT, XdpMode::Native).unwrap();
    let mut bench = Bench::new(dataplane);
    let client = Client::new(9);
    let services = nat::services();
    let sessions: Vec<(Session, Frame)> = services
        .map(|service| establish(&mut bench, &service, client, 5000))
        .collect();
    let tracked: Vec<&Service> = tables::SERVICES
        .iter()
        .filter(|s| s.track == lb_common::vip::track::ALWAYS && s.forward != forward::NAT)
        .collect();
    for service in &tracked {
        bench
            .dataplane
            .run(&client.to(service, 5000, ACK).bytes())
            .unwrap();
    }
    let cells = bench.dataplane.tracking.count();
    make_layout_5(&mut bench.dataplane, &pins);
    drop(bench.into_dataplane());
    if interrupted {
        // The controller ended when it had moved the old maps.
        fs::rename(pins.maps(), pins.folder().join("previous")).unwrap();
        fs::create_dir(pins.maps()).unwrap();
    }

    let (mut dataplane, opened) = Dataplane::open(&options(), &pins).unwrap();
    assert_eq!(opened, Opened::Migrated);
    let links = dataplane.links().unwrap();
    assert_eq!(
        links[0].program_id,
        Some(dataplane.program_id().unwrap()),
        "attached at once"
    );
    let stations = dataplane.stations.count().unwrap();
    assert_eq!(stations, 1, "the attached program accepts frames at once");
    assert_eq!(dataplane.tracking.count(), cells);
    assert!(
        dataplane
            .members
            .present()
            .any(|(_, member)| control::state(member.control) == control::SERVING)
    );
    let folders: Vec<_> = fs::read_dir(pins.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !folders
            .iter()
            .any(|name| name == "previous" || name == "next"),
        "{folders:?}"
    );
    dataplane.attach(PORT, XdpMode::Native).unwrap();
    // The interface that test frames come from.
    dataplane.stations.accept(1, OWN).unwrap();
    let mut bench = Bench::new(dataplane);
    for (session, request) in &sessions {
        assert_translates(&mut bench, session, request);
    }
    everything(&mut bench, Client::new(2));
    drop(bench.into_dataplane());
    let (_, opened) = Dataplane::open(&options(), &pins).unwrap();
    assert_eq!(opened, Opened::Adopted);
    Dataplane::unload(&pins).unwrap();
}
