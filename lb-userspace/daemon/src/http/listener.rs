//! The Unix socket: created in one step with its mode and group; a stale one is replaced.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdStream},
    path::{Path, PathBuf},
};

use nix::unistd::{Group, chown};
use tokio::net::UnixListener;

/// The socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A process accepts connections there.
    #[error(
        "socket {} is in use by another process: configure a different path",
        path.display()
    )]
    Taken { path: PathBuf },
    #[error("api.group {group:?} does not exist: create it (`groupadd --system {group}`)")]
    NoGroup { group: String },
    #[error("{operation} {}: {source}; a socket must be in a folder that root can write to", path.display())]
    System {
        operation: &'static str,
        /// The socket or its folder.
        path: PathBuf,
        source: io::Error,
    },
}

/// Root and the group.
const MODE: u32 = 0o660;

/// Listens at `path`. The socket is bound under a temporary name first, so that it never appears with
/// another mode or group.
///
/// # Errors
///
/// [`ListenError`].
pub fn listen(path: &Path, group: Option<&str>) -> Result<UnixListener, ListenError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| ListenError::System {
            operation,
            path,
            source,
        }
    };
    if StdStream::connect(path).is_ok() {
        let path = path.to_owned();
        return Err(ListenError::Taken { path });
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("create folder", folder))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &new)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed("listen at", &new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(MODE)).map_err(failed("chmod", &new))?;
    if let Some(name) = group {
        let found = Group::from_name(name).ok().flatten();
        let group = found.ok_or_else(|| ListenError::NoGroup {
            group: name.to_owned(),
        })?;
        let changed = chown(&new, None, Some(group.gid));
        changed.map_err(|error| failed("chgrp", &new)(error.into()))?;
    }
    fs::rename(&new, path).map_err(failed("rename to", path))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/api.sock");
        let first = listen(&path, None).unwrap();
        let mode = fs::metadata(&path).unwrap();
        assert!(mode.file_type().is_socket());
        assert_eq!(mode.permissions().mode() & 0o777, MODE);
        let error = listen(&path, None).unwrap_err();
        assert!(matches!(error, ListenError::Taken { .. }), "{error}");
        drop(first);
        listen(&path, None).unwrap();
    }

    #[tokio::test]
    async fn a_group_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = listen(&folder.path().join("s"), Some("no-such-group")).unwrap_err();
        assert!(error.to_string().contains("no-such-group"), "{error}");
    }
}
