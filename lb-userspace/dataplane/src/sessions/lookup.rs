//! Looks up single sessions as the data path does, for `explain`.

use lb_common::nat::{NatFlow, NatKey, NatReply, NatSource, Pattern, REPLY};

use super::Sessions;
use crate::{
    Members,
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::{Mapped, Plain},
};

/// One of a session's two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    pub flow: NatFlow,
    /// Whether the session is not confirmed by packets in both directions yet.
    pub embryonic: bool,
}

impl Sessions {
    /// The entry for a packet with this key, without refreshing it. Entries of established sessions
    /// are completed from the members and NAT sources that they refer to.
    pub fn find(
        &self,
        key: &NatKey,
        members: &Members,
        sources: &Mapped<NatSource>,
    ) -> Result<Option<SessionEntry>> {
        let established = if key.scope & REPLY == 0 {
            self.find_request(key, members, sources)?
        } else {
            self.find_reply(key, members)?.map(|cell| cell.flow())
        };
        if let Some(flow) = established {
            return Ok(Some(SessionEntry {
                flow,
                embryonic: false,
            }));
        }
        match self.embryonic.get(&Plain(*key), 0) {
            Ok(Plain(flow)) => Ok(Some(SessionEntry {
                flow,
                embryonic: true,
            })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(DataplaneError::map(
                "look up a session",
                name::NAT_NEW,
                &error,
                PRIVILEGE_HINT,
            )),
        }
    }

    fn find_request(
        &self,
        key: &NatKey,
        members: &Members,
        sources: &Mapped<NatSource>,
    ) -> Result<Option<NatFlow>> {
        for place in self.places(key) {
            let session = self.requests.read(place)?;
            if Pattern::of(key).matches(session.name()) && session.is_of(key) {
                let member = members.read(session.member())?;
                let source = sources.read(session.nat_source().into())?;
                return Ok(Some(session.flow(&member, source.address)));
            }
        }
        Ok(None)
    }

    fn find_reply(&self, key: &NatKey, members: &Members) -> Result<Option<NatReply>> {
        for place in self.places(key) {
            let cell = self.replies.read(place)?;
            if Pattern::of(key).matches(cell.session.name()) {
                let member = members.read(cell.session.member())?;
                if cell.session.is_answered_by(&member, key) {
                    return Ok(Some(cell));
                }
            }
        }
        Ok(None)
    }
}
