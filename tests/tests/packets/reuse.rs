//! A client uses its port again while its slot is in transition: what is a new connection, and what is not.

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

/// The member of the slots before the changes, after the first one, and after the second one.
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

/// A VIP whose slots all change from member to member.
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

    /// From now on all slots are this member's.
    fn give_to(&mut self, member: u16) {
        let now_s = self.dataplane.now_s().unwrap() as u32;
        self.ring
            .change(&[member; RING_SIZE as usize], now_s)
            .unwrap();
        set_state(&mut self.dataplane, MEMBERS[0], &self.ring).unwrap();
    }

    /// Sends a segment from a port, and sees where it goes.
    #[track_caller]
    fn goes(&self, port: u16, flags: u8, member: u16, why: &str) {
        let frame = Client::new(1).to(&self.service, port, flags);
        let run = self.dataplane.run(&frame.bytes()).unwrap();
        assert_eq!(run.verdict, 3, "{why}");
        assert_eq!(u16::from(run.frame[5]), member, "{why}");
    }
}

/// What clients do, for a VIP that tracks in transitions and for one that always does.
fn come_again(track: u8) {
    let [old, new, newest] = MEMBERS;
    let mut vip = Vip::new(track);
    for port in 1..=5 {
        vip.goes(port, SYN, old, "opened before");
        vip.goes(port, ACK, old, "opened before");
    }
    vip.give_to(new);
    for port in 1..=5 {
        vip.goes(port, ACK, old, "an old connection stays");
        vip.goes(port, SYN, old, "a SYN does not move a living connection");
        vip.goes(port, ACK | PSH, old, "which goes on");
    }
    vip.goes(1, ACK | FIN, old, "closing");
    vip.goes(1, ACK, old, "the last acknowledgement");
    vip.goes(1, SYN, new, "closed: another one");
    vip.goes(2, RST, old, "resetting");
    vip.goes(2, SYN, new, "reset: another one");
    vip.goes(3, RST, old, "forged");
    vip.goes(3, ACK | PSH, old, "the living connection sends data");
    vip.goes(3, SYN, old, "forged as well");
    vip.goes(3, ACK, old, "it does not move");
    vip.goes(4, ACK | FIN, old, "the client has closed its half");
    vip.goes(4, ACK, old, "and acknowledges what the server sends");
    vip.goes(4, ACK | FIN | PSH, old, "its last data once more");
    vip.goes(4, SYN, new, "closed: another one");

    vip.give_to(newest);
    vip.goes(1, SYN, new, "the SYN once more: the flow does not move");
    vip.goes(1, ACK, new, "it is established");
    vip.goes(4, ACK | FIN, new, "closing");
    vip.goes(4, SYN, newest, "closed: a third one");
    vip.goes(4, SYN, newest, "its SYN once more");
    vip.goes(5, ACK, old, "the oldest is where it was");
    vip.goes(6, SYN, newest, "a port never used before");
}

#[test]
fn a_closed_connection_does_not_hold_its_port_on_change() {
    come_again(track::ON_CHANGE);
}

#[test]
fn a_closed_connection_does_not_hold_its_port_always() {
    come_again(track::ALWAYS);
}

/// A connection that is closed by the first packet that the table sees of it.
#[test]
fn a_first_packet_can_be_the_last() {
    let [old, new, _] = MEMBERS;
    let mut vip = Vip::new(track::ON_CHANGE);
    vip.goes(1, SYN, old, "opened before");
    vip.give_to(new);
    vip.goes(1, ACK | FIN, old, "closing");
    vip.goes(1, SYN, new, "closed: another one");
    assert_eq!(vip.dataplane.tracking.count(), 1, "in the same cell");
}
