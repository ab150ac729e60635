use super::{ByteOrder, Bytes, error_of, frame, open, read, read_all};
use crate::capture::CaptureError;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

pub(super) fn header(order: ByteOrder, magic: u32, link_type: u32) -> Bytes {
    Bytes::new(order)
        .u32(magic)
        .u16(2)
        .u16(4)
        .u32(0)
        .u32(0)
        .u32(65535)
        .u32(link_type)
}

fn packet(file: Bytes, seconds: u32, fraction: u32, data: &[u8], original_len: u32) -> Bytes {
    let len = u32::try_from(data.len()).unwrap();
    file.u32(seconds)
        .u32(fraction)
        .u32(len)
        .u32(original_len)
        .raw(data)
}

pub(super) fn sample(order: ByteOrder) -> Vec<u8> {
    let file = header(order, MICROSECONDS, 1);
    let file = packet(file, 1_700_000_000, 999_999, b"first frame", 11);
    packet(file, 1_700_000_001, 1, b"cut", 1500).bytes
}

#[test]
fn reads_both_byte_orders_and_time_units() {
    for order in [ByteOrder::Big, ByteOrder::Little] {
        for (magic, nanoseconds) in [(MICROSECONDS, 123_456_000), (NANOSECONDS, 123_456)] {
            let file = packet(header(order, magic, 1), 1_700_000_000, 123_456, b"frame", 5);
            let expected = vec![frame(1_700_000_000, nanoseconds, b"frame", 5)];
            assert_eq!(read_all(&file.bytes), expected, "{order:?} {magic:x}");
        }
    }
}

#[test]
fn counts_frames_truncated_by_the_snap_length() {
    let mut capture = open(&sample(ByteOrder::Little)).unwrap();
    let frames: Vec<_> = capture.by_ref().map(Result::unwrap).collect();
    assert_eq!(
        frames.iter().map(super::Frame::is_cut).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!((capture.frames(), capture.cut_frames()), (2, 1));
}

#[test]
fn accepts_a_capture_without_packets() {
    assert_eq!(
        read_all(&header(ByteOrder::Little, MICROSECONDS, 1).bytes),
        []
    );
}

#[test]
fn corrects_a_frame_length_below_the_captured_length() {
    let file = packet(header(ByteOrder::Big, MICROSECONDS, 1), 0, 0, b"frame", 2);
    assert_eq!(read_all(&file.bytes), [frame(0, 0, b"frame", 5)]);
}

#[test]
fn accepts_fractions_above_a_second() {
    let file = packet(
        header(ByteOrder::Big, MICROSECONDS, 1),
        u32::MAX,
        u32::MAX,
        b"",
        0,
    );
    assert_eq!(
        read_all(&file.bytes),
        [frame(4_294_967_295 + 4294, 967_295_000, b"", 0)]
    );
}

#[test]
fn rejects_other_link_types() {
    for order in [ByteOrder::Big, ByteOrder::Little] {
        let error = open(&header(order, MICROSECONDS, 113).bytes)
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            error,
            "some.pcap: packet 1 has link type 113 (Linux cooked capture, as of `tcpdump -i any`), expected \
             Ethernet (1): capture on an Ethernet interface (`tcpdump -i eth0`, not `-i any`)"
        );
    }
}

#[test]
fn ignores_the_frame_check_sequence_bits_of_the_link_type() {
    assert_eq!(
        read_all(&header(ByteOrder::Little, MICROSECONDS, 0x2400_0001).bytes),
        []
    );
}

#[test]
fn returns_the_complete_packets_of_a_truncated_file() {
    let whole = sample(ByteOrder::Little);
    let (frames, error) = read(&whole[..whole.len() - 1]);
    assert_eq!(frames.len(), 1);
    match error.unwrap() {
        CaptureError::CutOff {
            packets: 1,
            start: 51,
            end: 69,
            ..
        } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn rejects_an_impossible_length_before_reading() {
    let file = header(ByteOrder::Little, MICROSECONDS, 1)
        .u32(0)
        .u32(0)
        .u32(u32::MAX)
        .u32(u32::MAX);
    assert_eq!(
        error_of(&file.bytes),
        "some.pcap is damaged: captured length 4294967295 exceeds the maximum of 262144, in the record at \
         byte 24, after 0 valid packets"
    );
}

#[test]
fn an_old_version_is_refused() {
    let file = Bytes::new(ByteOrder::Big)
        .u32(MICROSECONDS)
        .u16(2)
        .u16(2)
        .raw(&[0; 16]);
    assert!(error_of(&file.bytes).contains("version 2.2 of pcap is not supported"));
}
