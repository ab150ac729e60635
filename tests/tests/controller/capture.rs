//! Packet captures under real traffic.

use std::sync::atomic::{AtomicBool, Ordering};

use lab::service::{Kind, vip_name};
use lab::topology::Family;

use crate::site::{Site, browse, build, can_run};

const CAPTURES: u32 = 8;

#[test]
fn captures_lose_no_packet() {
    if !can_run("capture") {
        return;
    }
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(100);
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let browsing = scope.spawn(|| browse(&lab, &stop));
        let web = vip_name(Kind::Web, Family::V4);
        let folder = lab.balancers[0].directory();
        let ended: Result<Vec<_>, _> = (0..CAPTURES)
            .map(|number| {
                let file = folder.join(format!("{number}.pcapng"));
                let file = file.to_str().unwrap();
                let count = ["--count", "500", "-w", file];
                let arguments = [&["capture", "--vip", &web][..], &count].concat();
                site.operator.run(&arguments)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        for result in ended.unwrap() {
            let result = result.assert_code(0);
            assert!(
                result.err.contains("500 packets captured, none lost"),
                "{}",
                result.err
            );
        }
        browsing.join().unwrap()
    });
    assert_eq!(report.failed, 0, "{report:?}");
    println!("{CAPTURES} captures during {report:?}");
    flows.assert_alive("after the captures");
    site.assert_settled("at the end");
    drop(flows);
    site.check_health();
}
