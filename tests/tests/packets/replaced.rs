//! The packet tables after the program was replaced: a new controller adopts the pinned maps, and its program
//! replaces the running one.

use lab::{
    bpffs::Bpffs,
    bytecode::{Bench, tables},
};
use lb_dataplane::{Dataplane, Opened, Pins, XdpMode};

use crate::{
    forwarding, fragments, icmp, malformed, nat,
    stage::{Client, PORT, PORT_MAC, enter_namespace, options},
    stations,
};

pub(crate) fn everything(bench: &mut Bench, client: Client) {
    forwarding::all(bench, client);
    fragments::all(bench, client);
    icmp::all(bench, client);
    nat::all(bench, client);
    malformed::all(bench, client);
    stations::all(bench, client);
}

#[test]
fn a_replaced_program_behaves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let bpffs = Bpffs::mount(folder.path()).unwrap();
    let pins = Pins::at(bpffs.path());
    let elsewhere = enter_namespace();

    let (mut dataplane, opened) = Dataplane::open(&options(), &pins).unwrap();
    assert_eq!(opened, Opened::Fresh);
    tables::fill(&mut dataplane, Some((elsewhere, PORT_MAC))).unwrap();
    dataplane.attach(PORT, XdpMode::Native).unwrap();
    let before = dataplane.program_id().unwrap();
    let mut bench = Bench::new(dataplane);
    everything(&mut bench, Client::new(1));
    drop(bench.into_dataplane());

    let (mut dataplane, opened) = Dataplane::open(&options(), &pins).unwrap();
    assert_eq!(opened, Opened::Adopted);
    dataplane.attach(PORT, XdpMode::Native).unwrap();
    assert_ne!(
        dataplane.program_id().unwrap(),
        before,
        "it is another program"
    );
    let mut bench = Bench::new(dataplane);
    everything(&mut bench, Client::new(2));
    drop(bench.into_dataplane());
    Dataplane::unload(&pins).unwrap();
}
