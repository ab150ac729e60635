//! Packets that a capture could not keep up with.

use super::*;

/// Statistics at the end of a capture: packets that the filter selects, lost, and delivered.
fn statistics(bytes: &[u8]) -> Option<[u64; 3]> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut found) = (0, None);
    while at < bytes.len() {
        let (kind, len) = (word(at), word(at + 4) as usize);
        assert!(len >= 12, "block {kind} of {len} bytes");
        if kind == 5 {
            // The three last options have 12 bytes each, then there are the end and the length.
            let number = |back: usize| {
                let start = at + len - back;
                u64::from_le_bytes(bytes[start..start + 8].try_into().unwrap())
            };
            found = Some([number(40), number(28), number(16)]);
        }
        at += len;
    }
    found
}

/// The body of a response with `transfer-encoding: chunked`.
fn dechunk(mut response: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let line_end =
        |bytes: &[u8], end: &[u8]| bytes.windows(end.len()).position(|w| w == end).unwrap();
    response = &response[line_end(response, b"\r\n\r\n") + 4..];
    loop {
        let end = line_end(response, b"\r\n");
        let len =
            usize::from_str_radix(std::str::from_utf8(&response[..end]).unwrap(), 16).unwrap();
        if len == 0 {
            return body;
        }
        body.extend(&response[end + 2..end + 2 + len]);
        response = &response[end + 2 + len + 2..];
    }
}

/// A client that does not read makes the buffer overflow: every lost packet is counted.
#[test]
fn losses_are_counted_exactly() {
    test("losses", |site| {
        let mut stream = UnixStream::connect(site.node.folder.join("api.sock")).unwrap();
        let body = json!({"vips": ["v"], "side": "in", "snap": 2048}).to_string();
        write!(
            stream,
            "POST /v1/capture HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        let before = site.counted();
        let frame = site.frame(VIP, 7, ACK).payload(vec![0; 1300]).bytes();
        for _ in 0..30_000 {
            site.wire.send(&frame).unwrap();
        }
        site.node
            .wait("all packets arrive", || site.counted() >= before + 30_000);
        let stopping = std::thread::spawn({
            let mut command = site.command(&["capture", "--stop"]);
            move || command.output().unwrap()
        });
        let mut response = head.to_vec();
        stream.read_to_end(&mut response).unwrap();
        let stopped = stopping.join().unwrap();
        assert!(stopped.status.success(), "{stopped:?}");
        let [matched, lost, delivered] = statistics(&dechunk(&response)).unwrap();
        println!("{delivered} captured, {lost} lost");
        assert_eq!(matched, 30_000);
        assert_eq!(lost + delivered, matched);
        assert!(lost > 0 && delivered > 0);
    });
}

/// What is not lost is in the file.
#[test]
fn a_flood_is_captured_without_an_uncounted_loss() {
    const PER_S: u64 = 120_000;
    test("flood", |site| {
        let mut capture = site.capture("flood", &["--vip", "v", "--side", "in"]);
        let before = site.counted();
        let frame = site.frame(VIP, 7, ACK).bytes();
        let start = Instant::now();
        let mut sent = 0_u64;
        while sent < 2 * PER_S {
            for _ in 0..256 {
                site.wire.send(&frame).unwrap();
            }
            sent += 256;
            let due = Duration::from_secs_f64(sent as f64 / PER_S as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let took = start.elapsed();
        site.node
            .wait("all packets arrive", || site.counted() >= before + sent);
        capture.signal(Signal::SIGINT);
        let said = capture.wait();
        let [matched, lost, delivered] = statistics(&fs::read(&capture.file).unwrap()).unwrap();
        println!("{:.0} packets/s: {said}", sent as f64 / took.as_secs_f64());
        assert_eq!(matched, sent);
        assert_eq!(lost + delivered, matched);
        assert_eq!(capture.frames() as u64, delivered);
    });
}

#[test]
fn a_limit_of_packets_per_second_is_kept() {
    test("rate", |site| {
        let mut capture = site.capture("rate", &["--vip", "v", "--rate", "10", "--side", "in"]);
        site.send(1000);
        capture.signal(Signal::SIGINT);
        let said = capture.wait();
        let [matched, lost, delivered] = statistics(&fs::read(&capture.file).unwrap()).unwrap();
        assert_eq!((matched, lost + delivered), (1000, 1000), "{said}");
        assert!(
            said.contains(&format!("{lost} lost ({lost}: more than the rate allows)")),
            "{said}"
        );
        // One second at most, unless the clock ticked meanwhile; on each CPU.
        let cpus = std::thread::available_parallelism().unwrap().get() as u64;
        assert!((10..=30 * cpus).contains(&delivered), "{said}");
    });
}
