//! The folder: states bound to their revisions, contents kept in memory, pruning.

use super::*;

fn rolled_back() -> RevisionState {
    RevisionState::RolledBack {
        why: "asked for".to_owned(),
        at: at(5),
    }
}

#[test]
fn exchanged_states_are_reported_and_still_used() {
    let folder = tempfile::tempdir().unwrap();
    filled(
        folder.path(),
        &[
            RevisionState::Applied,
            RevisionState::Applied,
            rolled_back(),
        ],
    );
    let file = |name: &str| file_of(folder.path(), name);
    fs::rename(file("00000002.state"), file("x")).unwrap();
    fs::rename(file("00000003.state"), file("00000002.state")).unwrap();
    fs::rename(file("x"), file("00000003.state")).unwrap();
    let (store, damages) = Store::open(folder.path()).unwrap();
    let messages: Vec<String> = damages.iter().map(ToString::to_string).collect();
    assert!(
        messages[0].contains("is the state of another revision (3)"),
        "{messages:?}"
    );
    assert!(
        messages[1].contains("is the state of another revision (2)"),
        "{messages:?}"
    );
    assert_eq!(store.at_start(at(9)).active, Some(2));
    assert_eq!(store.record(3).unwrap().info.state, rolled_back());
}

#[test]
fn a_copied_state_does_not_make_another_revision_good() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), &[RevisionState::Applied, rolled_back()]);
    let [from, to] = ["00000001.state", "00000002.state"];
    fs::copy(file_of(folder.path(), from), file_of(folder.path(), to)).unwrap();
    let (store, damages) = Store::open(folder.path()).unwrap();
    assert_eq!(damages.len(), 1);
    assert_eq!(store.at_start(at(9)).active, Some(1));
}

#[test]
fn a_state_without_its_revision_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    filled(
        folder.path(),
        &[RevisionState::Applied, RevisionState::Applied],
    );
    fs::remove_file(file_of(folder.path(), "00000002.revision")).unwrap();
    let (_, damages) = Store::open(folder.path()).unwrap();
    let message = damages[0].to_string();
    assert!(
        message.contains("00000002.revision is missing"),
        "{message}"
    );
}

#[test]
fn reads_states_of_older_versions() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), &[RevisionState::Applied]);
    let old = file::seal("state", "{\"state\":\"applied\"}\n");
    fs::write(file_of(folder.path(), "00000001.state"), old).unwrap();
    assert_eq!(open(folder.path()).at_start(at(9)).active, Some(1));
}

#[test]
fn what_can_not_be_written_is_kept_and_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = filled(folder.path(), &[RevisionState::Applied]);
    let faults = Faults::fail_at(1);
    let number = store
        .append_with(new("kept"), OnFailure::Keep)
        .unwrap()
        .record
        .info
        .number;
    drop(faults);
    let faults = Faults::fail_at(1);
    // Follows its revision into memory, whatever is asked for.
    store.set_state(number, RevisionState::Applied).unwrap();
    drop(faults);
    assert_eq!(store.head().unwrap().info.number, number);
    assert_eq!(store.get(number).unwrap().text, text("kept"));
    assert_eq!(open(folder.path()).head().unwrap().info.number, 1);
    assert_eq!(store.flush(), None);
    assert_eq!(open(folder.path()).head().unwrap().info.number, number);
}

#[test]
fn prunes_the_oldest_but_never_the_good_ones_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut states = vec![RevisionState::Applied; 4];
    states.extend(vec![rolled_back(); 4]);
    let mut store = filled(folder.path(), &states);
    store.prune(3).unwrap();
    assert_eq!(numbers(&store), [3, 4, 6, 7, 8]);
    let mut again = open(folder.path());
    assert_eq!(numbers(&again), numbers(&store));
    assert_eq!(again.append(new("x")).unwrap().record.info.number, 9);
}
