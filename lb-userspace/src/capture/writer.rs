//! Writing classic pcap.

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

/// Microseconds; the same bytes on every machine, so little-endian everywhere.
const HEADER: [[u8; 4]; 6] = [
    0xa1b2_c3d4_u32.to_le_bytes(),
    [2, 0, 4, 0],
    [0; 4],
    [0; 4],
    MAX_FRAME_LEN.to_le_bytes(),
    ETHERNET.to_le_bytes(),
];

/// Mode of a new capture.
const PRIVATE: u32 = 0o600;

/// Writes Ethernet frames to a classic pcap file.
///
/// The file appears under its name only with [`Writer::finish`]; a writer that is dropped before
/// leaves nothing behind, and what was there under that name stays. Until then the file has no name at all, so that
/// this is so too when the process is killed; only on file systems without such files (NFS) a hidden
/// `.NAME.PID.N.tmp` stays then. A pipe or a device (`/dev/stdout`) is written as it is, since a rename would put a
/// file in its place.
///
/// Packets are private: a new file is for its owner alone. One that replaces another has the owner and the mode of
/// that one. Through a symbolic link, the file that it names is made or replaced, not the link.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    staged: Option<Staged>,
    file: BufWriter<File>,
    frames: u64,
}

/// A file that will get its name later.
#[derive(Debug)]
struct Staged {
    target: PathBuf,
    /// The name until then, beside the target: a rename has to stay in one file system.
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
        // Two writers of one process may have the same target.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{number}.tmp", process::id()));
        let temporary = target.with_file_name(hidden);
        Ok(Self { target, temporary })
    }

    /// Makes the file, without a name if the file system can do that.
    fn create(&self) -> io::Result<File> {
        let folder = match self.target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut options = OpenOptions::new();
        options.write(true).mode(PRIVATE);
        match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                options.create_new(true).open(&self.temporary)
            }
            opened => opened,
        }
    }

    /// Gives a file that has no name the temporary one. No link can replace a file, but a rename can.
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
        // Mostly there is none: the file has no name yet, or its own. Otherwise there is nobody to tell.
        let _ = fs::remove_file(&self.temporary);
    }
}

impl Writer {
    /// Begins a capture.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Write`] if no file can be made there.
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

    /// Adds a frame that was seen at `timestamp` (since 1970; a fraction of a microsecond is cut off).
    ///
    /// # Errors
    ///
    /// [`CaptureError::Write`]; [`CaptureError::TooLong`] and [`CaptureError::TooLate`] for what the format can't hold,
    /// with nothing written.
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

    /// Brings the frames to disk and gives the file its name; returns how many there are.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Write`].
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

/// Opens what is to be written: a new file that is to take the target's place, or the target if it is no file.
fn open(path: &Path) -> io::Result<(File, Option<Staged>)> {
    let (target, replaced) = match fs::metadata(path) {
        Ok(existing) if existing.is_file() => (fs::canonicalize(path)?, Some(existing)),
        Ok(existing) if existing.is_dir() => {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a folder",
            ));
        }
        Ok(_) => return Ok((OpenOptions::new().write(true).open(path)?, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (linked(path)?, None),
        Err(error) => return Err(error),
    };
    let staged = Staged::new(target)?;
    let file = staged.create()?;
    if let Some(replaced) = replaced {
        take_after(&file, &replaced)?;
    }
    Ok((file, Some(staged)))
}

/// The file that is not there: the one a symbolic link names, if the path is one.
fn linked(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many as the kernel follows; more are a circle.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else {
            return Ok(path);
        };
        path = path.parent().unwrap_or(Path::new("")).join(to);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Gives a file owner and mode of the one it replaces, before there is anything in it.
fn take_after(file: &File, replaced: &Metadata) -> io::Result<()> {
    // Only root may give files away; whose else the new one is has no more rights by it than before.
    let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    file.set_permissions(replaced.permissions())
}
