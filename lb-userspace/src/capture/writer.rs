//! Writing classic pcap.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
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

/// Writes Ethernet frames to a classic pcap file.
///
/// The file appears under its name only with [`Writer::finish`]; a writer that is dropped before
/// leaves nothing behind, and what was there under that name stays. A pipe or a device (`/dev/stdout`)
/// is written as it is, since a rename would put a file in its place.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    staged: Option<Staged>,
    file: BufWriter<File>,
    frames: u64,
}

/// A file that will get its name later; removed when dropped.
#[derive(Debug)]
struct Staged {
    temporary: PathBuf,
    target: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename it is not there any more; otherwise there is nobody to tell.
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
            fs::rename(&staged.temporary, &staged.target)
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

/// Opens what is to be written: a new file beside the target, or the target if it is no file.
fn open(path: &Path) -> io::Result<(File, Option<Staged>)> {
    let target = match fs::metadata(path) {
        // Through a symbolic link, the file it names is replaced, not the link.
        Ok(existing) if existing.is_file() => fs::canonicalize(path)?,
        Ok(existing) if existing.is_dir() => {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a folder",
            ));
        }
        Ok(_) => return Ok((OpenOptions::new().write(true).open(path)?, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
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
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)?;
    Ok((file, Some(Staged { temporary, target })))
}
