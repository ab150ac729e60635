//! Arbitrarily damaged files: no panics, no invented frames.

use proptest::prelude::*;

use super::{ByteOrder, classic, error_of, ng, read, read_all};
use crate::capture::{self, CaptureError};

fn samples() -> [Vec<u8>; 3] {
    [
        classic::sample(ByteOrder::Big),
        classic::sample(ByteOrder::Little),
        ng::sample(),
    ]
}

#[test]
fn returns_the_complete_packets_of_a_capture_cut_at_any_byte() {
    for whole in samples() {
        let frames = read_all(&whole);
        let mut ends_between_packets = 0;
        for len in 0..whole.len() {
            let (some, error) = read(&whole[..len]);
            assert_eq!(some, frames[..some.len()], "cut at {len}");
            match error {
                None => ends_between_packets += 1,
                Some(CaptureError::NotACapture { .. }) => assert!(len < 4, "cut at {len}"),
                Some(CaptureError::CutOff {
                    packets,
                    start,
                    end,
                    ..
                }) => {
                    assert_eq!((packets, end), (some.len() as u64, len as u64));
                    assert!(start < end, "cut at {len}");
                }
                Some(other) => panic!("cut at {len}: {other}"),
            }
        }
        // A cut between two packets is not detectable.
        assert!(
            (2..=14).contains(&ends_between_packets),
            "{ends_between_packets}"
        );
    }
}

#[test]
fn rejects_files_that_are_not_captures() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "it is empty"),
        (b"\xa1\xb2", "less than four bytes"),
        (b"\x1f\x8b\x08\x00abc", "run `gunzip`"),
        (b"\x28\xb5\x2f\xfdabc", "run `unzstd`"),
        (
            b"[[vip]]\nname",
            "neither the magic number of pcap nor that of pcapng",
        ),
    ];
    for (bytes, expected) in cases {
        let error = error_of(bytes);
        assert!(
            error.starts_with("some.pcap is not a packet capture: "),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn names_files_that_cannot_be_read() {
    let error = capture::read("/nonexistent/x.pcap")
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("cannot open the capture /nonexistent/x.pcap: No such file"),
        "{error}"
    );
    let error = capture::read("/").err().unwrap().to_string();
    assert!(
        error.starts_with("cannot read the capture / at byte 0: Is a directory"),
        "{error}"
    );
}

#[test]
fn nothing_follows_an_error() {
    // Bytes that look like a packet follow the damaged one.
    let bytes = [
        classic::sample(ByteOrder::Big),
        vec![0xff; 16],
        vec![0; 160],
    ]
    .concat();
    let mut capture = super::open(&bytes).unwrap();
    assert!(capture.next().unwrap().is_ok());
    assert!(capture.next().unwrap().is_ok());
    assert!(capture.next().unwrap().is_err());
    assert!(capture.next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_bytes_never_panic(
        which in 0_usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = samples()[which].clone();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        let (frames, _) = read(&bytes);
        let data: usize = frames.iter().map(|frame| frame.data.len()).sum();
        prop_assert!(data <= bytes.len());
        prop_assert!(frames.iter().all(|frame| frame.data.len() <= frame.original_len as usize));
    }

    #[test]
    fn any_bytes_after_a_magic_number_never_panic(
        magic in prop::sample::select(vec![
            *b"\xa1\xb2\xc3\xd4", *b"\x4d\x3c\xb2\xa1", *b"\x0a\x0d\x0d\x0a",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [magic.as_slice(), &rest].concat();
        let (frames, _) = read(&bytes);
        prop_assert!(frames.iter().map(|frame| frame.data.len()).sum::<usize>() <= bytes.len());
    }
}
