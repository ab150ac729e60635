//! The journal across restarts and crashes.

use std::{fs, io::Write as _};

use super::*;

fn entry(number: u64) -> Entry {
    Entry::new("health", format!("event {number}"))
        .vip("api")
        .backend("api-1")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

#[test]
fn events_keep_their_numbers_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    for number in 1..=5 {
        let event = journal.append(at(number * 10), entry(number as u64));
        assert_eq!(event.id, number as u64);
    }
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(journal.append(at(60), entry(6)).id, 6);
    assert_eq!(ids(&journal.since(0, 100)), [1, 2, 3, 4, 5, 6]);
    assert_eq!(ids(&journal.since(3, 2)), [4, 5]);
    assert_eq!(ids(&journal.newest(2)), [5, 6]);
    assert_eq!(ids(&journal.since(6, 2)), [0; 0]);
    let first = &journal.since(0, 1)[0];
    assert_eq!(first.message, "event 1");
    assert_eq!((first.vip.as_deref(), first.at), (Some("api"), at(10)));
}

#[test]
fn skips_a_truncated_line_and_does_not_reuse_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.append(at(1), entry(1));
    journal.append(at(2), entry(2));
    drop(journal);
    let file = folder.path().join("events/events.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    for cut in 1..text.lines().last().unwrap().len() {
        fs::write(&file, &text[..text.len() - 1 - cut]).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&journal.since(0, 9)), [1], "{cut} bytes cut off");
        assert_eq!(journal.append(at(3), entry(3)).id, 3);
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(ids(&journal.since(0, 9)), [1, 3], "{cut} bytes cut off");
    }
    // Only the end of the line was lost: the event is whole.
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.append(at(3), entry(3));
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(ids(&journal.since(0, 9)), [1, 2, 3]);
}

#[test]
fn an_event_has_no_control_characters() {
    let journal = Journal::in_memory();
    let event = journal.append(at(1), Entry::new("health", "failed: \x1b]0;title\x07\n"));
    assert_eq!(event.message, "failed: \\u001b]0;title\\u0007\\n");
}

#[test]
fn reads_the_end_of_a_file_that_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.append(at(1), entry(1));
    drop(journal);
    let path = folder.path().join("events/events.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    // A hole of a terabyte takes no space.
    file.set_len(1 << 40).unwrap();
    let last = serde_json::to_vec(&Event {
        id: 7,
        ..Journal::in_memory().append(at(2), entry(7))
    });
    file.write_all(&[b"\n", &*last.unwrap(), b"\n"].concat())
        .unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(ids(&journal.since(0, 9)), [7]);
}

#[test]
fn skips_invalid_lines() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.append(at(1), entry(1));
    let path = folder.path().join("events/events.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"\n{\"id\": \xff\xfe}\n\0\0\0\0\n[]\n")
        .unwrap();
    journal.append(at(2), entry(2));
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(ids(&journal.since(0, 9)), [1, 2]);
}

#[test]
fn the_journal_is_bounded_on_disk_and_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let long = "x".repeat(4000);
    for _ in 0..1500 {
        journal.append(at(1), Entry::new("health", &*long));
    }
    let files = fs::read_dir(folder.path().join("events")).unwrap();
    let sizes: Vec<u64> = files
        .map(|f| f.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 4);
    assert!(sizes.iter().sum::<u64>() < 5 << 20, "{sizes:?}");
    drop(journal);
    let journal = Journal::open(folder.path()).unwrap();
    let kept = journal.since(0, usize::MAX);
    assert!(kept.len() > 500, "{}", kept.len());
    assert!(kept.windows(2).all(|two| two[0].id + 1 == two[1].id));
    assert_eq!(journal.append(at(2), entry(1)).id, 1501);
    let journal = Journal::in_memory();
    for number in 0..REMEMBERED as u64 + 10 {
        journal.append(at(1), entry(number));
    }
    assert_eq!(journal.since(0, usize::MAX).len(), REMEMBERED);
}

#[test]
fn keeps_events_in_memory_when_the_disk_fails() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let full = fs::OpenOptions::new()
        .append(true)
        .open("/dev/full")
        .unwrap();
    let mut file = lock(&journal.file);
    file.storage.as_mut().unwrap().set_file(full);
    drop(file);
    assert_eq!(journal.append(at(1), entry(1)).id, 1);
    assert_eq!(journal.append(at(2), entry(2)).id, 2);
    assert_eq!(ids(&journal.since(0, 9)), [1, 2]);
}

#[test]
fn readers_do_not_wait_for_a_stalled_disk() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.append(at(1), entry(1));
    // A full pipe that nobody reads stalls the next write until its reader is closed.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let capacity = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
    writer.write_all(&vec![0; capacity as usize]).unwrap();
    let stalled = fs::File::from(std::os::fd::OwnedFd::from(writer));
    let mut file = lock(&journal.file);
    file.storage.as_mut().unwrap().set_file(stalled);
    drop(file);
    std::thread::scope(|scope| {
        let append = scope.spawn(|| journal.append(at(2), entry(2)));
        while journal.file.try_lock().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(ids(&journal.since(0, 9)), [1]);
        assert_eq!(ids(&journal.newest(9)), [1]);
        assert!(!append.is_finished());
        drop(reader);
        assert_eq!(append.join().unwrap().id, 2);
    });
    assert_eq!(ids(&journal.since(0, 9)), [1, 2]);
}

#[tokio::test]
async fn a_follower_gets_each_event_once() {
    let journal = Journal::in_memory();
    for number in 1..=600 {
        journal.append(at(1), entry(number));
    }
    let mut follower = journal.follow(10);
    for expected in 11..=300 {
        assert_eq!(follower.next().await.unwrap().id, expected);
    }
    // More than a subscriber may be behind.
    for number in 601..=3000 {
        journal.append(at(1), entry(number));
    }
    for expected in 301..=3000 {
        assert_eq!(follower.next().await.unwrap().id, expected);
    }
    let writer = journal.clone();
    let task = tokio::spawn(async move { follower.next().await.unwrap().id });
    tokio::task::yield_now().await;
    writer.append(at(1), entry(3001));
    assert_eq!(task.await.unwrap(), 3001);
}
