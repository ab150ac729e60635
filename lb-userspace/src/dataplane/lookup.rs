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
        for (table, name, embryonic) in [
            (&self.flows, name::NAT_FLOWS, false),
            (&self.embryonic, name::NAT_NEW, true),
        ] {
            match table.get(&Plain(*key), 0) {
                Ok(Plain(flow)) => return Ok(Some(SessionEntry { flow, embryonic })),
                Err(error) if is_missing(&error) => {}
                Err(error) => {
                    return Err(DataplaneError::map(
                        "look up a session",
                        name,
                        &error,
                        PRIVILEGE_HINT,
                    ));
                }
            }
        }
        Ok(None)
    }
}
