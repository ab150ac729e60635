//! Each guard: what it refuses, and what passes.

use super::*;

#[test]
fn max_share_limits_the_share_of_a_backend() {
    use Guard::MaxShare;
    let capped = |cap: &str, backends: &[&str]| vip(&format!("guard.max_share = {cap}"), backends);
    let even = capped("0.5", &["a", "b"]);
    // A slot more by rounding does not exceed the limit.
    assert_eq!(Case::new("", &even).refused(), []);
    let case = Case::new(&even, &capped("0.5", &["a 62", "b 38"]));
    assert_eq!(case.refused(), [MaxShare]);
    assert_eq!(
        case.detail(MaxShare),
        "backend a would have 62 % of the ring; maximum is 50 %"
    );
    let forced = case.force(MaxShare).plan();
    assert_eq!(forced.verdict, PlanVerdict::Allowed);
    assert!(
        forced.vips[0]
            .guards
            .iter()
            .any(|g| g.verdict == GuardVerdict::Forced)
    );
    // What exceeds the limit may get better, but not worse.
    let high = capped("0.5", &["a 80", "b 20"]);
    assert_eq!(
        Case::new(&high, &capped("0.5", &["a 70", "b 30"])).refused(),
        []
    );
    assert_eq!(
        Case::new(&high, &capped("0.5", &["a 81", "b 19"])).refused(),
        [MaxShare]
    );
    // An unrelated change passes.
    let other = high.replace("\nguard", "\ntrack = \"always\"\nguard");
    assert_eq!(Case::new(&high, &other).refused(), []);
    // A stricter limit must hold; a looser one need not.
    let wide = capped("0.9", &["a 80", "b 20"]);
    assert_eq!(Case::new(&wide, &high).refused(), [MaxShare]);
    let looser = capped("0.6", &["a 80", "b 20"]);
    assert_eq!(Case::new(&high, &looser).refused(), []);
    // Draining a backend raises the shares of the others.
    let drained = capped("0.4", &["a", "b", "c 100 state = \"drain\""]);
    let three = capped("0.4", &["a", "b", "c"]);
    assert_eq!(Case::new(&three, &drained).refused(), [MaxShare]);
}

/// The guards as they are without any setting: the outage that the product is made against is
/// refused, and ordinary changes are not.
#[test]
fn by_default_a_change_may_not_concentrate_the_traffic() {
    let backends = |text: &str| {
        let backends: Vec<&str> = text.split(", ").filter(|b| !b.is_empty()).collect();
        vip("", &backends)
    };
    let drained = "100 state = \"drain\"";
    for (before, after) in [
        // Two zeros too many; with two backends a share can't even double.
        ("a, b, c, d", "a 10000, b, c, d"),
        ("a, b", "a 10000, b"),
        ("a 40, b 60", "a 690, b 60"),
        // The others lose their weight.
        ("a, b, c, d", "a, b 1, c 1, d 1"),
        ("a, b, c", "a 401, b, c"),
        // A new backend, and one whose weight was 0.
        ("a, b", "a, b, c 10000"),
        ("a, b, c 0", "a, b, c 10000"),
        ("a 1, b 1", "a 1, b 1, c 100"),
        // All but one are drained, or removed.
        (
            "a, b, c, d",
            &*format!("a, b {drained}, c {drained}, d {drained}"),
        ),
        ("a, b, c", "a"),
    ] {
        let case = Case::new(&backends(before), &backends(after));
        assert_eq!(case.refused(), [Guard::MaxShare], "{before} → {after}");
        let limited =
            |text: &str| backends(text).replace("ring_size", "guard.max_share = 1\nring_size");
        let allowed = Case::new(&backends(before), &limited(after));
        assert_eq!(allowed.refused(), [], "set: {before} → {after}");
    }
    for (before, after) in [
        ("a", "a, b"),
        ("a, b", "a, b, c"),
        ("a, b, c", "a, b"),
        ("a, b, c", &*format!("a, b, c {drained}")),
        ("a, b", &*format!("a, b {drained}")),
        ("a, b", "a, b 0"),
        (&*format!("a, b {drained}"), "a, b"),
        (&*format!("a, b {drained}"), &*format!("a {drained}, b")),
        // A canary, step by step, up to the end.
        ("a, b", "a, b, c 1"),
        ("a, b 1", "a, b 10"),
        ("a, b 10", "a, b"),
        ("a, b 1", &*format!("a {drained}, b 1")),
        // Larger machines, also when one comes back.
        ("a, b", "a 200, b"),
        ("a, b", "a 300, b"),
        ("a", "a, b 400"),
        (
            &*format!("a, b {}", drained.replace("100", "900")),
            "a, b 900",
        ),
        ("a, b", "c, d"),
        ("a", "b"),
        // What is so already.
        ("a 900, b", "a 901, b"),
        ("a 9000, b", "a 900, b"),
        ("", "a 10000, b"),
    ] {
        let old = backends(before);
        let old = if before.is_empty() { "" } else { &old };
        let case = Case::new(old, &backends(after));
        assert_eq!(case.refused(), [], "{before} → {after}");
    }
    let case = Case::new(&backends("a, b, c, d"), &backends("a 10000, b, c, d"));
    assert_eq!(
        case.detail(Guard::MaxShare),
        "backend a would have 97.1 % of the ring (25 % without the change of weights); if that is wanted, \
         set guard.max_share"
    );
}

#[test]
fn a_new_backend_counts_with_its_share_once_healthy() {
    // A far too high weight: without this rule it would show only once the checks pass.
    let before = vip("guard.max_share = 0.6", &["a", "b"]);
    let after = vip("guard.max_share = 0.6", &["a", "b", "c 1000"]);
    let case = Case::new(&before, &after).unproven(&["c"]);
    assert_eq!(case.refused(), [Guard::MaxShare]);
}

#[test]
fn max_moved_limits_the_slots_that_move() {
    use Guard::MaxMoved;
    let text = |backends: &[&str]| vip("guard.max_moved = 0.25", backends);
    let case = Case::new(&text(&["a", "b", "c"]), &text(&["a", "b"]));
    assert_eq!(case.refused(), [MaxMoved]);
    let detail = case.detail(MaxMoved);
    assert!(
        detail.contains("of 1009 slots); maximum is 25 %"),
        "{detail}"
    );
    // Removing one of four moves its quarter and a few slots of the others.
    let (four, three) = (["a", "b", "c", "d"], ["a", "b", "c"]);
    assert_eq!(Case::new(&text(&four), &text(&three)).refused(), [MaxMoved]);
    let wider = |backends: &[&str]| vip("guard.max_moved = 0.3", backends);
    assert_eq!(Case::new(&wider(&four), &wider(&three)).refused(), []);
    assert_eq!(
        Case::new("", &text(&["a"])).refused(),
        [],
        "a new VIP moves nothing"
    );
    let all_down = Case::new(&text(&["a 100 state = \"disabled\""]), &text(&["a"]));
    assert_eq!(all_down.refused(), [], "the slots had no backend");
}

#[test]
fn min_backends_counts_serving_backends() {
    use Guard::MinBackends;
    let text = |min: u32, backends: &[&str]| vip(&format!("guard.min_backends = {min}"), backends);
    let two = text(2, &["a", "b"]);
    assert_eq!(Case::new(&two, &text(2, &["a"])).refused(), [MinBackends]);
    assert_eq!(Case::new("", &text(2, &["a"])).refused(), [MinBackends]);
    let case = Case::new(&two, &text(2, &["a", "b 100 state = \"drain\""]));
    assert_eq!(case.refused(), [MinBackends]);
    assert_eq!(
        case.detail(MinBackends),
        "1 backend would remain; minimum is 2"
    );
    // Removing a backend that is down makes nothing worse; removing the other does.
    assert_eq!(Case::new(&two, &text(2, &["a"])).down(&["b"]).refused(), []);
    let other = Case::new(&two, &text(2, &["b"])).down(&["b"]).refused();
    assert_eq!(other, [MinBackends, Guard::NothingLeft]);
    // A new limit must hold for the configured backends.
    let one = text(1, &["a", "b"]);
    assert_eq!(
        Case::new(&one, &text(3, &["a", "b"])).refused(),
        [MinBackends]
    );
    let more = Case::new(&one, &text(3, &["a", "b", "c"])).unproven(&["c"]);
    assert_eq!(more.refused(), []);
    // An exchange: the new backend does not serve yet.
    let exchange = Case::new(&two, &text(2, &["a", "c"])).unproven(&["c"]);
    assert_eq!(exchange.refused(), [MinBackends]);
    let detail = exchange.detail(MinBackends);
    assert_eq!(
        detail,
        "1 backend would remain; minimum is 2 (1 more once their checks pass)"
    );
}

#[test]
fn capacity_needs_headroom_over_the_peak() {
    use Guard::Capacity;
    let text = |a: u32, b: u32| {
        let (a, b) = (
            format!("a 100 capacity = {a}"),
            format!("b 100 capacity = {b}"),
        );
        vip("", &[&a, &b])
    };
    let only_a = vip("", &["a 100 capacity = 1000"]);
    let both = text(1000, 1000);
    // A peak of 1,600 needs 1,920.
    assert_eq!(Case::new(&both, &only_a).peak(800.0).refused(), []);
    assert_eq!(Case::new(&both, &only_a).peak(840.0).refused(), [Capacity]);
    let case = Case::new(&both, &text(1000, 800)).peak(1600.0);
    assert_eq!(case.refused(), [Capacity]);
    assert_eq!(
        case.detail(Capacity),
        "capacity would be 1800 new flows/s; the peak is 1600 (1920 with headroom)"
    );
    // Capacity is already too low: more is no worse, and neither is adding the value to the file.
    assert_eq!(
        Case::new(&text(500, 500), &text(600, 600))
            .peak(1600.0)
            .refused(),
        []
    );
    assert_eq!(
        Case::new(&vip("", &["a", "b"]), &text(500, 500))
            .peak(1600.0)
            .refused(),
        []
    );
    // One backend exceeds its capacity, though the total suffices.
    let uneven = vip("", &["a 300 capacity = 1000", "b 100 capacity = 9000"]);
    let even = vip("", &["a 100 capacity = 1000", "b 100 capacity = 9000"]);
    let case = Case::new(&even, &uneven).peak(1600.0);
    assert_eq!(case.refused(), [Capacity]);
    let detail = case.detail(Capacity);
    assert!(
        detail.contains("backend a would get 1200 new flows/s at peak; its capacity is 1000"),
        "{detail}"
    );
    // Without a configured capacity there is no limit.
    assert_eq!(Case::new(&even, &vip("", &["a"])).peak(1e6).refused(), []);
    // Nor is there one while no backend is eligible.
    let replaced = Case::new(&vip("", &["a"]), &vip("", &["b"])).unproven(&["b"]);
    assert_eq!(
        replaced.detail(Capacity),
        "not every backend has a `capacity`; no backend exceeds its capacity"
    );
}

#[test]
fn nothing_left_requires_a_serving_backend() {
    use Guard::NothingLeft;
    let served = vip("", &["a", "b"]);
    let off = vip(
        "",
        &["a 100 state = \"disabled\"", "b 100 state = \"drain\""],
    );
    assert!(Case::new(&served, &off).refused().contains(&NothingLeft));
    assert!(Case::new("", &off).refused().contains(&NothingLeft));
    assert_eq!(
        Case::new(&off, &off.replace("drain", "disabled")).refused(),
        []
    );
    // All replaced at once: no backend serves until the checks pass.
    let others = vip("", &["c", "d"]);
    let case = Case::new(&served, &others).unproven(&["c", "d"]);
    assert!(case.refused().contains(&NothingLeft));
    assert!(case.detail(NothingLeft).contains("add them first"));
    // The backends of a new VIP have not been checked yet.
    assert_eq!(Case::new("", &served).unproven(&["a", "b"]).refused(), []);
    // Panic mode: unhealthy backends get traffic, and keep getting it.
    let panic = Case::new(&served, &vip("", &["a 50", "b"])).unproven(&["a", "b"]);
    assert_eq!(panic.refused(), []);
}

#[test]
fn vip_removed_protects_a_vip_with_traffic() {
    use Guard::VipRemoved;
    let text = vip("", &["a", "b"]);
    assert_eq!(Case::new(&text, "").refused(), []);
    let case = Case::new(&text, "").traffic();
    assert_eq!(case.refused(), [VipRemoved]);
    assert_eq!(
        case.detail(VipRemoved),
        "the VIP would be removed and its connections would break: it has 0 new flows/s and 5 packets/s"
    );
    let replaced = text.replace("\"l2\"", "\"ipip\"");
    assert_eq!(
        Case::new(&text, &replaced).traffic().refused(),
        [VipRemoved]
    );
    assert_eq!(Case::new(&text, &replaced).refused(), []);
}

#[test]
fn share_error_and_no_slots_check_the_built_ring() {
    let (before, after) = (vip("", &["a", "b"]), vip("", &["a", "b", "c"]));
    let case = Case::new(&before, &after);
    let input = Input {
        base: 1,
        running: case.before.as_ref(),
        candidate: &case.after,
        force: &[],
    };
    let with = |slots: [u32; 3]| {
        let plan = plan(&input, |pair| {
            let mut facts = VipFacts::assumed(pair);
            let members = &mut facts.after.as_mut().unwrap().members;
            for (member, slots) in members.iter_mut().zip(slots) {
                member.slots = slots;
            }
            facts
        });
        let guards = plan.vips.into_iter().flat_map(|vip| vip.guards);
        let refused = guards.filter(|g| g.verdict == GuardVerdict::Refused);
        refused.map(|g| (g.guard, g.detail)).collect::<Vec<_>>()
    };
    assert_eq!(with([336, 336, 337]), []);
    // Within 1 % of the intended share.
    assert_eq!(with([335, 335, 339]), []);
    let wrong = with([504, 505, 0]);
    assert_eq!(wrong[0].0, Guard::ShareError);
    assert!(
        wrong[0]
            .1
            .contains("backend c would have 0 % of the ring instead of 33.3 %"),
        "{wrong:?}"
    );
    assert_eq!(wrong[1].0, Guard::NoSlots);
    assert_eq!(
        wrong[1].1,
        "backend c with weight 100 would get none of the 1009 slots"
    );
}
