use super::{ByteOrder, Bytes, error_of, frame, open, read, read_all};
use crate::capture::CaptureError;

fn block(file: Bytes, block_type: u32, body: &Bytes) -> Bytes {
    let len = u32::try_from(body.bytes.len()).unwrap() + 12;
    // A section may have another byte order than the one before it.
    let file = Bytes {
        order: body.order,
        ..file
    };
    file.u32(block_type).u32(len).raw(&body.bytes).u32(len)
}

fn section(file: Bytes, order: ByteOrder) -> Bytes {
    let body = Bytes::new(order).u32(0x1a2b_3c4d).u16(1).u16(0).i64(-1);
    block(file, 0x0a0d_0d0a, &body)
}

fn interface(file: Bytes, link_type: u16, snap_len: u32, options: &[(u16, &[u8])]) -> Bytes {
    let mut body = Bytes::new(file.order).u16(link_type).u16(0).u32(snap_len);
    for (code, value) in options {
        body = body
            .u16(*code)
            .u16(u16::try_from(value.len()).unwrap())
            .raw(value)
            .padded();
    }
    block(file, 1, &body)
}

fn enhanced(file: Bytes, interface: u32, time: u64, data: &[u8], original_len: u32) -> Bytes {
    let body = Bytes::new(file.order).u32(interface);
    block(file, 6, &timed(body, time, data, original_len))
}

/// What enhanced and old packets have in common: data is padded, then options may follow.
fn timed(body: Bytes, time: u64, data: &[u8], original_len: u32) -> Bytes {
    let (high, low) = ((time >> 32) as u32, time as u32);
    let len = u32::try_from(data.len()).unwrap();
    let body = body
        .u32(high)
        .u32(low)
        .u32(len)
        .u32(original_len)
        .raw(data)
        .padded();
    body.u16(1).u16(2).raw(b"hi").padded().u32(0)
}

fn simple(file: Bytes, original_len: u32, data: &[u8]) -> Bytes {
    let body = Bytes::new(file.order).u32(original_len).raw(data).padded();
    block(file, 3, &body)
}

fn start(order: ByteOrder) -> Bytes {
    section(Bytes::new(order), order)
}

/// Every kind of block, two sections of different byte order.
pub(super) fn sample() -> Vec<u8> {
    let mut file = Bytes::new(ByteOrder::Big);
    for order in [ByteOrder::Little, ByteOrder::Big] {
        file = section(file, order);
        file = interface(file, 1, 8, &[(2, b"eth0"), (9, &[6])]);
        file = interface(file, 1, 0, &[(9, &[9]), (0, b"")]);
        file = enhanced(file, 1, 1_700_000_000_123_456_789, b"enhanced", 8);
        file = block(file, 5, &Bytes::new(order).raw(b"statistics, or what ever"));
        file = simple(file, 100, b"simple p");
        let old = Bytes::new(order).u16(0).u16(7);
        file = block(file, 2, &timed(old, 1_700_000_000_123_456, b"old", 60));
    }
    file.bytes
}

#[test]
fn reads_all_packet_blocks_of_all_sections() {
    let one = [
        frame(1_700_000_000, 123_456_789, b"enhanced", 8),
        frame(0, 0, b"simple p", 100),
        frame(1_700_000_000, 123_456_000, b"old", 60),
    ];
    let mut capture = open(&sample()).unwrap();
    let frames: Vec<_> = capture.by_ref().map(Result::unwrap).collect();
    assert_eq!(frames, [one.clone(), one].concat());
    assert_eq!((capture.frames(), capture.cut_frames()), (6, 4));
}

#[test]
fn strips_the_padding_of_simple_packets() {
    let file = interface(start(ByteOrder::Little), 1, 0, &[]);
    assert_eq!(
        read_all(&simple(file, 5, b"frame").bytes),
        [frame(0, 0, b"frame", 5)]
    );
}

#[test]
fn applies_the_time_unit_and_offset_of_the_interface() {
    const TWO_SECONDS_EARLIER: [u8; 8] = (-2_i64).to_be_bytes();
    type Options = [(u16, &'static [u8])];
    let cases: [(&Options, u64, (u64, u32)); 9] = [
        (&[], 1_500_000, (1, 500_000_000)),
        (&[(9, &[0])], 7, (7, 0)),
        (&[(9, &[3])], 1_500, (1, 500_000_000)),
        (&[(9, &[0x80 | 10])], 1024 + 256, (1, 250_000_000)),
        (&[(9, &[12])], 1_000_000_001_000, (1, 1)),
        (
            &[(9, &[9]), (14, &TWO_SECONDS_EARLIER)],
            5_000_000_001,
            (3, 1),
        ),
        (&[(14, &TWO_SECONDS_EARLIER)], 1_000_000, (0, 0)),
        (&[(9, &[127])], u64::MAX, (0, 0)),
        (&[(9, &[0])], u64::MAX, (u64::MAX, 0)),
    ];
    for (options, time, (seconds, nanoseconds)) in cases {
        let file = interface(start(ByteOrder::Big), 1, 0, options);
        let frames = read_all(&enhanced(file, 0, time, b"frame", 5).bytes);
        assert_eq!(
            frames,
            [frame(seconds, nanoseconds, b"frame", 5)],
            "{options:?} {time}"
        );
    }
}

#[test]
fn fails_at_the_first_packet_of_another_link_type() {
    let file = interface(start(ByteOrder::Little), 1, 0, &[]);
    let file = interface(file, 276, 0, &[]);
    let file = enhanced(file, 0, 0, b"frame", 5);
    assert_eq!(read_all(&file.bytes).len(), 1);
    match read(&enhanced(file, 1, 0, b"cooked", 6).bytes) {
        (
            frames,
            Some(CaptureError::LinkType {
                packet: 2,
                found: 276,
                ..
            }),
        ) => {
            assert_eq!(frames.len(), 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn interfaces_end_with_their_section() {
    let file = interface(start(ByteOrder::Little), 1, 0, &[]);
    let file = enhanced(section(file, ByteOrder::Little), 0, 0, b"frame", 5);
    assert!(error_of(&file.bytes).contains("packet of interface 0, but the section has 0"));
}

#[test]
fn reports_damaged_blocks() {
    let file = interface(start(ByteOrder::Little), 1, 0, &[]);
    let with = |block_type, body: Bytes| block(file.clone(), block_type, &body).bytes;
    let little = || Bytes::new(ByteOrder::Little);
    let long = timed_head(little().u32(0), 300_000);
    let outside = timed_head(little().u32(0), 8);
    let option = little().u16(1).u16(0).u32(0).u16(9).u16(200);
    let cases = [
        (
            with(6, long),
            "captured length 300000 exceeds the maximum of 262144",
        ),
        (with(6, outside), "record needs 8 more bytes but has 0"),
        (
            with(6, little().u32(0)),
            "record needs 4 more bytes but has 0",
        ),
        (
            with(3, little().u32(99).raw(b"short...")),
            "record needs 99 more bytes but has 8",
        ),
        (with(1, option), "record needs 200 more bytes but has 0"),
        (
            file.clone().u32(5).u32(8).raw(&[0; 8]).bytes,
            "block length 8 must",
        ),
        (
            file.clone().u32(5).u32(13).raw(&[0; 8]).bytes,
            "block length 13 must",
        ),
        (
            file.clone().u32(5).u32(!3).bytes,
            "block length 4294967292 must",
        ),
        (
            file.clone().u32(5).u32(12).u32(16).bytes,
            "block length is 12 at its start and 16 at its end",
        ),
        (
            file.clone().u32(0x0a0d_0d0a).u32(28).raw(&[0; 24]).bytes,
            "without the byte-order magic",
        ),
        (
            file.clone().u32(0x0a0d_0d0a).u32(12).u32(0x1a2b_3c4d).bytes,
            "section header of 12 bytes",
        ),
    ];
    for (bytes, expected) in cases {
        let error = error_of(&bytes);
        assert!(error.contains(expected), "{error}\nshould say: {expected}");
        assert!(
            error.contains(&format!("at byte {}", file.bytes.len())),
            "{error}"
        );
    }
}

fn timed_head(body: Bytes, captured_len: u32) -> Bytes {
    body.u32(0).u32(0).u32(captured_len).u32(captured_len)
}

#[test]
fn rejects_other_versions() {
    let body = Bytes::new(ByteOrder::Big)
        .u32(0x1a2b_3c4d)
        .u16(2)
        .u16(0)
        .i64(-1);
    let file = block(Bytes::new(ByteOrder::Big), 0x0a0d_0d0a, &body);
    assert!(error_of(&file.bytes).contains("version 2.0 of pcapng is not supported"));
}
