//! Errors of the client.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Gid, Group};
use thiserror::Error;

use crate::{ApiError, ErrorCode};

/// Why a request has no usable response.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No process listens on the socket.
    #[error("no controller is listening on {socket}: is `evenkeel run` running?")]
    NoController {
        /// Path of the socket.
        socket: String,
        /// Error of connect(2).
        source: io::Error,
    },
    /// The caller may not use the socket.
    #[error("permission denied: only {allowed} may use {socket}; use sudo or join the group")]
    NotPermitted {
        /// Path of the socket.
        socket: String,
        /// Who may use it: `root and group evenkeel`.
        allowed: String,
    },
    /// The connection broke, or the response is not HTTP.
    #[error(
        "the controller closed the connection on {socket} during the request {path}; try again"
    )]
    Interrupted {
        /// Path of the socket.
        socket: String,
        /// Path of the request.
        path: String,
        /// The underlying error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No response in time.
    #[error("timeout: no response from the controller on {socket} to {path} within {seconds} s")]
    Timeout {
        /// Path of the socket.
        socket: String,
        /// Path of the request.
        path: String,
        /// The timeout.
        seconds: u64,
    },
    /// The response cannot be parsed.
    #[error(
        "cannot parse the controller's response to {path} (HTTP {status}): is its version different \
         from this command's ({})?", env!("CARGO_PKG_VERSION")
    )]
    Unreadable {
        /// Path of the request.
        path: String,
        /// HTTP status.
        status: u16,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The controller returned an error.
    #[error("{}", .0.message)]
    Api(Box<ApiError>),
}

impl ClientError {
    /// Returns what is wrong, of a request to the announcer's socket: other errors name the controller.
    #[must_use]
    pub fn of_announcer(&self) -> String {
        match self {
            Self::NoController { socket, .. } => format!("nothing listens on {socket}"),
            Self::Timeout {
                socket, seconds, ..
            } => format!("no response on {socket} within {seconds} s"),
            Self::Interrupted { socket, .. } => {
                format!("the announcer closed the connection on {socket}")
            }
            Self::Unreadable { .. } => format!(
                "cannot parse the announcer's response: is its version different from this one ({})?",
                env!("CARGO_PKG_VERSION")
            ),
            Self::NotPermitted { .. } | Self::Api(_) => self.to_string(),
        }
    }

    /// Returns the controller's error, if it is one.
    #[must_use]
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }

    /// Whether a retry may succeed: the controller is restarting, slow or shutting down.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoController { .. } | Self::Interrupted { .. } | Self::Timeout { .. } => true,
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

/// Who may use the socket: root and its group.
fn allowed(socket: &Path) -> String {
    // If the directory is not searchable either, its group decides.
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let group = |path: &Path| path.metadata().ok().map(|found| found.gid());
    match group(socket).or_else(|| group(directory)) {
        None | Some(0) => "root".into(),
        Some(id) => {
            let group = Group::from_gid(Gid::from_raw(id)).ok().flatten();
            let name = group.map_or_else(|| id.to_string(), |group| group.name);
            format!("root and group {name}")
        }
    }
}
