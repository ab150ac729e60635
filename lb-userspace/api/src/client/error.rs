//! Why no answer came, and what to do.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Gid, Group};
use thiserror::Error;

use crate::{ApiError, ErrorCode};

/// Why a request has no answer that could be used.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no controller answers at {socket}: is `evenkeel run` running?")]
    NoController {
        /// Path of the socket.
        socket: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket is not for us.
    #[error("{socket} may only be used by {allowed}: use sudo, or add the user to the group")]
    NotPermitted {
        /// Path of the socket.
        socket: String,
        /// Who may use it, in words.
        allowed: String,
    },
    /// The controller went away, or says what is not HTTP.
    #[error("the controller at {socket} ended while it was asked for {path}; ask again")]
    Interrupted {
        /// Path of the socket.
        socket: String,
        /// What was asked for.
        path: String,
        /// How it ended.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the controller at {socket} did not answer {path} within {seconds} s")]
    Late {
        /// Path of the socket.
        socket: String,
        /// What was asked for.
        path: String,
        /// How long it had.
        seconds: u64,
    },
    /// An answer that we can't read: a controller of another version.
    #[error(
        "the controller's answer to {path} (HTTP {status}) can't be read: is it of another version \
         than this command ({})?", env!("CARGO_PKG_VERSION")
    )]
    Unreadable {
        /// What was asked for.
        path: String,
        /// Status of HTTP.
        status: u16,
        /// What could not be read.
        source: serde_json::Error,
    },
    /// The controller says no.
    #[error("{}", .0.message)]
    Api(Box<ApiError>),
}

impl ClientError {
    /// What the controller said, if it was that.
    #[must_use]
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the controller said no for this reason.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.api().is_some_and(|error| error.code == code)
    }

    /// Whether asking again may go better: the controller is away, or was when it should answer, or
    /// is ending.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoController { .. } | Self::Interrupted { .. } | Self::Late { .. } => true,
            Self::Api(error) => error.code == ErrorCode::Failed,
            Self::NotPermitted { .. } | Self::Unreadable { .. } => false,
        }
    }

    pub(super) fn connecting(socket: &Path, source: io::Error) -> Self {
        let name = socket.display().to_string();
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::NotPermitted {
                socket: name,
                allowed: allowed(socket),
            };
        }
        Self::NoController {
            socket: name,
            source,
        }
    }
}

/// Who may use the socket: root, and its group.
fn allowed(socket: &Path) -> String {
    // The folder may be closed to us too; then its group is who may.
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let of = |path: &Path| path.metadata().ok().map(|found| found.gid());
    match of(socket).or_else(|| of(folder)) {
        None | Some(0) => "root".into(),
        Some(id) => {
            let group = Group::from_gid(Gid::from_raw(id)).ok().flatten();
            let name = group.map_or_else(|| id.to_string(), |group| group.name);
            format!("root and group {name}")
        }
    }
}
