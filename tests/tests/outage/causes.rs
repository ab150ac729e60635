//! The runs of `cargo xtask outage`, and further faults that only tests cause.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use lab::outage::{
    Fault, RATE,
    record::Record,
    run,
    site::{self, Options, Site},
};
use lb_common::{proto, ring::IMAGE_WORDS};
use lb_dataplane::{PinnedView, Pins};
use lb_model::transition::RingState;

use crate::can_run;

/// A limit that a loaded machine meets too. `cargo xtask outage` measures real times.
const LIMIT: Duration = Duration::from_secs(40);

fn assert_named(faults: &[Fault]) {
    let report = run(faults).unwrap_or_else(|error| panic!("{error:#}"));
    let problems = report.problems();
    assert!(problems.is_empty(), "{problems:#?}\n{}", report.to_table());
}

#[test]
fn refuses_rolls_back_or_alerts_on_a_bad_change() {
    if can_run("refuses_rolls_back_or_alerts_on_a_bad_change") {
        assert_named(&[Fault::Guarded, Fault::Baked, Fault::Forced]);
    }
}

#[test]
fn names_causes_outside_the_configuration() {
    if can_run("names_causes_outside_the_configuration") {
        assert_named(&[Fault::BlackHole, Fault::Nat, Fault::Elephant]);
    }
}

/// Gives the slots of one member to another directly in the kernel's ring.
fn tamper(site: &Site<'_>) {
    let pins = Pins::at(site.balancer.bpffs());
    let view = PinnedView::open(&pins).unwrap();
    let vip = view.vip(site.vip.ip(), site.vip.port(), proto::TCP);
    let vip = vip.unwrap().expect("the VIP is in the table");
    let named = view.vips.ring(vip).unwrap().expect("it has a ring");
    let ring = view.ring(vip).unwrap().expect("it has a ring");
    let members: Vec<_> = ring.slots_per_member().into_keys().collect();
    let wrong = ring.slots().map(|slot| match slot.current {
        lost if lost == members[1] => members[0],
        kept => kept,
    });
    let words = RingState::new_clean(&wrong.collect::<Vec<_>>()).to_image();
    let outer = MapData::from_pin(pins.maps().join("RINGS")).unwrap();
    // An image is one element with all words of the ring.
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
    let site = Site::start(&lab, &binary, Options::default()).unwrap();
    let mut record = Record::new();
    record
        .observe(&site, Duration::from_secs(8), |_| false)
        .unwrap();
    record.check_quiet().unwrap();
    act(&site, &mut record);
}

#[test]
fn names_a_ring_that_something_else_wrote() {
    if !can_run("names_a_ring_that_something_else_wrote") {
        return;
    }
    with_site(|site, record| {
        tamper(site);
        record.start_fault("the kernel's ring was changed");
        record
            .observe_until_alert(site, LIMIT, Duration::from_secs(8))
            .unwrap();
        let causes: Vec<&str> = record
            .alerts
            .iter()
            .map(|(_, alert)| alert.cause())
            .collect();
        assert_eq!(causes, ["table_not_intended"], "{:#?}", record.alerts);
    });
}

/// Time in which the share monitor learns the usual traffic.
const LEARNING: Duration = Duration::from_secs(125);

#[test]
fn reports_an_even_spike_without_an_alert() {
    if !can_run("reports_an_even_spike_without_an_alert") {
        return;
    }
    with_site(|site, record| {
        record.observe(site, LEARNING, |_| false).unwrap();
        site.load.set_rate(4 * RATE);
        record.start_fault("four times the connections");
        let mut named = None;
        let end = Instant::now() + LIMIT;
        while named.is_none() && Instant::now() < end {
            record
                .observe(site, Duration::from_secs(1), |_| false)
                .unwrap();
            let events = site.events().unwrap();
            named = events.into_iter().find(|event| event.kind == "spike");
        }
        let named = named.expect("an event that names the spike");
        assert_eq!(named.vip.as_deref(), Some("api"));
        assert!(named.message.contains("for all members alike"), "{named:?}");
        record
            .observe(site, Duration::from_secs(15), |_| false)
            .unwrap();
        record.check_quiet().unwrap();
        let came: u64 = record.flows_of_all();
        assert!(came > 20 * 2 * RATE, "{came} flows are no spike");
    });
}

/// Existing UDP flows keep their backend when the ring changes, and do not count as new flows there.
#[test]
fn a_ring_in_transition_raises_no_alert() {
    if !can_run("a_ring_in_transition_raises_no_alert") {
        return;
    }
    let lab = site::build().unwrap();
    let binary = lab::balancer::binary().unwrap();
    let options = Options {
        rate: 0,
        edit: |text| {
            let udp = "\"udp\"\ntrack = \"on-change\"\nforward";
            text.replace("\"tcp\"\nforward", udp)
                .replace("hash_seed", "transition_ttl = \"10s\"\nhash_seed")
        },
        ..Options::default()
    };
    let site = Site::start(&lab, &binary, options).unwrap();
    let mut record = Record::new();
    // Backends came up one after the other. Later flows need no entry in the tracking table.
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
            // No server listens, so a send may report the ICMP error of the previous one.
            let _ = socket.send_to(b"?", site.vip);
        }
    };
    for _ in 0..10 {
        send_all();
        record
            .observe(&site, Duration::from_millis(500), |_| false)
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
            .observe(&site, Duration::from_millis(500), |_| false)
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

/// After a restart, the alert about a bad change is still the same alert with the same cause.
#[test]
fn keeps_the_cause_after_a_restart() {
    if !can_run("keeps_the_cause_after_a_restart") {
        return;
    }
    let lab = site::build().unwrap();
    let binary = lab::balancer::binary().unwrap();
    let mut site = Site::start(&lab, &binary, Options::default()).unwrap();
    let mut record = Record::new();
    let observe = |record: &mut Record, site: &Site<'_>, seconds| {
        let time = Duration::from_secs(seconds);
        record.observe(site, time, |_| false).unwrap();
    };
    observe(&mut record, &site, 10);
    record.start_fault("the bad change is forced");
    let arguments = ["--force", "max_share", "--bake", "0s", "--no-wait"];
    site.apply_bad_change(&arguments).unwrap();
    record
        .observe_until_alert(&site, LIMIT, Duration::from_secs(2))
        .unwrap();
    site.restart().unwrap();
    // Longer than an alert stays after its condition has ended.
    observe(&mut record, &site, 40);
    let ids: Vec<&str> = record
        .alerts
        .iter()
        .map(|(_, alert)| alert.labels.alert_id.as_str())
        .collect();
    assert_eq!(ids, ["skew:api:revision:2"], "{:#?}", record.alerts);
    let on = site.alertmanager.alerts().unwrap();
    assert_eq!(on.len(), 1, "one active alert: {on:#?}");
    assert_eq!(on[0].annotations.revision.as_deref(), Some("2"));
}
