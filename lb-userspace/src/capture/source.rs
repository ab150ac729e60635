//! Sequential reader with its position in the file.

use std::io::{BufReader, ErrorKind, Read, copy, sink};

use super::error::Fault;

/// Reads forward only, as a capture may be a pipe.
pub(super) struct Source {
    reader: BufReader<Box<dyn Read + Send>>,
    offset: u64,
    start: u64,
}

impl Source {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 16, reader),
            offset: 0,
            start: 0,
        }
    }

    /// Number of bytes read.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset of the current record or block.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Fills `buffer` with the start of a record; `false` at the end of the file.
    pub(super) fn begin(&mut self, buffer: &mut [u8]) -> Result<bool, Fault> {
        self.start = self.offset;
        match self.fill(buffer) {
            Err(Fault::Cut) if self.offset == self.start => Ok(false),
            other => other.map(|()| true),
        }
    }

    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => return Err(Fault::Cut),
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        Ok(())
    }

    /// Reads `len` bytes. Allocates as they arrive, since `len` is not trustworthy.
    pub(super) fn take(&mut self, len: u32) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(len.min(4096) as usize);
        let read = self
            .reader
            .by_ref()
            .take(len.into())
            .read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        read.map_err(Fault::Io)?;
        if bytes.len() < len as usize {
            Err(Fault::Cut)
        } else {
            Ok(bytes)
        }
    }

    /// Skips `len` bytes.
    pub(super) fn skip(&mut self, len: u32) -> Result<(), Fault> {
        let skipped =
            copy(&mut self.reader.by_ref().take(len.into()), &mut sink()).map_err(Fault::Io)?;
        self.offset += skipped;
        if skipped < u64::from(len) {
            Err(Fault::Cut)
        } else {
            Ok(())
        }
    }
}
