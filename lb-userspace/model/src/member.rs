//! The identity of a member across revisions: what the configuration calls it.

use std::fmt;

/// A backend of a VIP, by the names in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberRef {
    /// Name of the VIP.
    pub vip: String,
    /// Name of the backend.
    pub backend: String,
}

impl MemberRef {
    /// Names a backend of a VIP.
    pub fn new(vip: impl Into<String>, backend: impl Into<String>) -> Self {
        Self {
            vip: vip.into(),
            backend: backend.into(),
        }
    }

    /// Returns the name in commands: `web/api-1`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.vip, self.backend)
    }
}

impl fmt::Display for MemberRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {} of VIP {}", self.backend, self.vip)
    }
}
