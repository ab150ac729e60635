//! Single entries, looked up as the data path does and left as they are: for `explain`.

use lb_common::nat::{NatFlow, NatKey};

use super::{
    Sessions,
    catalog::name,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
    is_missing,
    mapping::Plain,
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
    /// The entry that a packet with this key meets, if there is one. Does not count as a use of it.
    pub fn find(&self, key: &NatKey) -> Result<Option<SessionEntry>> {
        for place in self.places(key) {
            let cell = self.flows.read(place)?;
            if cell.key == *key {
                return Ok(Some(SessionEntry {
                    flow: cell.flow,
                    embryonic: false,
                }));
            }
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
}
