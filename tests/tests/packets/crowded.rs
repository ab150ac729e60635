//! More `nat` sessions than a small table can hold, created and confirmed on all CPUs at the same time: each
//! keeps its port and its client.

use std::{
    collections::HashSet,
    sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use lab::{
    bytecode::tables::Service,
    packet::{ACK, Frame, SYN, check::findings},
};
use lb_common::nat::NatSource;
use lb_dataplane::{Dataplane, LoadOptions};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    nat::{Session, services},
    stage::{Client, dataplane, options},
};

/// Capacity of the table: a dozen buckets.
const SESSIONS: u32 = 64;
/// Sessions per CPU and in all: more than the table has cells.
const EACH: u16 = 60;

/// Runs a frame and checks that the output is well-formed.
fn send(dataplane: &Dataplane, frame: &Frame) -> Vec<u8> {
    let run = dataplane.run(&frame.bytes()).unwrap();
    let faults = findings(&run.frame).faults;
    assert!(faults.is_empty(), "{faults:?}: {frame:?}");
    assert_eq!(run.verdict, 3, "verdict (3: transmitted) of {frame:?}");
    run.frame
}

fn begin(dataplane: &Dataplane, service: Service, syn: &Frame) -> Session {
    let output = send(dataplane, syn);
    let session = Session::of(service, syn, &output);
    assert_eq!(output, session.request(syn).bytes(), "{syn:?}");
    let (answer, back) = session.reply(syn);
    assert_eq!(send(dataplane, &answer), back.bytes(), "{answer:?}");
    session
}

/// Runs a reply, and a packet that confirms the session or shows that it is unchanged.
fn talk(dataplane: &Dataplane, session: &Session, packet: &Frame) {
    let (reply, back) = session.reply(packet);
    assert_eq!(send(dataplane, &reply), back.bytes(), "{reply:?}");
    let output = send(dataplane, packet);
    assert_eq!(output, session.request(packet).bytes(), "{packet:?}");
}

fn on_every_cpu(work: impl Fn(u16) + Sync) {
    let cpus = thread::available_parallelism().unwrap().get();
    thread::scope(|scope| {
        for cpu in 0..cpus {
            let work = &work;
            scope.spawn(move || {
                let mut only = CpuSet::new();
                only.set(cpu).unwrap();
                // A CPU that is not ours to use is left to the others.
                let _ = sched_setaffinity(Pid::from_raw(0), &only);
                work(cpu as u16);
            });
        }
    });
}

#[test]
fn keeps_sessions_of_a_full_table_apart() {
    let dataplane = dataplane(&LoadOptions {
        nat_sessions: SESSIONS,
        ..options()
    });
    for service in services().filter(|service| service.protocol == 6) {
        let cpus = thread::available_parallelism().unwrap().get() as u16;
        let frame = |port, flags| Client::new(1).to(&service, 2000 + port, flags);
        let shared: Vec<_> = (0..EACH)
            .map(|number| begin(&dataplane, service, &frame(number, SYN)))
            .collect();
        // All CPUs confirm these at the same time, interleaved with sessions of their own.
        on_every_cpu(|cpu| {
            for (number, session) in (0..).zip(&shared) {
                let own = 1000 * (cpu + 1) + number;
                let mine = begin(&dataplane, service, &frame(own, SYN));
                for _ in 0..3 {
                    talk(&dataplane, session, &frame(number, ACK));
                    talk(&dataplane, &mine, &frame(own, ACK));
                }
            }
        });
        let mut ports = HashSet::new();
        for port in (0..=cpus).flat_map(|cpu| (0..EACH).map(move |number| 1000 * cpu + number)) {
            let packet = frame(port, ACK);
            let session = Session::of(service, &packet, &send(&dataplane, &packet));
            talk(&dataplane, &session, &packet);
            assert!(ports.insert(session.node_port), "two have one port");
        }
    }
    let counts = dataplane.sessions.count().unwrap();
    println!("{counts:?}");
    assert!(counts.flows > SESSIONS as usize, "most are established");
}

/// With one free port, CPUs that process new flows at the same time must not both use it: the backend's
/// reply would go to the wrong client.
#[test]
fn two_cpus_never_take_one_port() {
    const ROUNDS: u16 = 20_000;
    let dataplane = dataplane(&options());
    let cpus = thread::available_parallelism().unwrap().get();
    let (start, end) = (Barrier::new(cpus), Barrier::new(cpus));
    let forwarded = AtomicU32::new(0);
    let service = services().find(|service| service.protocol == 6).unwrap();
    let source = dataplane.nat_sources.read(0).unwrap();
    on_every_cpu(|cpu| {
        for round in 0..ROUNDS {
            if cpu == 0 {
                let one = NatSource {
                    first_port: 20_000 + round,
                    ports: 1,
                    ..source
                };
                dataplane.nat_sources.write(0, &one).unwrap();
                forwarded.store(0, Ordering::SeqCst);
            }
            let syn = Client::new(cpu as u8 + 1).to(&service, 1000 + round, SYN);
            start.wait();
            let run = dataplane.run(&syn.bytes()).unwrap();
            forwarded.fetch_add(u32::from(run.verdict == 3), Ordering::SeqCst);
            end.wait();
            let together = forwarded.load(Ordering::SeqCst);
            assert!(
                together <= 1,
                "round {round}: {together} flows have one port"
            );
            start.wait();
        }
    });
}
