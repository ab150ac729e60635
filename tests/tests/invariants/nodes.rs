//! 5. Two nodes with one configuration choose alike; a flow moved from one to the other goes on.

use lab::balancer::binary;
use lab::configuration::{Forward, State};
use lab::node::Node;
use lab::service::{FAMILIES, Kind, vip_name};
use lab::topology::{Family, Layout};
use lb_common::{proto, ring::MemberIndex};

use crate::site::{Site, assert_go_on, build_with_balancers, can_run, configuration};

const FLOWS: usize = 500;

/// Address of the member that has each slot, and the hash key: all that a choice depends on.
fn choice(node: &Node<'_>, site: &Site<'_>, family: Family) -> (Vec<[u64; 2]>, String) {
    let view = node.view().unwrap();
    let vip = view.vip(site.lab.vip(family, 1), Kind::Echo.port(), proto::TCP);
    let vip = vip.unwrap().unwrap();
    let address = |index: MemberIndex| view.members.read(index).unwrap().address;
    let ring = view.ring(vip).unwrap().unwrap();
    let slots = ring.slots().iter().map(|slot| address(slot.current));
    let key = format!("{:?}", view.vips.read(vip).unwrap().hash_key);
    (slots.collect(), key)
}

fn packets(node: &Node<'_>) -> u64 {
    let view = node.view().unwrap();
    let present: Vec<MemberIndex> = view.members.present().map(|(index, _)| index).collect();
    let counted = present
        .into_iter()
        .map(|index| view.counters.member(index).unwrap().packets);
    counted.sum()
}

#[test]
fn flows_that_move_to_another_node_go_on() {
    if !can_run("two nodes") {
        return;
    }
    let lab = build_with_balancers(Layout::TwoArm, 2);
    let mut site = Site::start(&lab, Forward::Ipip);
    let second = configuration(&lab, 1, Forward::Ipip);
    let mut second = Node::start(&lab.balancers[1], &binary().unwrap(), second).unwrap();
    for family in FAMILIES {
        assert!(choice(&site.node, &site, family) == choice(&second, &site, family));
    }
    let loads = FAMILIES.map(|family| site.open(family, FLOWS));
    assert_eq!(packets(&second), 0);
    lab.route_vips_via(1).unwrap();
    assert_go_on("on the second node", &loads);
    let passed = packets(&second);
    assert!(passed > FLOWS as u64, "they went there: {passed} packets");

    // Both change, a failed node's flows come over, and new ones begin.
    for node in [&mut site.node, &mut second] {
        node.reload(|configuration| {
            for family in FAMILIES {
                let vip = configuration.vip(&vip_name(Kind::Echo, family));
                vip.backend("backend-0").state = State::Drain;
            }
        })
        .unwrap();
    }
    let late = FAMILIES.map(|family| site.open(family, FLOWS));
    assert_go_on("changed", loads.iter().chain(&late));
    // What has begun before the change is in transition on both nodes: it moves as well.
    lab.route_vips_via(0).unwrap();
    assert_go_on("back on the first node", &loads);
    drop((loads, late));
    site.check_health();
}
