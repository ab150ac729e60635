//! The files of the journal.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tracing::warn;

use super::Event;
use crate::durable::{STATE_MODE, is_unwritable, with_path};

/// Size at which a file is rotated, in bytes.
const FULL: u64 = 1 << 20;

/// Bytes of a file that are read.
const MOST: u64 = 4 * FULL;

/// Number of files: the current one and older ones.
const FILES: usize = 4;

/// Appends events to the current file.
#[derive(Debug)]
pub(super) struct Storage {
    folder: PathBuf,
    /// None while it can't be opened for writing: the next append tries again.
    file: Option<File>,
    size: u64,
}

/// Contents of the files.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The newest events, the oldest of them first.
    pub(super) events: VecDeque<Event>,
    pub(super) next_id: u64,
    /// Number of invalid lines.
    pub(super) skipped: usize,
}

/// Number 0 is the current file; higher numbers are older.
fn path(folder: &Path, number: usize) -> PathBuf {
    match number {
        0 => folder.join("events.jsonl"),
        number => folder.join(format!("events.{number}.jsonl")),
    }
}

impl Storage {
    pub(super) fn open(folder: &Path, remembered: usize) -> io::Result<(Self, Past)> {
        let mut past = Past {
            next_id: 1,
            ..Past::default()
        };
        for number in (0..FILES).rev() {
            read(&path(folder, number), remembered, &mut past)?;
        }
        if past.skipped > 0 {
            // A reader may have seen the number of a line that was cut off.
            past.next_id += past.skipped as u64;
        }
        let mut storage = Self {
            folder: folder.to_owned(),
            file: None,
            size: 0,
        };
        match storage.open_file() {
            Err(error) if is_unwritable(&error) => {
                warn!(%error, "can't write the journal: events are kept in memory");
            }
            opened => drop(opened?),
        }
        Ok((storage, past))
    }

    /// The current file, opened if it was not.
    fn open_file(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let folder = &self.folder;
            fs::create_dir_all(folder).map_err(|error| with_path("create", folder, &error))?;
            let current = path(folder, 0);
            let mut file = append_to(&current)?;
            self.size = end_line(&current, &mut file)?;
            self.file = Some(file);
        }
        self.file
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes a line. After a partial write, the next line starts on a new line.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        if self.size >= FULL {
            self.rotate()?;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let current = path(&self.folder, 0);
        // One write, so that a crash can cut off this line only.
        let file = self.open_file()?;
        let written = file.write_all(&line);
        if written.is_err() {
            // Ends a partial line now, or the next append does.
            let _ = end_line(&current, file);
        }
        written.map_err(|error| with_path("write", &current, &error))?;
        self.size += line.len() as u64;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn set_file(&mut self, file: File) {
        self.file = Some(file);
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (0..FILES - 1).rev() {
            let (from, to) = (path(&self.folder, number), path(&self.folder, number + 1));
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(with_path("rename", &from, &error));
                }
                _ => {}
            }
        }
        self.file = Some(append_to(&path(&self.folder, 0))?);
        self.size = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(STATE_MODE)
        .open(path);
    let opened = opened.and_then(|file| {
        file.set_permissions(Permissions::from_mode(STATE_MODE))?;
        Ok(file)
    });
    opened.map_err(|error| with_path("open", path, &error))
}

/// Ends the last line if it was cut off. Returns the file size.
fn end_line(path: &Path, file: &mut File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let ended = || -> io::Result<u64> {
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        if last == [b'\n'] {
            return Ok(size);
        }
        (&*file).write_all(b"\n")?;
        Ok(size + 1)
    };
    ended().map_err(|error| with_path("read", path, &error))
}

fn read(path: &Path, remembered: usize, past: &mut Past) -> io::Result<()> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(with_path("open", path, &error)),
    };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size > MOST {
        // We write no such files: only the newest events are read. The first line is a part of one.
        file.seek(SeekFrom::Start(size - MOST))
            .map_err(|error| with_path("read", path, &error))?;
    }
    for line in BufReader::new(file.take(MOST)).split(b'\n') {
        let line = line.map_err(|error| with_path("read", path, &error))?;
        match serde_json::from_slice::<Event>(&line) {
            // A number that does not grow is invalid.
            Ok(event) if event.id >= past.next_id => {
                past.next_id = event.id + 1;
                if past.events.len() == remembered {
                    past.events.pop_front();
                }
                past.events.push_back(event);
            }
            Ok(_) => past.skipped += 1,
            Err(_) if line.is_empty() => {}
            Err(_) => past.skipped += 1,
        }
    }
    Ok(())
}
