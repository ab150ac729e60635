//! 1. With a stable configuration, the ring alone selects members.

use lab::configuration::Forward;
use lab::service::{Kind, vip_name};
use lab::topology::{Family, Layout};
use lb_common::proto;

use crate::site::{Site, WEIGHTS, assert_alive, build, can_run};

const FLOWS: usize = 3000;

#[test]
fn does_not_track_thousands_of_connections() {
    if !can_run("stable") {
        return;
    }
    let lab = build(Layout::TwoArm);
    let mut site = Site::start(&lab, Forward::Ipip);
    for family in [Family::V4, Family::V6] {
        let load = site.open(family, FLOWS);
        assert_alive("stable", [&load]);
        assert_eq!(site.node.tracked_flows().unwrap(), 0);
        let report = load.stop();
        // Without a fault, each flow has had one backend; together they are distributed.
        let per_backend = report.per_backend();
        assert_eq!(per_backend.len(), WEIGHTS.len(), "{per_backend:?}");
        for share in site.node.shares(&vip_name(Kind::Echo, family)).unwrap() {
            assert_eq!(share.new_flows, per_backend[&share.name], "{}", share.name);
            let expected = share.intended * FLOWS as f64;
            let chance = 5.0 * (expected * (1.0 - share.intended)).sqrt();
            let off = (share.new_flows as f64 - expected).abs();
            assert!(off < chance, "{share:?} of {FLOWS} flows");
        }
        let view = site.node.view().unwrap();
        let vip = view.vip(lab.vip(family, 1), Kind::Echo.port(), proto::TCP);
        let counters = view.counters.vip(vip.unwrap().unwrap()).unwrap();
        let asked = counters.track_hits + counters.track_misses + counters.track_inserts;
        assert_eq!(asked, 0, "the table was not even asked: {counters:?}");
    }
    site.check_health();
}
