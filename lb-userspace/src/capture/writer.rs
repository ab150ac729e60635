//! Writer of classic pcap.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    },
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::linkat,
};

use super::{CaptureError, ETHERNET, MAX_FRAME_LEN};

/// Microseconds, little-endian on every machine.
const HEADER: [[u8; 4]; 6] = [
    0xa1b2_c3d4_u32.to_le_bytes(),
    [2, 0, 4, 0],
    [0; 4],
    [0; 4],
    MAX_FRAME_LEN.to_le_bytes(),
    ETHERNET.to_le_bytes(),
];

/// Mode of a new capture: packets are private.
const PRIVATE: u32 = 0o600;

/// Writes Ethernet frames to a classic pcap file.
///
/// The file gets its name in [`Writer::finish`]; a writer that is dropped earlier leaves nothing behind
/// and keeps an existing file. Until then the file is unnamed (`O_TMPFILE`), so a killed process
/// leaves nothing either; file systems without unnamed files (NFS) keep a hidden `.NAME.PID.N.tmp`. A
/// pipe or a device (`/dev/stdout`) is written directly, since a rename would replace it.
///
/// A new file is readable by its owner only; a replaced file keeps owner and mode. Through a symbolic
/// link, the target is created or replaced, not the link.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    staged: Option<Staged>,
    file: BufWriter<File>,
    frames: u64,
}

/// A file that gets its name later.
#[derive(Debug)]
struct Staged {
    target: PathBuf,
    /// Name until then, in the directory of the target, as a rename stays in one file system.
    temporary: PathBuf,
}

impl Staged {
    fn new(target: PathBuf) -> io::Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it has no file name",
            ));
        };
        // Two writers in one process may have the same target.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{number}.tmp", process::id()));
        let temporary = target.with_file_name(hidden);
        Ok(Self { target, temporary })
    }

    /// Creates the file, unnamed if the file system supports it.
    fn create(&self) -> io::Result<File> {
        let directory = match self.target.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        };
        let mut options = OpenOptions::new();
        options.write(true).mode(PRIVATE);
        match options
            .clone()
            .custom_flags(libc::O_TMPFILE)
            .open(directory)
        {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                options.create_new(true).open(&self.temporary)
            }
            opened => opened,
        }
    }

    /// Links an unnamed file to its temporary name. A link cannot replace a file, but a rename can.
    fn link(&self, file: &File) -> io::Result<()> {
        if file.metadata()?.nlink() > 0 {
            return Ok(());
        }
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, open.as_str(), AT_FDCWD, &self.temporary, follow)?;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Usually there is none: the file is unnamed or has been renamed.
        let _ = fs::remove_file(&self.temporary);
    }
}

impl Writer {
    /// Creates a capture.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, CaptureError> {
        let path = path.as_ref().to_owned();
        let failed = |source| CaptureError::Write {
            operation: "create",
            path: path.clone(),
            source,
        };
        let (file, staged) = open(&path).map_err(failed)?;
        let mut file = BufWriter::new(file);
        file.write_all(HEADER.as_flattened()).map_err(failed)?;
        Ok(Self {
            path,
            staged,
            file,
            frames: 0,
        })
    }

    /// Adds a frame with its time since 1970, rounded down to a microsecond.
    ///
    /// # Errors
    ///
    /// After [`CaptureError::TooLong`] and [`CaptureError::TooLate`] nothing was written, and the writer
    /// remains usable.
    pub fn write(&mut self, timestamp: Duration, frame: &[u8]) -> Result<(), CaptureError> {
        let packet = self.frames + 1;
        let Some(len) = u32::try_from(frame.len())
            .ok()
            .filter(|len| *len <= MAX_FRAME_LEN)
        else {
            return Err(CaptureError::TooLong {
                path: self.path.clone(),
                packet,
                len: frame.len(),
            });
        };
        let Ok(seconds) = u32::try_from(timestamp.as_secs()) else {
            let (path, seconds) = (self.path.clone(), timestamp.as_secs());
            return Err(CaptureError::TooLate {
                path,
                packet,
                seconds,
            });
        };
        let header = [seconds, timestamp.subsec_micros(), len, len].map(u32::to_le_bytes);
        self.file
            .write_all(header.as_flattened())
            .and_then(|()| self.file.write_all(frame))
            .map_err(|source| self.failed("write", source))?;
        self.frames = packet;
        Ok(())
    }

    /// Syncs the file and gives it its name; returns the number of frames.
    pub fn finish(mut self) -> Result<u64, CaptureError> {
        self.file
            .flush()
            .map_err(|source| self.failed("write", source))?;
        if let Some(staged) = &self.staged {
            self.file
                .get_ref()
                .sync_all()
                .map_err(|source| self.failed("sync", source))?;
            staged
                .link(self.file.get_ref())
                .and_then(|()| fs::rename(&staged.temporary, &staged.target))
                .map_err(|source| self.failed("name", source))?;
        }
        Ok(self.frames)
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> CaptureError {
        CaptureError::Write {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

/// Opens a new file that will replace the target, or the target itself if it is not a regular file.
fn open(path: &Path) -> io::Result<(File, Option<Staged>)> {
    let (target, replaced) = match fs::metadata(path) {
        Ok(existing) if existing.is_file() => (fs::canonicalize(path)?, Some(existing)),
        Ok(existing) if existing.is_dir() => {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a directory",
            ));
        }
        Ok(_) => return Ok((OpenOptions::new().write(true).open(path)?, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (resolve_links(path)?, None),
        Err(error) => return Err(error),
    };
    let staged = Staged::new(target)?;
    let file = staged.create()?;
    if let Some(replaced) = replaced {
        copy_owner(&file, &replaced)?;
    }
    Ok((file, Some(staged)))
}

/// Resolves symbolic links to a file that does not exist.
fn resolve_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // The limit of the kernel.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else {
            return Ok(path);
        };
        path = path.parent().unwrap_or(Path::new("")).join(to);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Gives the still empty file the owner and mode of the file that it replaces.
fn copy_owner(file: &File, replaced: &Metadata) -> io::Result<()> {
    // Only root may change the owner; otherwise the file keeps the caller's.
    let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    file.set_permissions(replaced.permissions())
}
