//! The runs of `cargo xtask outage`, and two more that only a test makes.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use lab::outage::{
    Fault, RATE,
    record::Record,
    run,
    site::{self, Site, Terms},
};
use lb_common::{proto, ring::IMAGE_WORDS};
use lb_dataplane::{PinnedView, Pins};
use lb_model::transition::RingState;

use crate::can_run;

/// Bars that a loaded machine keeps too: what is measured is printed by `cargo xtask outage`.
const LIMIT: Duration = Duration::from_secs(40);

fn assert_named(faults: &[Fault]) {
    let report = run(faults).unwrap_or_else(|error| panic!("{error:#}"));
    let problems = report.problems();
    assert!(problems.is_empty(), "{problems:#?}\n{}", report.to_table());
}

#[test]
fn a_mistake_is_refused_or_undone_or_told() {
    if can_run("a_mistake_is_refused_or_undone_or_told") {
        assert_named(&[Fault::Guarded, Fault::Baked, Fault::Forced]);
    }
}

#[test]
fn causes_that_no_configuration_shows_are_named() {
    if can_run("causes_that_no_configuration_shows_are_named") {
        assert_named(&[Fault::BlackHole, Fault::Nat, Fault::Elephant]);
    }
}

/// Gives the slots of one member to another, in the kernel's ring, past the controller.
fn tamper(site: &Site<'_>) {
    let pins = Pins::at(site.balancer.bpffs());
    let view = PinnedView::open(&pins).unwrap();
    let vip = view.vip(site.vip.ip(), site.vip.port(), proto::TCP);
    let vip = vip.unwrap().expect("the VIP is in the table");
    let named = view.vips.ring(vip).unwrap().expect("it has a ring");
    let ring = view.ring(vip).unwrap().expect("it has a ring");
    let members: Vec<_> = ring.slots_per_member().into_keys().collect();
    let wrong = ring.slots().iter().map(|slot| match slot.current {
        lost if lost == members[1] => members[0],
        kept => kept,
    });
    let words = RingState::new_clean(&wrong.collect::<Vec<_>>()).to_image();
    let outer = MapData::from_pin(pins.maps().join("RINGS")).unwrap();
    // An image is one element: all words of the ring.
    let outer = ArrayOfMaps::<_, Array<MapData, [u64; IMAGE_WORDS as usize]>>::try_from(
        Map::ArrayOfMaps(outer),
    );
    let mut image = outer.unwrap().get(&named.image.0, 0).unwrap();
    let words: [u64; IMAGE_WORDS as usize] = words.try_into().unwrap();
    image.set(0, words, 0).unwrap();
}

fn with_site(act: impl FnOnce(&Site<'_>, &mut Record)) {
    let lab = site::build().unwrap();
    let binary = lab::balancer::binary().unwrap();
    let site = Site::start(&lab, &binary, Terms::default()).unwrap();
    let mut record = Record::begin(&site).unwrap();
    record
        .go_on(&site, Duration::from_secs(8), |_| false)
        .unwrap();
    record.check_quiet().unwrap();
    act(&site, &mut record);
}

#[test]
fn a_ring_that_something_else_wrote_is_named() {
    if !can_run("a_ring_that_something_else_wrote_is_named") {
        return;
    }
    with_site(|site, record| {
        tamper(site);
        record.begins("the kernel's ring is another");
        record
            .until_told(site, LIMIT, Duration::from_secs(8))
            .unwrap();
        let causes: Vec<&str> = record
            .alerts
            .iter()
            .map(|(_, alert)| alert.cause())
            .collect();
        assert_eq!(causes, ["table_not_intended"], "{:#?}", record.alerts);
    });
}

/// How long a watch looks before it knows what is usual.
const USUAL: Duration = Duration::from_secs(125);

#[test]
fn a_spike_that_all_members_share_is_named_and_is_no_alert() {
    if !can_run("a_spike_that_all_members_share_is_named_and_is_no_alert") {
        return;
    }
    with_site(|site, record| {
        record.go_on(site, USUAL, |_| false).unwrap();
        site.load.set_rate(4 * RATE);
        record.begins("four times the connections");
        let mut named = None;
        let end = Instant::now() + LIMIT;
        while named.is_none() && Instant::now() < end {
            record
                .go_on(site, Duration::from_secs(1), |_| false)
                .unwrap();
            let events = site.events().unwrap();
            named = events.into_iter().find(|event| event.kind == "spike");
        }
        let named = named.expect("an event that names the spike");
        assert_eq!(named.vip.as_deref(), Some("api"));
        assert!(named.message.contains("for all members alike"), "{named:?}");
        record
            .go_on(site, Duration::from_secs(15), |_| false)
            .unwrap();
        record.check_quiet().unwrap();
        let came: u64 = record.flows_of_all();
        assert!(came > 20 * 2 * RATE, "{came} flows: that is no spike");
    });
}

/// UDP flows that are under way when a ring changes stay where they are, and are no new flows there: nothing is found.
#[test]
fn a_ring_in_transition_is_no_finding() {
    if !can_run("a_ring_in_transition_is_no_finding") {
        return;
    }
    let lab = site::build().unwrap();
    let binary = lab::balancer::binary().unwrap();
    let terms = Terms {
        rate: 0,
        edit: |text| {
            let udp = "\"udp\"\ntrack = \"on-change\"\nforward";
            text.replace("\"tcp\"\nforward", udp)
                .replace("hash_seed", "transition_ttl = \"10s\"\nhash_seed")
        },
        ..Terms::default()
    };
    let site = Site::start(&lab, &binary, terms).unwrap();
    let mut record = Record::begin(&site).unwrap();
    // Backends came up one after the other. Flows that come later need no entry.
    lab::deadline::until("the first transition is over", LIMIT, || {
        let ring = site.status()?.vips[0].ring;
        Ok(ring.in_transition + ring.settling == 0)
    })
    .unwrap();
    let sockets: Vec<UdpSocket> = lab.clients[0].ns.enter(|| {
        let sockets = (0..600).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
        sockets.collect()
    });
    let send_all = || {
        for socket in &sockets {
            // Nobody listens: an answer that says so may be what the system tells next.
            let _ = socket.send_to(b"?", site.vip);
        }
    };
    for _ in 0..10 {
        send_all();
        record
            .go_on(&site, Duration::from_millis(500), |_| false)
            .unwrap();
    }
    let drain = [
        "backend",
        "drain",
        "api/backend-0",
        "--no-wait",
        "--bake",
        "0s",
    ];
    site.balancer.operator().run(&drain).unwrap().assert_code(0);
    let mut kept = 0;
    for _ in 0..30 {
        send_all();
        record
            .go_on(&site, Duration::from_millis(500), |_| false)
            .unwrap();
        let drained = &site.status().unwrap().vips[0].members[0];
        assert_eq!(drained.totals.new_flows, 0);
        kept = kept.max(drained.tracked_flows);
    }
    assert!(kept > 50, "{kept} flows stayed");
    let events = site.events().unwrap();
    assert!(
        events.iter().all(|event| event.kind != "overload"),
        "{events:#?}"
    );
    record.check_quiet().unwrap();
}

/// The alert of a mistake that is in force is the same alert, with the same cause, for the next controller.
#[test]
fn a_cause_is_known_after_a_restart() {
    if !can_run("a_cause_is_known_after_a_restart") {
        return;
    }
    let lab = site::build().unwrap();
    let binary = lab::balancer::binary().unwrap();
    let mut site = Site::start(&lab, &binary, Terms::default()).unwrap();
    let mut record = Record::begin(&site).unwrap();
    let go_on = |record: &mut Record, site: &Site<'_>, seconds| {
        let time = Duration::from_secs(seconds);
        record.go_on(site, time, |_| false).unwrap();
    };
    go_on(&mut record, &site, 10);
    record.begins("the mistake is forced");
    let arguments = ["--force", "max_share", "--bake", "0s", "--no-wait"];
    site.apply_mistake(&arguments).unwrap();
    record
        .until_told(&site, LIMIT, Duration::from_secs(2))
        .unwrap();
    site.restart().unwrap();
    // Longer than an alert whose condition is gone would stay.
    go_on(&mut record, &site, 40);
    let ids: Vec<&str> = record
        .alerts
        .iter()
        .map(|(_, alert)| alert.labels.alert_id.as_str())
        .collect();
    assert_eq!(ids, ["skew:api:revision:2"], "{:#?}", record.alerts);
    let on = site.alertmanager.alerts().unwrap();
    assert_eq!(on.len(), 1, "it is still on: {on:#?}");
    assert_eq!(on[0].annotations.revision.as_deref(), Some("2"));
}
