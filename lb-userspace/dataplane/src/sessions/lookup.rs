//! Looks up single sessions as the data path does, for `explain`.

use lb_common::{
    nat::{IndexWord, NatFlow, NatKey, NatReply, NatSource, Pattern, REPLY, WAYS, way},
    track,
};

use super::Sessions;
use crate::{Members, error::Result, mapping::Mapped};

/// One of a session's two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    pub flow: NatFlow,
    /// Whether the session is not confirmed by packets in both directions yet.
    pub embryonic: bool,
}

impl Sessions {
    /// The entry for a packet with this key, without refreshing it. `flow_hash` is that of a client's
    /// packet, and is not needed for a backend's. Entries of established sessions
    /// are completed from the members and NAT sources that they refer to.
    pub fn find(
        &self,
        key: &NatKey,
        flow_hash: u64,
        members: &Members,
        sources: &Mapped<NatSource>,
    ) -> Result<Option<SessionEntry>> {
        let is_reply = key.scope & REPLY != 0;
        let established = if is_reply {
            self.find_reply(key, members)?
        } else {
            self.find_request(key, members, sources)?
        };
        if established.is_some() {
            return Ok(established);
        }
        if !is_reply {
            return self.find_by_index(key, flow_hash, members, sources);
        }
        let Some(cell) = self.find_embryonic(key, members)? else {
            return Ok(None);
        };
        let member = members.read(cell.session.member())?;
        Ok(Some(SessionEntry {
            flow: cell.flow(&member),
            embryonic: true,
        }))
    }

    /// The embryonic session of a client's packet.
    fn find_by_index(
        &self,
        key: &NatKey,
        flow_hash: u64,
        members: &Members,
        sources: &Mapped<NatSource>,
    ) -> Result<Option<SessionEntry>> {
        let place = track::Place::of(flow_hash);
        let ways = track::WAYS as u32;
        let first = (place.bucket & (self.index.len() / ways - 1)) * ways;
        for way in 0..ways {
            let word = IndexWord(self.index.read(first + way)?);
            if !word.is_of(place.tag) {
                continue;
            }
            let member = members.read(word.member())?;
            let reply_key = NatKey {
                address: member.address,
                source_be: match member.port_be {
                    0 => key.dest_be,
                    port_be => port_be,
                },
                dest_be: word.nat_port_be(),
                scope: member.nat_source | REPLY,
                protocol: key.protocol,
            };
            let cell = self.find_embryonic(&reply_key, members)?;
            let session = cell.map(|cell| cell.session);
            let Some(session) = session
                .filter(|session| Pattern::of(key).matches(session.name()) && session.is_of(key))
            else {
                return Ok(None);
            };
            let source = sources.read(session.nat_source().into())?;
            return Ok(Some(SessionEntry {
                flow: session.flow(&member, source.address),
                embryonic: true,
            }));
        }
        Ok(None)
    }

    /// The embryonic session of a backend's packet.
    fn find_embryonic(&self, key: &NatKey, members: &Members) -> Result<Option<NatReply>> {
        let (hash, ways) = (key.hash(), WAYS as u32);
        let mask = self.embryonic.len() / ways - 1;
        let first = ((hash >> 32) as u32 & mask) * ways;
        for step in 0..WAYS {
            let cell = self.embryonic.read(first + way(hash, step) as u32)?;
            if Pattern::of(key).matches(cell.session.name()) {
                let member = members.read(cell.session.member())?;
                if cell.session.is_answered_by(&member, key) {
                    return Ok(Some(cell));
                }
            }
        }
        Ok(None)
    }

    fn find_request(
        &self,
        key: &NatKey,
        members: &Members,
        sources: &Mapped<NatSource>,
    ) -> Result<Option<SessionEntry>> {
        for place in self.places(key) {
            let session = self.requests.read(place)?;
            if Pattern::of(key).matches(session.name()) && session.is_of(key) {
                let member = members.read(session.member())?;
                let source = sources.read(session.nat_source().into())?;
                return Ok(established(session.flow(&member, source.address)));
            }
        }
        Ok(None)
    }

    fn find_reply(&self, key: &NatKey, members: &Members) -> Result<Option<SessionEntry>> {
        for place in self.places(key) {
            let cell = self.replies.read(place)?;
            if Pattern::of(key).matches(cell.session.name()) {
                let member = members.read(cell.session.member())?;
                if cell.session.is_answered_by(&member, key) {
                    return Ok(established(cell.flow(&member)));
                }
            }
        }
        Ok(None)
    }
}

const fn established(flow: NatFlow) -> Option<SessionEntry> {
    Some(SessionEntry {
        flow,
        embryonic: false,
    })
}
