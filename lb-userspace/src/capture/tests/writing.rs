use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink},
    process::Command,
    thread,
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use pcap_file::{DataLink, TsResolution, pcap::PcapReader};
use proptest::prelude::*;

use crate::capture::{self, Frame, Writer};

fn write(path: &std::path::Path, frames: &[Frame]) -> u64 {
    let mut writer = Writer::create(path).unwrap();
    for frame in frames {
        writer.write(frame.timestamp, &frame.data).unwrap();
    }
    writer.finish().unwrap()
}

fn frames() -> Vec<Frame> {
    let large = vec![7; 9000];
    let data = [b"one".as_slice(), b"", &large];
    (1..)
        .zip(data)
        .map(|(n, data)| super::frame(n, 999_999_000, data, data.len() as u32))
        .collect()
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn writes_what_this_reader_and_pcap_file_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcap");
    assert_eq!(write(&path, &frames()), 3);
    let read: Vec<_> = capture::read(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, frames());

    // The other library has a snap length of its own idea, hence the header is checked by hand.
    let mut other = PcapReader::new(fs::File::open(&path).unwrap()).unwrap();
    let header = other.header();
    assert_eq!(header.datalink, DataLink::ETHERNET);
    assert_eq!(header.ts_resolution, TsResolution::MicroSecond);
    assert_eq!(
        (header.version_major, header.version_minor, header.snaplen),
        (2, 4, 262_144)
    );
    for expected in frames() {
        let packet = other.next_packet().unwrap().unwrap();
        assert_eq!(packet.timestamp, expected.timestamp);
        assert_eq!(packet.data, expected.data);
    }
    assert!(other.next_packet().is_none());
}

#[test]
fn tcpdump_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcap");
    // An Ethernet frame with IPv4 and UDP, 192.0.2.1:53 > 192.0.2.2:4660, with right checksums.
    let udp = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0\x45\0\0\x1c\0\0\0\0\x40\x11\xf6\xcd\
        \xc0\0\x02\x01\xc0\0\x02\x02\0\x35\x12\x34\0\x08\0\0";
    write(&path, &[super::frame(1, 0, udp, 42)]);
    let Ok(output) = Command::new("tcpdump")
        .args(["-nn", "-vv", "-tt", "-r"])
        .arg(&path)
        .output()
    else {
        super::recorded::skip(
            "capture: tcpdump reads what is written",
            "there is no tcpdump",
        );
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("1.000000 IP"), "{said}");
    assert!(said.contains("192.0.2.1.53 > 192.0.2.2.4660"), "{said}");
    assert!(!said.contains("bad"), "{said}");
}

#[test]
fn an_unfinished_capture_leaves_nothing_and_keeps_an_existing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcap");
    let mut writer = Writer::create(&path).unwrap();
    writer.write(Duration::ZERO, b"frame").unwrap();
    drop(writer);
    assert_eq!(names(folder.path()), [""; 0]);

    fs::write(&path, "old").unwrap();
    let mut writer = Writer::create(&path).unwrap();
    writer.write(Duration::ZERO, b"frame").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(writer);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    write(&path, &frames());
    assert_eq!(names(folder.path()), ["out.pcap"]);
    assert_eq!(capture::read(&path).unwrap().count(), 3);
}

#[test]
fn replaces_the_target_of_a_symbolic_link() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "old").unwrap();
    symlink(&file, &link).unwrap();
    write(&link, &frames());
    assert!(link.is_symlink());
    assert_eq!(capture::read(&file).unwrap().count(), 3);

    // The file may not be there yet, the link's folder is another, and there may be links of links.
    fs::remove_file(&file).unwrap();
    fs::create_dir(folder.path().join("links")).unwrap();
    let (first, second) = (folder.path().join("links/1"), folder.path().join("links/2"));
    symlink("../file", &second).unwrap();
    symlink("2", &first).unwrap();
    write(&first, &frames());
    assert!(first.is_symlink() && second.is_symlink());
    assert_eq!(capture::read(&file).unwrap().count(), 3);
    let circle = folder.path().join("circle");
    symlink("circle", &circle).unwrap();
    assert!(Writer::create(&circle).is_err());
}

#[test]
fn a_new_capture_is_private_and_a_replaced_one_keeps_mode_and_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcap");
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    write(&path, &frames());
    assert_eq!(mode(), 0o600);
    for kept in [0o600, 0o640, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(kept)).unwrap();
        write(&path, &frames());
        assert_eq!(mode(), kept, "{kept:o}");
    }
    if nix::unistd::geteuid().is_root() {
        chown(&path, Some(65534), Some(65534)).unwrap();
        write(&path, &frames());
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (65534, 65534));
    }
}

/// So a killed process leaves nothing.
#[test]
fn an_unfinished_capture_is_unnamed() {
    let folder = tempfile::tempdir().unwrap();
    let mut nameless = fs::OpenOptions::new();
    nameless.write(true).custom_flags(libc::O_TMPFILE);
    if let Err(error) = nameless.open(folder.path()) {
        super::recorded::skip(
            "capture: an unfinished capture is unnamed",
            &format!("the file system of {}: {error}", folder.path().display()),
        );
        return;
    }
    let path = folder.path().join("out.pcap");
    let mut writer = Writer::create(&path).unwrap();
    writer.write(Duration::ZERO, b"frame").unwrap();
    assert_eq!(names(folder.path()), [""; 0]);
    writer.finish().unwrap();
    assert_eq!(names(folder.path()), ["out.pcap"]);
}

#[test]
fn writes_to_a_pipe_without_replacing_it() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let reader = {
        let pipe = pipe.clone();
        thread::spawn(move || {
            capture::read(&pipe)
                .unwrap()
                .map(Result::unwrap)
                .collect::<Vec<_>>()
        })
    };
    write(&pipe, &frames());
    assert_eq!(reader.join().unwrap(), frames());
    assert_eq!(names(folder.path()), ["pipe"]);
}

#[test]
fn rejects_frames_that_the_format_cannot_store_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.pcap");
    let mut writer = Writer::create(&path).unwrap();
    writer.write(Duration::ZERO, b"frame").unwrap();
    let error = writer
        .write(Duration::ZERO, &vec![0; 262_145])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot write packet 2 to ") && error.contains("262145 bytes"),
        "{error}"
    );
    let error = writer
        .write(Duration::from_secs(1 << 32), b"frame")
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot store times after 2106"), "{error}");
    writer
        .write(Duration::from_secs(u32::MAX.into()), &vec![0; 262_144])
        .unwrap();
    assert_eq!(writer.finish().unwrap(), 2);
    assert_eq!(capture::read(&path).unwrap().map(Result::unwrap).count(), 2);
}

#[test]
fn names_the_path_that_cannot_be_created() {
    let error = Writer::create("/nonexistent/out.pcap")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot create the capture /nonexistent/out.pcap: No such"),
        "{error}"
    );
    let error = Writer::create("/tmp").unwrap_err().to_string();
    assert_eq!(error, "cannot create the capture /tmp: it is a directory");
    assert!(Writer::create("").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_frames_come_back(
        frames in prop::collection::vec(
            (any::<u32>(), 0..1_000_000_u32, prop::collection::vec(any::<u8>(), 0..200)), 0..20),
    ) {
        let frames: Vec<Frame> = frames
            .into_iter()
            .map(|(seconds, micros, data)| {
                super::frame(seconds.into(), micros * 1000, &data, data.len() as u32)
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.pcap");
        prop_assert_eq!(write(&path, &frames), frames.len() as u64);
        let read: Vec<_> = capture::read(&path).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read, frames);
    }
}
