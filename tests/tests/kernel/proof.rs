//! The copy of the program that proves forwarding: it decides as the one in the links, and leaves no trace.

use std::net::{IpAddr, Ipv4Addr};

use lab::{
    packet::{Frame, Ip, SYN, tcp},
    skip::can_run,
};
use lb_common::reason::{REASONS, Reason};
use lb_dataplane::{PinnedView, Pins, Proof, Run};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use serde_json::{Value, json};

use crate::{
    host::ip,
    node::{Node, drain, in_namespace},
};

const XDP_TX: u32 = 3;

fn frame(mac: [u8; 6], port: u16) -> Frame {
    let source: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    let to: IpAddr = Ipv4Addr::new(203, 0, 113, 1).into();
    let frame = Frame::new(Ip::new(source, to), tcp(port, 80, SYN));
    frame.link(mac, [2, 0, 0, 0, 0, 2])
}

fn mac() -> [u8; 6] {
    let links: Value = serde_json::from_str(&ip("-json link show dev vlb0")).unwrap();
    let octets = links[0]["address"].as_str().unwrap().split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    octets.try_into().unwrap()
}

/// All that packets to the VIP leave behind: counters, entries of flows, samples. Other packets on the
/// link (neighbour discovery) come whenever they like.
fn traces(node: &Node) -> String {
    let view = PinnedView::open(&Pins::at(node.folder.join("bpf"))).unwrap();
    let vip = view
        .vip("203.0.113.1".parse().unwrap(), 80, 6)
        .unwrap()
        .unwrap();
    let flows = node.get("/v1/flows");
    let (counters, mut reasons) = (
        view.counters.vip(vip).unwrap(),
        view.counters.node().unwrap().reasons,
    );
    for other in [Reason::NotIp, Reason::NoVip] {
        reasons[other as usize] = 0;
    }
    format!("{counters:?} {reasons:?} {} {flows}", view.tracking.count())
}

#[test]
fn a_proof_decides_like_the_program_and_leaves_no_trace() {
    let name = "a_proof_decides_like_the_program_and_leaves_no_trace";
    if !can_run(name, &["ip"]) {
        return;
    }
    in_namespace(|folder| {
        let mut node = Node::new(folder);
        node.start();
        let pins = Pins::at(node.folder.join("bpf"));
        let proof = Proof::load(&pins).unwrap();
        assert_eq!(Proof::pinned(&pins).unwrap(), Some(proof.tables()));
        let interface = if_nametoindex("vlb0").unwrap();
        let sent = |run: &Run| run.verdict == XDP_TX;
        node.wait("a packet is forwarded", || {
            proof
                .run(&frame(mac(), 1000).bytes(), interface)
                .is_ok_and(|run| sent(&run))
        });
        let before = traces(&node);
        for port in 1000..1200 {
            let run = proof.run(&frame(mac(), port).bytes(), interface).unwrap();
            assert!(sent(&run), "{port}");
        }
        // Of another station: the reason is that of the program.
        let (run, trace) = proof
            .run_traced(&frame([2, 0, 0, 0, 0, 9], 1000).bytes(), interface)
            .unwrap();
        assert!(!sent(&run));
        assert_eq!(REASONS[trace.reason as usize].name, "OTHER_HOST");
        assert_eq!(traces(&node), before);
        assert!(proof.controller_silence().unwrap().unwrap().as_secs() < 10);
        // No backend gets new flows any more: the copy sees it at once.
        let edits = ["b2", "b3", "b4"].map(|backend| drain(backend)["edits"][0].clone());
        let edits = json!({"kind": "edits", "edits": edits});
        let drained = json!({"change": edits, "force": ["nothing_left", "min_backends"]});
        let (status, answer) = node.apply(&drained);
        assert_eq!(status, 200, "{answer}");
        let (run, trace) = proof
            .run_traced(&frame(mac(), 1000).bytes(), interface)
            .unwrap();
        assert!(!sent(&run));
        assert_eq!(REASONS[trace.reason as usize].name, "NO_MEMBER");
        node.end(Signal::SIGTERM);
        node.unload();
        assert_eq!(Proof::pinned(&pins).unwrap(), None);
        assert!(Proof::load(&pins).is_err());
    });
}
