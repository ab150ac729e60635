//! The ledger on disk.

use super::*;

#[test]
fn a_damaged_ledger_is_rejected() {
    let (mut node, mut traffic) = (Node::new(), Traffic::new(EPOCH));
    node.put(0, 1, "a");
    node.tick(&mut traffic);
    let mut ledger = traffic.to_ledger(true);
    ledger.truncate(ledger.len() / 2);
    let (_, error) = Traffic::from_ledger(EPOCH, &ledger, node.wall());
    assert!(matches!(error, Some(LedgerError::Damaged(_))), "{error:?}");
    let (_, error) = Traffic::from_ledger(EPOCH, br#"{"form": 99}"#, node.wall());
    assert!(matches!(error, Some(LedgerError::Form(99))), "{error:?}");
}

#[test]
fn old_absent_accounts_are_dropped() {
    let mut traffic = Traffic::new(EPOCH);
    let mut node = Node::new();
    for round in 0..5_u32 {
        node.members.clear();
        for index in 0..2048 {
            node.put(index, round, &format!("pod-{round}-{index}"));
        }
        node.tick(&mut traffic);
    }
    let (traffic, _) = Traffic::from_ledger(EPOCH, &traffic.to_ledger(true), node.wall());
    // 8,192 absent ones are too many by none: all but the first round's last second are kept.
    assert!(traffic.member("api", "pod-4-0").is_some());
    assert!(traffic.member("api", "pod-1-0").is_some());
    for round in 5..7_u32 {
        node.members.clear();
        for index in 0..2048 {
            node.put(index, round, &format!("pod-{round}-{index}"));
        }
    }
    let mut traffic = traffic;
    node.tick(&mut traffic);
    let (traffic, _) = Traffic::from_ledger(EPOCH, &traffic.to_ledger(true), node.wall());
    assert!(traffic.member("api", "pod-0-0").is_none());
    assert!(traffic.member("api", "pod-6-0").is_some());
}

#[test]
fn the_recorder_resumes_from_its_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::new();
    let mut recorder = Recorder::open(folder.path(), EPOCH, node.wall());
    node.put(0, 1, "a");
    node.count(0, 100);
    node.second += 1;
    recorder.observe(&node.sample());
    // Killed: the ledger was written when the member came.
    drop(recorder);
    node.count(0, 11);
    let mut recorder = Recorder::open(folder.path(), EPOCH, node.wall());
    node.second += 1;
    recorder.observe(&node.sample());
    assert_eq!(flows(&recorder.traffic().lock(), "a"), 111);
    recorder.finish().unwrap();
    let recorder = Recorder::open(folder.path(), "another boot", node.wall());
    assert_eq!(flows(&recorder.traffic().lock(), "a"), 111);
    std::fs::write(folder.path().join("traffic.json"), "{").unwrap();
    let recorder = Recorder::open(folder.path(), EPOCH, node.wall());
    assert!(recorder.traffic().lock().member("api", "a").is_none());
}

/// The file format must not change: totals would restart at 0.
#[test]
fn reads_the_stored_format() {
    let ledger = r#"{"form":1,"epoch":"boot 7","is_final":true,"vips":{"api":{"totals":{"packets":10,"bytes":900,"new_flows":2},"counters":[0,0,0,0,0,0,0,0],"reading":[3,[0,0,0,0,0,0,0,0]],"peaks":[],"members":{"b1":{"counters":[10,900,2,0,0,0,0,0],"seen":1800000000}}}},"readings":[{"index":5,"generation":1,"vip":"api","backend":"b1","counters":[10,900,2,0,0,0,0,0]}]}"#;
    let wall = Timestamp::from_second(1_800_000_001).unwrap();
    let (traffic, error) = Traffic::from_ledger("boot 7", ledger.as_bytes(), wall);
    assert!(error.is_none(), "{error:?}");
    let totals = traffic.vip("api").unwrap().totals;
    assert_eq!(
        (totals.packets, totals.bytes, totals.new_flows),
        (10, 900, 2)
    );
    let written: serde_json::Value = serde_json::from_slice(&traffic.to_ledger(true)).unwrap();
    let read: serde_json::Value = serde_json::from_str(ledger).unwrap();
    assert_eq!(written, read);
}
