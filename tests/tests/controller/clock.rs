//! The system clock is set while a change waits for a deadline.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use lab::deadline::until;
use lab::service::{Kind, vip_name};
use lab::topology::Family;

use crate::site::{LIMIT, Site, build, can_run};

/// Seconds by which the clock is set.
const JUMP: i64 = 7200;

/// Sets the clock of the controller and waits until it has noticed.
fn set_clock(site: &Site<'_>, by: i64) {
    let folder = site.lab.balancers[0].directory();
    std::fs::write(folder.join("new-clock"), by.to_string()).unwrap();
    std::fs::rename(folder.join("new-clock"), folder.join("clock")).unwrap();
    until("the controller has seen the clock", LIMIT, || {
        let status = site.operator.get("/v1/status")?;
        let shown: Timestamp = status["at"].as_str().unwrap_or_default().parse()?;
        let ahead = shown.duration_since(Timestamp::now()) - SignedDuration::from_secs(by);
        Ok(ahead.abs() < SignedDuration::from_secs(JUMP / 2))
    })
    .unwrap();
}

#[test]
fn setting_the_clock_ends_no_bake() {
    if !can_run("a clock that is set") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    site.node.stop().unwrap();
    let clock = lab.balancers[0].directory().join("clock");
    let environment = [("EVENKEEL_TEST_CLOCK", clock.to_str().unwrap())];
    assert!(site.node.balancer.try_start(&environment).unwrap());
    let before = site.node.configuration().clone();
    let echo = vip_name(Kind::Echo, Family::V4);
    let after = site.changed(|c| c.vip(&echo).backend("backend-0").weight = 20);
    let file = site.write("new.toml", &after);
    let time = Duration::from_secs(12);
    for (number, by) in [(2, JUMP), (3, -JUMP)] {
        let begun = Instant::now();
        let apply = ["apply", file.to_str().unwrap(), "--confirm", "12s"];
        let apply = [&apply[..], &["--no-wait"]].concat();
        site.operator.run(&apply).unwrap().assert_code(0);
        set_clock(&site, by);
        let revision = site.wait_state(number, "rolled_back");
        println!("{by} s: undone after {:?}: {revision}", begun.elapsed());
        assert!(begun.elapsed() >= time, "its time was not over");
        let reason = revision["reason"].as_str().unwrap();
        assert!(reason.contains("not confirmed"), "{reason}");
        site.assert_kernel("nobody confirmed", &before);
        set_clock(&site, 0);
    }
    let log = site.node.balancer.log();
    assert!(log.contains("the system clock was set"), "{log}");
    site.assert_settled("at the end");
    site.check_health();
}
