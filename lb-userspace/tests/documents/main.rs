//! Documents and the files in `deploy/` match the code.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod monitoring;
mod operations;
