//! Any bytes from a BGP or BFD peer are a message, the beginning of one, or refused with a NOTIFICATION that a
//! peer can decode.

use lb_announce::bfd::packet::Packet;
use lb_announce::bgp::message::{HEADER, LONGEST, Message, decode};

/// Panics if it does not hold.
pub(crate) fn hold(mut data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }
    loop {
        match decode(data) {
            Ok(Some((message, length))) => {
                assert!((HEADER..=LONGEST).contains(&length) && length <= data.len());
                encode(message);
                data = &data[length..];
            }
            Ok(None) => {
                // More bytes can't complete a message that is too long.
                assert!(data.len() < LONGEST);
                return;
            }
            Err(error) => {
                assert!(matches!(error.code, 1..=3), "{error}");
                let encoded = error.encode();
                let decoded = decode(&encoded).expect("our own NOTIFICATION is valid");
                assert_eq!(decoded, Some((Message::Notification(error), encoded.len())));
                return;
            }
        }
    }
}

/// What we can send as well is the same after it was sent.
fn encode(message: Message) {
    let bytes = match &message {
        Message::Open(open) => open.encode(),
        Message::Notification(error) => {
            assert!(!error.to_string().contains(char::is_control));
            error.encode()
        }
        Message::Update(_) | Message::Keepalive | Message::RouteRefresh(_) => return,
    };
    assert_eq!(
        decode(&bytes).map(|it| it.map(|it| it.0)),
        Ok(Some(message))
    );
}
