//! Log messages about unexpected states: with an example packet, and rate-limited.

use std::{
    mem,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use lab::{
    bytecode::{
        Bench,
        tables::{SERVICES, Service},
    },
    deadline::poll,
    packet::{ACK, Extension, Ip, SYN},
};
use lb_common::{member::NextHop, reason::Reason, vip::forward};
use lb_dataplane::LoadOptions;
use log::{Log, Metadata, Record};

use crate::{
    nat::begin,
    stage::{Client, bench, dataplane, options},
};

/// A logger that keeps messages.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

impl Kept {
    fn take(&self) -> Vec<String> {
        mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Returns services of each forwarding mode and family.
fn services() -> impl Iterator<Item = Service> {
    [0, 1, 4, 5, 9, 10].into_iter().map(|at| SERVICES[at])
}

/// Adds options or an extension header, so that the program takes another code path to the same member.
fn lengthen(ip: &mut Ip) {
    match ip {
        Ip::V4(ip) => ip.options = vec![1; 8],
        Ip::V6(ip) => ip.extensions = vec![Extension::Options(60, 16)],
    }
}

#[test]
fn logs_unexpected_states_with_a_packet() {
    // With seconds of one jiffy, the test takes seconds instead of minutes.
    let quick = LoadOptions {
        jiffies_shift: Some(0),
        ..options()
    };
    let mut bench = Bench::new(dataplane(&quick));
    let kept = Kept::default();
    let mut messages = bench.dataplane.messages(kept.clone()).unwrap();
    assert!(bench.dataplane.messages(kept.clone()).is_err(), "only once");
    let client = Client::new(1);
    for (service, uncommon) in services().flat_map(|service| [(service, false), (service, true)]) {
        let mut frame = client.to(&service, 500, ACK);
        if uncommon {
            frame = frame.with_ip(lengthen);
        }
        if service.forward == forward::NAT && !uncommon {
            begin(&mut bench, &service, &client.to(&service, 500, SYN));
        }
        bench.dataplane.run(&frame.bytes()).unwrap();
        messages.flush();
        assert_eq!(kept.take(), [""; 0], "{service:?}");
        let members = &bench.dataplane.members;
        let hop = members.read(service.index).unwrap().next_hop;
        members.set_next_hop(service.index, None).unwrap();
        let told = poll("a message", Duration::from_secs(10), || {
            bench.dataplane.run(&frame.bytes())?;
            messages.flush();
            Ok(kept.take().pop())
        });
        let expected = format!(
            "{} {} port 500 to {} port {}, protocol {}",
            Reason::NoNextHop as u32,
            client.like(service.address),
            service.address,
            service.port,
            service.protocol,
        );
        assert_eq!(told.unwrap(), expected, "{service:?}, {uncommon}");
        let members = &bench.dataplane.members;
        let hop = NextHop::unpack(hop);
        members.set_next_hop(service.index, hop).unwrap();
    }
}

#[test]
fn logs_once_per_minute_and_cpu() {
    // Its clock stands still.
    let mut bench = bench();
    let kept = Kept::default();
    let mut messages = bench.dataplane.messages(kept.clone()).unwrap();
    let client = Client::new(1);
    for service in services() {
        let members = &bench.dataplane.members;
        members.set_next_hop(service.index, None).unwrap();
        let frame = client.to(&service, 500, SYN);
        for _ in 0..1000 {
            bench.dataplane.run(&frame.bytes()).unwrap();
        }
    }
    messages.flush();
    let told = kept.take().len();
    let processors = thread::available_parallelism().unwrap().get();
    assert!((1..=processors).contains(&told), "{told} messages");
}
