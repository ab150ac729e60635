//! The peer of a connection, as the kernel reports it.

use std::{fmt, fs};

use lb_model::text::printable;
use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

/// A user and a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: String,
    is_root: bool,
}

impl Caller {
    /// The controller itself: a start, a signal, a deadline.
    #[must_use]
    pub fn itself(what: &str) -> Self {
        Self::named(what, 0)
    }

    fn named(name: impl Into<String>, uid: u32) -> Self {
        Self {
            name: name.into(),
            is_root: uid == 0,
        }
    }

    /// Whether the caller may read secrets.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.is_root
    }

    /// `root (evenkeel, pid 4711)`.
    fn of(uid: u32, pid: Option<i32>) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let user = user.map_or_else(|| format!("uid {uid}"), |user| user.name);
        // The process may be gone, or in a namespace that has no number here.
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            return Self::named(user, uid);
        };
        let command = fs::read_to_string(format!("/proc/{pid}/comm"));
        let command = command.map(|text| printable(text.trim()).into_owned());
        let name = match command {
            Ok(command) if !command.is_empty() => format!("{user} ({command}, pid {pid})"),
            _ => format!("{user} (pid {pid})"),
        };
        Self::named(name, uid)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl From<&UnixStream> for Caller {
    fn from(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(peer) => Self::of(peer.uid(), peer.pid()),
            Err(error) => Self::named(format!("unknown ({error})"), u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_named_by_user_and_process() {
        let me = Caller::of(0, Some(std::process::id() as i32)).to_string();
        assert!(me.starts_with("root (") && me.contains("pid "), "{me}");
        let other = Caller::of(4_000_000_000, None);
        assert_eq!(other.to_string(), "uid 4000000000");
        assert!(!other.is_root() && Caller::of(0, None).is_root());
    }
}
