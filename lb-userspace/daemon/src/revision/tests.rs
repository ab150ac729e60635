//! The store against crashes and damage.

mod folder;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use jiff::{Timestamp, ToSpan as _};
use proptest::prelude::*;

use super::*;
use crate::fault::Faults;

const SEED: &str = "000102030405060708090a0b0c0d0e0f";

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + second.seconds()
}

fn text(note: &str) -> String {
    format!("# {note}\r\n[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"{SEED}\"\n")
}

fn new(note: &str) -> New {
    New {
        text: text(note),
        base: "/etc/evenkeel".into(),
        parent: None,
        at: at(1),
        who: "root (pid 7)".to_owned(),
        how: "apply a.toml".to_owned(),
        why: Some("line 1\nline 2 \"ü\"".to_owned()),
        forced: vec![lb_model::planner::Guard::MaxMoved],
        file_digest: Some(digest("the file")),
        state: RevisionState::Applying,
    }
}

fn open(folder: &Path) -> Store {
    let (store, damages) = Store::open(folder).unwrap();
    assert_eq!(damages, []);
    store
}

/// A store with revisions of these states.
fn filled(folder: &Path, states: &[RevisionState]) -> Store {
    let mut store = open(folder);
    for state in states {
        let number = store.append(new("x")).unwrap().record.info.number;
        store.set_state(number, state.clone()).unwrap();
    }
    store
}

fn numbers(store: &Store) -> Vec<RevisionNumber> {
    store.list().map(|record| record.info.number).collect()
}

fn file_of(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join("revisions").join(name)
}

#[test]
fn revisions_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    assert!(store.head().is_none() && store.list().next().is_none());
    let written = store.append(new("first")).unwrap();
    assert!(store.head().is_none(), "it is only being applied");
    store.set_state(1, RevisionState::Applied).unwrap();
    drop(store);

    let store = open(folder.path());
    let read = store.get(1).unwrap();
    assert_eq!(read.text, written.text);
    assert_eq!(read.record.info.state, RevisionState::Applied);
    assert_eq!(read.record.info.digest, digest(&text("first")));
    assert_eq!(read.record.file_digest, Some(digest("the file")));
    let mut info = written.record.info;
    info.state = RevisionState::Applied;
    assert_eq!(read.record.info, info);
    assert_eq!(store.head().unwrap().info.number, 1);
    assert!(store.previous_good(1).is_none());
}

#[test]
fn files_are_private_and_debug_omits_the_text() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(file_of(folder.path(), "")).unwrap();
    let store = filled(folder.path(), &[RevisionState::Applied]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file_of(folder.path(), "")), 0o700);
    assert_eq!(mode(&file_of(folder.path(), "00000001.revision")), 0o600);
    assert_eq!(mode(&file_of(folder.path(), "00000001.state")), 0o600);
    let revision = store.get(1).unwrap();
    let shown = format!(
        "{revision:?} {:?} {:?}",
        new("x"),
        lb_model::secrets::mask(&revision.text)
    );
    assert!(!shown.contains(SEED), "{shown}");
    assert!(revision.text.contains(SEED));
}

#[test]
fn relative_paths_mean_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("seed"), SEED).unwrap();
    let text = "[node]\ninterfaces = [\"eth0\"]\nhash_seed_file = \"seed\"\n";
    let config =
        crate::config_file::parse(&etc.join("a.toml").display().to_string(), text).unwrap();
    let mut store = open(folder.path());
    let new = New {
        text: text.to_owned(),
        base: etc,
        ..new("x")
    };
    store.append(new).unwrap();
    let read = open(folder.path()).get(1).unwrap();
    assert_eq!(read.config().unwrap(), config);
}

#[test]
fn rejects_unknown_numbers_and_impossible_transitions() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path(), &[RevisionState::Applied]);
    let error = store.get(9).unwrap_err().to_string();
    assert!(error.contains("no revision 9 (the newest is 1)"), "{error}");
    let error = store.set_state(1, RevisionState::Applying).unwrap_err();
    let error = error.to_string();
    assert_eq!(
        error,
        "revision 1 is applied and cannot become being applied"
    );
    store.set_state(1, RevisionState::Applied).unwrap();
}

#[test]
fn a_diff_shows_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    store.append(new("one")).unwrap();
    store.append(new("two")).unwrap();
    let diff = store.diff(1, 2).unwrap();
    assert!(
        diff.starts_with("--- revision 1\n+++ revision 2\n@@"),
        "{diff}"
    );
    assert!(diff.contains("-# one") && diff.contains("+# two"), "{diff}");
    assert!(!diff.contains(SEED) && diff.contains("********"), "{diff}");
    assert_eq!(store.diff(2, 2).unwrap(), "");
}

/// Everything that can be seen of a store.
fn snapshot(store: &Store) -> Vec<(Record, String)> {
    let all = store.list();
    all.map(|record| (record.clone(), store.get(record.info.number).unwrap().text))
        .collect()
}

/// Runs `change` with a fault at each of its points. A restart must find the old state or the new.
fn at_every_fault(
    arm: impl Fn(u64) -> Faults,
    prepare: impl Fn(&Path) -> Store,
    change: impl Fn(&mut Store) -> Result<(), StoreError>,
) {
    let run = |faults: Faults| {
        let folder = tempfile::tempdir().unwrap();
        let mut store = {
            let _none = Faults::none();
            prepare(folder.path())
        };
        let before = snapshot(&store);
        let (done, passed) = (change(&mut store), faults.passed());
        drop(faults);
        let after = snapshot(&open(folder.path()));
        let left = fs::read_dir(file_of(folder.path(), "")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().ends_with(".tmp")),
            "{left:?}"
        );
        (before, done, after, passed)
    };
    let (before, done, whole, points) = run(Faults::none());
    done.unwrap();
    assert_ne!(before, whole);
    assert!(points.len() >= 5, "{points:?}");
    for point in 1..=points.len() as u64 {
        let (before, done, after, _) = run(arm(point));
        assert!(done.is_err(), "point {point} of {points:?}");
        assert!(
            after == before || after == whole,
            "point {point} of {points:?}: {after:?}"
        );
    }
}

#[test]
fn an_interrupted_append_leaves_the_old_or_the_new_state() {
    let prepare = |folder: &Path| filled(folder, &[RevisionState::Applied]);
    let change = |store: &mut Store| store.append(new("next")).map(drop);
    at_every_fault(Faults::crash_at, prepare, change);
    at_every_fault(Faults::fail_at, prepare, change);
}

#[test]
fn an_interrupted_state_change_leaves_the_old_or_the_new_state() {
    let until = at(100);
    let prepare = move |folder: &Path| {
        filled(
            folder,
            &[RevisionState::Applied, RevisionState::Baking { until }],
        )
    };
    let change = |store: &mut Store| store.set_state(2, RevisionState::Applied);
    at_every_fault(Faults::crash_at, prepare, change);
    at_every_fault(Faults::fail_at, prepare, change);
}

#[test]
fn a_failed_open_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), &[RevisionState::Applied]);
    for point in 1..=2 {
        let faults = Faults::fail_at(point);
        assert!(Store::open(folder.path()).is_err());
        drop(faults);
        assert_eq!(numbers(&open(folder.path())), [1]);
    }
}

#[test]
fn a_failed_append_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path(), &[RevisionState::Applied]);
    for point in 1..=6 {
        let faults = Faults::fail_at(point);
        assert!(store.append(new("x")).is_err(), "point {point}");
        drop(faults);
    }
    let number = store.append(new("y")).unwrap().record.info.number;
    assert_eq!(number, 8, "numbers are not reused");
    assert_eq!(numbers(&open(folder.path())), [1, 8]);
}

#[test]
fn reports_and_skips_a_damaged_newest_revision() {
    type Damaging = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(Damaging, &str); 6] = [
        (|bytes| bytes[..bytes.len() - 1].to_vec(), "SHA-256"),
        (|bytes| bytes[..10].to_vec(), "does not begin with"),
        (|_| Vec::new(), "is empty"),
        (|_| vec![0; 4096], "does not begin with"),
        (
            |mut bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes
            },
            "SHA-256",
        ),
        (
            |bytes| {
                let text = String::from_utf8(bytes).unwrap();
                text.replace("revision 1 ", "revision 2 ").into_bytes()
            },
            "has format version 2",
        ),
    ];
    for (damage, what) in damages {
        let folder = tempfile::tempdir().unwrap();
        let good = RevisionState::Applied;
        filled(folder.path(), &[good.clone(), good.clone()]);
        let path = file_of(folder.path(), "00000002.revision");
        let damaged = damage(fs::read(&path).unwrap());
        fs::write(&path, &damaged).unwrap();

        let (mut store, damages) = Store::open(folder.path()).unwrap();
        assert_eq!(damages.len(), 1);
        let message = damages[0].to_string();
        assert!(
            message.contains(what) && message.contains("00000002.revision"),
            "{message}"
        );
        assert_eq!(store.head().unwrap().info.number, 1);
        assert_eq!(store.at_start(at(9)).active, Some(1));
        assert!(matches!(store.get(2), Err(StoreError::Missing { .. })));
        // The file stays, and its number is not reused.
        let number = store.append(new("x")).unwrap().record.info.number;
        assert_eq!(number, 3);
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
}

/// Like a bad sector: reading fails.
#[test]
fn an_unreadable_file_counts_as_damaged() {
    for kind in ["revision", "state"] {
        let folder = tempfile::tempdir().unwrap();
        let good = RevisionState::Applied;
        filled(folder.path(), &[good.clone(), good]);
        let path = file_of(folder.path(), &format!("00000002.{kind}"));
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();

        let (store, damages) = Store::open(folder.path()).unwrap();
        assert_eq!(damages.len(), 1, "{kind}");
        assert!(damages[0].to_string().contains("Is a directory"));
        assert_eq!(store.at_start(at(9)).active, Some(1), "{kind}");
    }
}

#[test]
fn a_revision_with_a_damaged_state_is_not_active() {
    let folder = tempfile::tempdir().unwrap();
    filled(
        folder.path(),
        &[RevisionState::Applied, RevisionState::Applied],
    );
    fs::write(
        file_of(folder.path(), "00000002.state"),
        "{\"state\":\"applied\"}",
    )
    .unwrap();
    let (store, damages) = Store::open(folder.path()).unwrap();
    assert_eq!(damages.len(), 1);
    assert_eq!(store.head().unwrap().info.number, 1);
    assert!(store.get(2).is_ok(), "its text is still there");
    assert_eq!(
        store.at_start(at(9)).ended,
        [],
        "nothing is written over it"
    );
}

#[test]
fn a_file_with_the_wrong_number_counts_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), &[RevisionState::Applied]);
    let (from, to) = ("00000001.revision", "00000005.revision");
    fs::copy(file_of(folder.path(), from), file_of(folder.path(), to)).unwrap();
    let (mut store, damages) = Store::open(folder.path()).unwrap();
    assert!(
        damages[0].to_string().contains("is revision 1"),
        "{}",
        damages[0]
    );
    assert_eq!(store.append(new("x")).unwrap().record.info.number, 6);
}

#[test]
fn a_file_damaged_while_running_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path(), &[RevisionState::Applied]);
    fs::write(file_of(folder.path(), "00000001.revision"), "gone").unwrap();
    assert!(matches!(store.get(1), Err(StoreError::Damaged(_))));
}

#[test]
fn numbers_of_deleted_files_are_not_reused() {
    let folder = tempfile::tempdir().unwrap();
    filled(
        folder.path(),
        &[RevisionState::Applied, RevisionState::Applied],
    );
    for deleted in ["00000002.revision", "00000002.state"] {
        fs::remove_file(file_of(folder.path(), deleted)).unwrap();
    }
    // What is left of a write that a crash interrupted.
    fs::write(file_of(folder.path(), "00000002.state.tmp"), "cut").unwrap();
    for stranger in [
        "notes.txt",
        "7.revision",
        "00000009.revision.bak",
        "x.state",
    ] {
        fs::write(file_of(folder.path(), stranger), "x").unwrap();
    }
    fs::write(file_of(folder.path(), "00000004.revision.tmp"), "cut").unwrap();
    let mut store = open(folder.path());
    assert_eq!(numbers(&store), [1]);
    assert_eq!(store.append(new("x")).unwrap().record.info.number, 5);
    assert!(file_of(folder.path(), "notes.txt").exists());
}

fn end() -> impl Strategy<Value = RevisionState> {
    prop_oneof![
        3 => Just(RevisionState::Applied),
        1 => Just(RevisionState::Applying),
        1 => Just(RevisionState::Baking { until: at(50) }),
        1 => Just(RevisionState::AwaitingConfirm { until: at(50) }),
        1 => Just(RevisionState::RolledBack { why: "x".into(), at: at(1) }),
        1 => Just(RevisionState::Failed { why: "x".into() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A start that dies while writing the final states decides the same the next time, and leaves a
    /// store that agrees.
    #[test]
    fn a_start_settles_the_store(
        ends in prop::collection::vec(end(), 0..6),
        now in 40i64..60,
        dies_at in 1u64..12,
    ) {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), &ends));
        let answer = open(folder.path()).at_start(at(now));
        let settle = |store: &mut Store| {
            answer.ended.iter().try_for_each(|(number, state)| store.set_state(*number, state.clone()))
        };
        {
            let mut store = open(folder.path());
            let _faults = Faults::crash_at(dies_at);
            let _ = settle(&mut store);
        }
        let mut store = open(folder.path());
        prop_assert_eq!(store.at_start(at(now)).active, answer.active);
        settle(&mut store).unwrap();
        let store = open(folder.path());
        prop_assert_eq!(store.head().map(|head| head.info.number), answer.active);
        let unfinished = store.unfinished().map(|record| record.info.number);
        prop_assert!(unfinished.is_none() || unfinished == answer.active);
        for number in 1..=ends.len() as u64 {
            if let Some(good) = store.previous_good(number) {
                prop_assert!(good.info.number < number);
                prop_assert_eq!(&good.info.state, &RevisionState::Applied);
            }
        }
    }
}
