//! The answer to an HTTP request, read as it comes.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes that are read at once.
const PIECE: usize = 2048;

/// The longest head, and the longest line before a chunk.
const MOST_HEAD: usize = 64 * 1024;

/// Headers of an answer; one with more is no answer to a health check.
const MOST_HEADERS: usize = 100;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// These bytes are left.
    Length(u64),
    /// In chunks, of one of which these bytes are left; none: the next is the first one.
    Chunks(Option<u64>),
    /// The connection is closed.
    Close,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer<S> {
    stream: S,
    bytes: Vec<u8>,
    /// Of `bytes`, what was taken.
    taken: usize,
    framing: Framing,
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + Unpin> Answer<S> {
    pub(super) fn of(stream: S) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            taken: 0,
            framing: Framing::Close,
        }
    }

    /// Reads up to the body; gives the status. Interim answers (1xx) are passed over.
    pub(super) async fn head(&mut self) -> io::Result<u16> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.bytes[self.taken..]);
            let parsed = parsed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            let (httparse::Status::Complete(length), Some(status)) = (parsed, response.code) else {
                self.read_on().await?;
                continue;
            };
            let framing = framing(status, response.headers)?;
            self.taken += length;
            // After 101 it is not HTTP any more.
            if !(100..200).contains(&status) || status == 101 {
                self.framing = framing;
                return Ok(status);
            }
        }
    }

    /// The next piece of the body; none at its end.
    pub(super) async fn body(&mut self) -> io::Result<Option<&[u8]>> {
        let left = match self.framing {
            Framing::Length(left) => left,
            Framing::Close => {
                return match self.take(u64::MAX).await {
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
                    piece => piece.map(Some),
                };
            }
            Framing::Chunks(Some(left)) if left > 0 => left,
            Framing::Chunks(before) => self.begin_chunk(before.is_none()).await?,
        };
        if left == 0 {
            self.framing = Framing::Length(0);
            return Ok(None);
        }
        let is_chunk = matches!(self.framing, Framing::Chunks(_));
        let length = self.take(left).await?.len();
        let left = left - length as u64;
        self.framing = if is_chunk {
            Framing::Chunks(Some(left))
        } else {
            Framing::Length(left)
        };
        Ok(Some(&self.bytes[self.taken - length..self.taken]))
    }

    /// Reads the line before a chunk, and what ends the chunk before it; gives the length.
    async fn begin_chunk(&mut self, is_first: bool) -> io::Result<u64> {
        if !is_first {
            while self.bytes.len() - self.taken < 2 {
                self.read_on().await?;
            }
            if !self.bytes[self.taken..].starts_with(b"\r\n") {
                return Err(invalid("a chunk is longer than it says"));
            }
            self.taken += 2;
        }
        loop {
            match httparse::parse_chunk_size(&self.bytes[self.taken..]) {
                Ok(httparse::Status::Complete((line, length))) => {
                    self.taken += line;
                    return Ok(length);
                }
                Ok(httparse::Status::Partial) => self.read_on().await?,
                Err(_) => return Err(invalid("a chunk without its length")),
            }
        }
    }

    /// Takes what there is, and at most so much.
    async fn take(&mut self, most: u64) -> io::Result<&[u8]> {
        if self.taken == self.bytes.len() {
            self.read_on().await?;
        }
        let from = self.taken;
        let there = self.bytes.len() - from;
        self.taken += usize::try_from(most).map_or(there, |most| most.min(there));
        Ok(&self.bytes[from..self.taken])
    }

    /// Reads more; that there is no more is an error.
    async fn read_on(&mut self) -> io::Result<()> {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
        if self.bytes.len() - self.taken > MOST_HEAD {
            return Err(invalid("a line or head that is too long"));
        }
        self.bytes.reserve(PIECE);
        match self.stream.read_buf(&mut self.bytes).await? {
            0 => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the connection was closed before all of it was there",
            )),
            _ => Ok(()),
        }
    }
}

/// How the end of the body is known (RFC 9112, section 6.3).
fn framing(status: u16, headers: &[httparse::Header<'_>]) -> io::Result<Framing> {
    let mut framing = Framing::Close;
    for header in headers {
        let value = str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            // The last coding is what frames it.
            let last = value.rsplit(',').next().unwrap_or_default().trim();
            framing = if last.eq_ignore_ascii_case("chunked") {
                Framing::Chunks(None)
            } else {
                Framing::Close
            };
            break;
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = value.parse();
            framing = Framing::Length(length.map_err(|_| invalid("a length that is no number"))?);
        }
    }
    if matches!(status, 204 | 304) {
        framing = Framing::Length(0);
    }
    Ok(framing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an answer that comes in pieces of `size` bytes: its status and body.
    async fn read(text: &str, size: usize) -> io::Result<(u16, String)> {
        let (mut from, to) = tokio::io::duplex(size);
        let bytes = text.as_bytes().to_vec();
        tokio::spawn(async move {
            // The other side may have heard enough.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut from, &bytes).await;
        });
        let mut answer = Answer::of(to);
        let status = answer.head().await?;
        let mut body = Vec::new();
        while let Some(piece) = answer.body().await? {
            body.extend_from_slice(piece);
        }
        Ok((status, String::from_utf8(body).unwrap()))
    }

    #[tokio::test]
    async fn bodies_end_where_they_say() {
        let table = [
            ("200 OK\r\nContent-Length: 4\r\n\r\nwellmore", 200, "well"),
            ("200 OK\r\n\r\nto the end", 200, "to the end"),
            ("204 None\r\n\r\nnothing of this", 204, ""),
            ("200 OK\r\nCONTENT-LENGTH: 0\r\n\r\nx", 200, ""),
            (
                "200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n4;a=b\r\nis w\r\n3\r\nell\r\n0\r\n\r\n",
                200,
                "is well",
            ),
            (
                "100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 No\r\n\r\n",
                404,
                "",
            ),
        ];
        for (text, status, body) in table {
            for size in [1, 3, 1000] {
                let met = read(&format!("HTTP/1.1 {text}"), size).await;
                let met = met.unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(met, (status, body.to_owned()), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn answers_that_break_off_or_make_no_sense_are_errors() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2 * MOST_HEAD));
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "X: x\r\n".repeat(MOST_HEADERS + 1)
        );
        for text in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwell",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwell\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n",
            &long,
            &many,
        ] {
            assert!(read(text, 1000).await.is_err(), "{text}");
        }
    }
}
