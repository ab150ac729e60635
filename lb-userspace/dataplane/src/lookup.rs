//! Single entries, looked up as the data path does and left as they are: for `explain`.

use lb_common::nat::{NatFlow, NatKey, NatReply, NatSource, Pattern, REPLY};

use super::{
    Members, Sessions,
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::{Mapped, Plain},
};

/// An entry of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// What is done with packets that match.
    pub flow: NatFlow,
    /// Whether the session has not been answered and followed yet.
    pub embryonic: bool,
}

impl Sessions {
    /// The entry that a packet with this key meets, if there is one. Does not count as a use of it. What
    /// an established session leaves to the tables of members and of NAT sources is looked up there.
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
