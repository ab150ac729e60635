//! The end of sessions: timeouts and the combined state of a session's two entries.

use std::collections::HashMap;

use lb_common::{
    nat::{NatRecord, idle_s, state},
    ring::MemberIndex,
};

/// Idle timeouts of sessions, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Open TCP.
    pub tcp_s: u32,
    /// TCP closed by both sides or reset: the last segments may still be on their way.
    pub closed_s: u32,
    /// Everything else.
    pub udp_s: u32,
    /// Embryonic: not confirmed by packets in both directions yet.
    pub embryonic_s: u32,
}

impl Default for SessionLimits {
    /// The values of RFC 5382 and RFC 4787: two hours and four minutes for open TCP, five minutes for
    /// UDP.
    fn default() -> Self {
        Self {
            tcp_s: 7440,
            closed_s: 60,
            udp_s: 300,
            embryonic_s: 60,
        }
    }
}

/// Whether two records belong to one session.
pub(super) fn is_same(a: &NatRecord, b: &NatRecord) -> bool {
    name_of(a) == name_of(b)
}

/// Common to both entries of a session, and unique to it.
fn name_of(session: &NatRecord) -> Name {
    (
        session.client,
        session.name(),
        session.member(),
        session.is_udp(),
    )
}

/// Client address, name word, member, and whether it is UDP.
type Name = (lb_common::Address, u64, MemberIndex, bool);

/// The combined state of each session's entries.
pub(super) struct States(HashMap<Name, State>);

/// The combined state of a session's entries.
#[derive(Clone, Copy)]
struct State {
    /// Flags: the entry for the backend's packets has them.
    flags: u32,
    /// Seconds since the last packet in either direction.
    idle_s: u16,
}

impl States {
    pub(super) fn of<'a>(sessions: impl IntoIterator<Item = &'a NatRecord>, now_s: u32) -> Self {
        let mut states = HashMap::new();
        for session in sessions {
            let idle_s = idle_s(session.seen_s, now_s);
            let state = states
                .entry(name_of(session))
                .or_insert(State { flags: 0, idle_s });
            state.flags |= session.state();
            state.idle_s = state.idle_s.min(idle_s);
        }
        Self(states)
    }

    pub(super) fn has_ended(&self, session: &NatRecord, limits: SessionLimits) -> bool {
        let Some(state) = self.0.get(&name_of(session)) else {
            return false;
        };
        let limit_s = if session.is_udp() {
            limits.udp_s
        } else if state::is_over(state.flags) {
            limits.closed_s
        } else {
            limits.tcp_s
        };
        u32::from(state.idle_s) >= limit_s
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use lb_common::{
        nat::{NatFlow, NatKey, REPLY},
        proto,
    };

    use super::*;

    const LIMITS: SessionLimits = SessionLimits {
        tcp_s: 1000,
        closed_s: 10,
        udp_s: 100,
        embryonic_s: 5,
    };

    fn session(protocol: u8) -> [(NatKey, NatFlow); 2] {
        let (client, vip, node, backend) = ([1; 2], [2; 2], [3; 2], [4; 2]);
        let flow = NatFlow {
            vip: 6,
            member: 7,
            nat_source: 5,
            nat_port_be: 30,
            ..NatFlow::zeroed()
        };
        let protocol = u16::from(protocol);
        let forth = NatKey {
            address: client,
            source_be: 10,
            dest_be: 20,
            scope: 6,
            protocol,
        };
        let back = NatKey {
            address: backend,
            source_be: 40,
            dest_be: 30,
            scope: 5 | REPLY,
            protocol,
        };
        [
            (
                forth,
                NatFlow {
                    source: node,
                    dest: backend,
                    source_be: 30,
                    dest_be: 40,
                    ..flow
                },
            ),
            (
                back,
                NatFlow {
                    source: vip,
                    dest: client,
                    source_be: 20,
                    dest_be: 10,
                    ..flow
                },
            ),
        ]
    }

    /// Whether a session with entries of these (last seen, flags) has ended at `now_s`. Both must
    /// agree.
    fn has_ended(protocol: u8, entries: &[(u32, u32)], now_s: u32) -> bool {
        let records: Vec<_> = (session(protocol).iter().zip(entries))
            .map(|((key, flow), &(seen_s, state))| {
                let flow = NatFlow {
                    seen_s,
                    state,
                    ..*flow
                };
                NatRecord::new(key, &flow)
            })
            .collect();
        let states = States::of(&records, now_s);
        let mut ended = records.iter().map(|one| states.has_ended(one, LIMITS));
        let first = ended.next().unwrap();
        assert!(ended.all(|ended| ended == first));
        first
    }

    #[test]
    fn matches_the_two_entries_of_a_session() {
        let [request, reply] = session(proto::TCP).map(|(key, flow)| NatRecord::new(&key, &flow));
        assert!(is_same(&request, &reply));
        let [other, _] = session(proto::UDP).map(|(key, flow)| NatRecord::new(&key, &flow));
        assert!(!is_same(&request, &other));
    }

    #[test]
    fn ends_a_session_as_a_whole() {
        let check = |a, b, now_s| has_ended(proto::TCP, &[a, b], now_s);
        // Open: idle since the later of the two.
        assert!(!check((0, 0), (500, 0), 1400));
        assert!(check((0, 0), (500, 0), 1500));
        // One FIN leaves it half open; both, or a reset, close it.
        let both = state::CLIENT_FIN | state::BACKEND_FIN;
        assert!(!check((0, 0), (0, state::CLIENT_FIN), 20));
        assert!(!check((0, 0), (0, state::BACKEND_FIN), 20));
        assert!(check((0, 0), (0, both), 20));
        assert!(!check((0, 0), (0, both), 9));
        assert!(check((0, 0), (0, state::RST), 20));
        // Another CPU is one second ahead.
        assert!(!check((21, 0), (0, state::RST), 20));
        // The entry for the replies is missing.
        assert!(!has_ended(proto::TCP, &[(0, 0)], 20));
    }

    #[test]
    fn applies_the_udp_timeout() {
        assert!(!has_ended(proto::UDP, &[(0, 0)], 99));
        assert!(has_ended(proto::UDP, &[(0, 0)], 100));
    }

    #[test]
    fn survives_a_clock_wrap() {
        let (at, now) = (65_530, 65_536 + 20);
        assert!(!has_ended(
            proto::TCP,
            &[(at + 20, 0), (at, state::RST)],
            now
        ));
        assert!(has_ended(
            proto::TCP,
            &[(at + 10, 0), (at, state::RST)],
            now
        ));
    }
}
