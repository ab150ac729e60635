//! A client reuses a port while its slot is in transition: which packets start a new connection.

use lab::{
    bytecode::tables::{self, RING_SIZE, Service, VIP4, set_state},
    packet::{ACK, FIN, PSH, RST, SYN},
};
use lb_common::{
    member::control,
    vip::{forward, track},
};
use lb_dataplane::Dataplane;
use lb_model::transition::RingState;

use crate::stage::{Client, dataplane, options};

/// Member of the slots before the changes, after the first and after the second.
const MEMBERS: [u16; 3] = [30, 31, 32];

fn service(track: u8) -> Service {
    Service {
        index: MEMBERS[0],
        address: VIP4.into(),
        port: 7000,
        protocol: 6,
        forward: forward::L2,
        backend_v6: false,
        track,
    }
}

/// A VIP whose slots all have the same member, which changes.
struct Vip {
    dataplane: Dataplane,
    service: Service,
    ring: RingState,
}

impl Vip {
    fn new(track: u8) -> Self {
        let mut dataplane = dataplane(&options());
        let here = dataplane.egress.find(1).unwrap().unwrap();
        let service = service(track);
        for (index, port) in MEMBERS.into_iter().zip(7000..) {
            let member = Service {
                index,
                port,
                ..service
            };
            tables::add(&mut dataplane, &member, control::SERVING, here).unwrap();
        }
        let ring = RingState::new_clean(&[MEMBERS[0]; RING_SIZE as usize]);
        Self {
            dataplane,
            service,
            ring,
        }
    }

    /// Gives all slots to this member.
    fn give_to(&mut self, member: u16) {
        let now_s = self.dataplane.now_s().unwrap() as u32;
        self.ring
            .change(&[member; RING_SIZE as usize], now_s)
            .unwrap();
        set_state(&mut self.dataplane, MEMBERS[0], &self.ring).unwrap();
    }

    /// Runs a segment from a port and checks its member.
    #[track_caller]
    fn assert_goes(&self, port: u16, flags: u8, member: u16, why: &str) {
        let frame = Client::new(1).to(&self.service, port, flags);
        let run = self.dataplane.run(&frame.bytes()).unwrap();
        assert_eq!(run.verdict, 3, "{why}");
        assert_eq!(u16::from(run.frame[5]), member, "{why}");
    }
}

/// Clients reuse ports of a VIP that tracks in transitions or always.
fn reuse_ports(track: u8) {
    let [old, new, newest] = MEMBERS;
    let mut vip = Vip::new(track);
    for port in 1..=5 {
        vip.assert_goes(port, SYN, old, "opened before");
        vip.assert_goes(port, ACK, old, "opened before");
    }
    vip.give_to(new);
    for port in 1..=5 {
        vip.assert_goes(port, ACK, old, "an old connection stays");
        vip.assert_goes(port, SYN, old, "a SYN does not move a living connection");
        vip.assert_goes(port, ACK | PSH, old, "which goes on");
    }
    vip.assert_goes(1, ACK | FIN, old, "closing");
    vip.assert_goes(1, ACK, old, "the last acknowledgement");
    vip.assert_goes(1, SYN, new, "closed: another one");
    vip.assert_goes(2, RST, old, "resetting");
    vip.assert_goes(2, SYN, new, "reset: another one");
    vip.assert_goes(3, RST, old, "forged");
    vip.assert_goes(3, ACK | PSH, old, "the living connection sends data");
    vip.assert_goes(3, SYN, old, "forged as well");
    vip.assert_goes(3, ACK, old, "it does not move");
    vip.assert_goes(4, ACK | FIN, old, "the client has closed its half");
    vip.assert_goes(4, ACK, old, "and acknowledges what the server sends");
    vip.assert_goes(4, ACK | FIN | PSH, old, "its last data once more");
    vip.assert_goes(4, SYN, new, "closed: another one");

    vip.give_to(newest);
    vip.assert_goes(1, SYN, new, "the SYN once more: the flow does not move");
    vip.assert_goes(1, ACK, new, "it is established");
    vip.assert_goes(4, ACK | FIN, new, "closing");
    vip.assert_goes(4, SYN, newest, "closed: a third one");
    vip.assert_goes(4, SYN, newest, "its SYN once more");
    vip.assert_goes(5, ACK, old, "the oldest is where it was");
    vip.assert_goes(6, SYN, newest, "a port never used before");
}

#[test]
fn a_closed_connection_does_not_hold_its_port_on_change() {
    reuse_ports(track::ON_CHANGE);
}

#[test]
fn a_closed_connection_does_not_hold_its_port_always() {
    reuse_ports(track::ALWAYS);
}

/// The first packet of a connection that the table sees may close it.
#[test]
fn the_first_packet_may_close_a_connection() {
    let [old, new, _] = MEMBERS;
    let mut vip = Vip::new(track::ON_CHANGE);
    vip.assert_goes(1, SYN, old, "opened before");
    vip.give_to(new);
    vip.assert_goes(1, ACK | FIN, old, "closing");
    vip.assert_goes(1, SYN, new, "closed: another one");
    assert_eq!(vip.dataplane.tracking.count(), 1, "in the same cell");
}
