//! The tables of NAT sessions: placement of entries, and load.

use lb_common::{
    address_v4, address_v6,
    member::Member,
    nat::{
        FREE_CELLS_LOW, NatFlow, NatKey, NatRecord, NatReply, Pattern, REPLY, WAYS, bucket_of,
        buckets_for, idle_s, state,
    },
    proto,
};

/// Keys of a session's client packet and reply: 16 backends, one NAT address.
fn session(number: u32) -> [NatKey; 2] {
    let key = |address, source_be, dest_be, scope| NatKey {
        address: address_v4(address),
        source_be,
        dest_be,
        scope,
        protocol: proto::TCP.into(),
    };
    let client = u32::from_be_bytes([10, 0, 0, 0]) + number / 1000;
    let backend = u32::from_be_bytes([192, 168, 0, 0]) + number % 16;
    let client_port = (20_000 + (number % 1000) as u16).to_be();
    let node_port = (1024 + (number / 16) as u16).to_be();
    [
        key(client.to_be(), client_port, 443_u16.to_be(), 3),
        key(backend.to_be(), 8443_u16.to_be(), node_port, REPLY),
    ]
}

/// Inserts like the data path.
#[test]
fn table_holds_the_sessions_it_is_sized_for() {
    const SESSIONS: u32 = 200_000;
    let buckets = buckets_for(SESSIONS);
    let mut tables = [(); 2].map(|()| vec![0; buckets as usize]);
    let mut second = 0;
    for key in (0..SESSIONS).flat_map(session) {
        let taken = &mut tables[usize::from(key.scope & REPLY != 0)];
        let hash = key.hash();
        let places = [(hash >> 32) as u32, hash as u32];
        let [a, b] = places.map(|half| bucket_of(half, buckets) as usize);
        let room = |at: usize| WAYS as u32 - taken[at];
        let in_first = room(a) > FREE_CELLS_LOW || room(a) >= room(b);
        let at = if in_first { a } else { b };
        assert!(room(at) > 0, "{key:?} finds no place");
        second += u32::from(!in_first);
        taken[at] += 1;
    }
    // A seventh, as its documentation says.
    assert!(
        (10..20).contains(&(second * 100 / (2 * SESSIONS))),
        "{second}"
    );
}

#[test]
fn last_word_matches_the_memory_layout() {
    let [key, reply] = session(77);
    let bytes = key.last_word().to_ne_bytes();
    assert_eq!(bytes[..2], key.source_be.to_ne_bytes());
    assert_eq!(bytes[2..4], key.dest_be.to_ne_bytes());
    assert_eq!(bytes[4..6], key.scope.to_ne_bytes());
    assert_eq!(bytes[6..], key.protocol.to_ne_bytes());
    assert_ne!(key.hash(), reply.hash());
}

#[test]
fn time_stamps_ahead_count_as_now() {
    assert_eq!(idle_s(10, 15), 5);
    assert_eq!(idle_s(16, 15), 0);
    assert_eq!(idle_s(u16::MAX - 1, 0x1_0003), 5, "the clock wraps");
}

/// All fields have their maximum, so that an overlap of packed fields shows.
#[test]
fn record_matches_its_two_keys_only() {
    let [client, backend, vip, node] = [1, 2, 3, 4].map(|number| address_v6([0xf0 | number; 16]));
    for protocol in [proto::TCP, proto::UDP] {
        let key = |address, source_be, dest_be, scope| NatKey {
            address,
            source_be,
            dest_be,
            scope,
            protocol: protocol.into(),
        };
        let request = key(client, 0xffff, 0xfffe, 1023);
        let reply = key(backend, 0xfffd, 0xfffc, 63 | REPLY);
        let forth = NatFlow {
            source: node,
            dest: backend,
            source_be: 0xfffc,
            dest_be: 0xfffd,
            member: 4095,
            vip: 1023,
            generation: 0xff,
            seen_s: 0xffff,
            state: state::CLIENT_FIN | state::BACKEND_FIN | state::RST,
            link: [0xff, 0xffff, 0],
            ifindex: 0,
            nat_port_be: 0xfffc,
            nat_source: 63,
        };
        let back = NatFlow {
            source: vip,
            dest: client,
            source_be: 0xfffe,
            dest_be: 0xffff,
            link: [u32::MAX; 3],
            ifindex: u32::MAX,
            ..forth
        };
        let member = Member {
            address: backend,
            port_be: 0xfffd,
            control: 0,
            next_hop: 0,
            source: vip,
            vary_mask: 0,
            outer_sum: 0,
            vip: 0,
            nat_source: 0,
            _pad: 0,
        };
        let session = NatRecord::new(&request, &forth);
        let cell = NatReply::new(&reply, &back);
        // What it says comes out as it went in.
        assert_eq!(session.flow(&member, node), forth);
        assert_eq!(cell.flow(&member), back);
        assert_eq!(session.name(), cell.session.name());
        assert_eq!(NatKey::from_words(reply.address, reply.last_word()), reply);
        let is_request =
            |key: &NatKey| Pattern::of(key).matches(session.name()) && session.is_of(key);
        let is_reply = |key: &NatKey| {
            Pattern::of(key).matches(cell.session.name())
                && cell.session.is_answered_by(&member, key)
        };
        assert!(is_request(&request) && is_reply(&reply));
        let others = |key: NatKey| {
            let other = |change: fn(&mut NatKey)| {
                let mut other = key;
                change(&mut other);
                other
            };
            [
                other(|key| key.address[0] ^= 1),
                other(|key| key.address[1] ^= 1 << 63),
                other(|key| key.source_be ^= 1),
                other(|key| key.dest_be ^= 1 << 15),
                other(|key| key.scope ^= 1),
            ]
        };
        assert!(others(request).iter().all(|key| !is_request(key)));
        assert!(others(reply).iter().all(|key| !is_reply(key)));
        let mut other = reply;
        other.protocol = (proto::TCP ^ proto::UDP ^ protocol).into();
        assert!(
            !is_reply(&other),
            "the protocol of a client's packet is its VIP's"
        );
    }
}
