//! The peer of a connection, as the kernel reports it.

use std::{fmt, fs};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use nix::unistd::{Uid, User};
use tokio::net::UnixListener;

/// A user and a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(String);

impl Caller {
    /// The controller itself: a start, a signal, a deadline.
    #[must_use]
    pub fn itself(what: &str) -> Self {
        Self(what.to_owned())
    }

    /// `root (evenkeel, pid 4711)`.
    fn of(uid: u32, pid: Option<i32>) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let user = user.map_or_else(|| format!("uid {uid}"), |user| user.name);
        // The process may be gone, or in a namespace that has no number here.
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            return Self(user);
        };
        let command = fs::read_to_string(format!("/proc/{pid}/comm"));
        let command = command.map(|text| printable(text.trim()));
        Self(match command {
            Ok(command) if !command.is_empty() => format!("{user} ({command}, pid {pid})"),
            _ => format!("{user} (pid {pid})"),
        })
    }
}

/// A process chooses its own name, which must not reach a terminal with control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(peer) => Self::of(peer.uid(), peer.pid()),
            Err(error) => Self(format!("unknown ({error})")),
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
        assert_eq!(
            Caller::of(4_000_000_000, None).to_string(),
            "uid 4000000000"
        );
    }
}
