//! A change of more rings at once than there are spare images: in rounds, and back again.

use lb_daemon::{
    fault::Faults,
    reconciler::{HealthUpdate, Reconciler, ReconcilerError, Summary, load_options},
};
use lb_dataplane::{Dataplane, MOST_SPARE_IMAGES};
use lb_model::{
    MemberRef,
    config::{self, Config, Fraction},
};

use crate::reconciler::{routes, snapshot};

/// Two full rounds and a part of one.
const VIPS: usize = 2 * MOST_SPARE_IMAGES + 5;

/// VIPs that share two servers.
fn config(vips: std::ops::Range<usize>) -> Config {
    let mut text = String::from(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = \"000102030405060708090a0b0c0d0e0f\"\n\
         track_flows = 8192\nnat_sessions = 1024\n",
    );
    for vip in vips {
        text += &format!(
            "[[vip]]\nname = \"v{vip}\"\naddress = \"203.0.113.1\"\nport = {}\nprotocol = \"tcp\"\n\
             forward = \"ipip\"\nring_size = 251\n[vip.health]\nkind = \"tcp\"\n\
             [[vip.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
             [[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.2\"\n",
            1000 + vip
        );
    }
    config::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
}

struct Node {
    dataplane: Dataplane,
    controller: Reconciler,
}

impl Node {
    fn new() -> Self {
        let config = config(0..VIPS);
        let mut dataplane = Dataplane::load(&load_options(&config)).unwrap();
        let routes = routes(&mut dataplane);
        let mut controller = Reconciler::fresh().presuming_up();
        controller
            .apply_with_routes(&mut dataplane, &config, routes)
            .unwrap();
        Self {
            dataplane,
            controller,
        }
    }

    /// The server `b`, a backend of all VIPs, goes down or comes up.
    fn set_health(&mut self, healthy: bool) -> Result<Summary, ReconcilerError> {
        let update = |vip| HealthUpdate {
            member: MemberRef::new(format!("v{vip}"), "b".to_owned()),
            healthy,
            ramp: Fraction::ALL,
        };
        let updates: Vec<_> = (0..VIPS).map(update).collect();
        self.controller.set_healths(&mut self.dataplane, &updates)
    }
}

#[test]
fn changes_all_rings_with_few_spare_images() {
    let mut node = Node::new();
    for healthy in [false, true, false] {
        let before = snapshot(&node.dataplane).0;
        assert_eq!(node.set_health(healthy).unwrap().rings_changed, VIPS as u32);
        let after = snapshot(&node.dataplane).0;
        let is_same = before.iter().filter(|(vip, ring)| after[*vip] == **ring);
        assert_eq!(is_same.count(), 0, "rings that did not change");
        assert!(
            node.dataplane.rings.len() <= VIPS + MOST_SPARE_IMAGES,
            "{} images for {VIPS} rings",
            node.dataplane.rings.len()
        );
    }
    // New VIPs with changed ones, of which the images of the removed ones are free afterwards.
    let moved = config(VIPS / 2..VIPS + VIPS / 2);
    node.controller.apply(&mut node.dataplane, &moved).unwrap();
    assert_eq!(snapshot(&node.dataplane).0.len(), VIPS);
    assert_eq!(
        node.set_health(true).unwrap().rings_changed,
        VIPS.div_ceil(2) as u32
    );
}

/// Wherever a change stops, all rings are as before, and the next change works.
#[test]
fn goes_back_from_every_round() {
    let mut node = Node::new();
    let count = Faults::none();
    node.set_health(false).unwrap();
    let points = count.passed();
    drop(count);
    node.set_health(true).unwrap();
    let of = |name: &str| {
        let numbers = (1..).zip(&points).filter(|(_, point)| *point == name);
        numbers.map(|(number, _)| number).collect::<Vec<u64>>()
    };
    let (staged, swapped) = (of("map: stage a ring"), of("map: swap a ring"));
    assert_eq!((staged.len(), swapped.len()), (VIPS, VIPS));
    let before = snapshot(&node.dataplane);
    let first_of_rounds = [0, MOST_SPARE_IMAGES, 2 * MOST_SPARE_IMAGES];
    for ring in first_of_rounds
        .into_iter()
        .flat_map(|first| [first, first + 3])
    {
        for point in [staged[ring], swapped[ring]] {
            let fault = Faults::fail_at(point);
            let error = node.set_health(false).unwrap_err();
            assert!(matches!(error, ReconcilerError::Fault(_)), "{error}");
            drop(fault);
            assert_eq!(
                snapshot(&node.dataplane),
                before,
                "ring {ring}, point {point}"
            );
            assert!(node.dataplane.rings.len() <= VIPS + MOST_SPARE_IMAGES);
        }
    }
    assert_eq!(node.set_health(false).unwrap().rings_changed, VIPS as u32);
    assert_ne!(snapshot(&node.dataplane).0, before.0);
}
