//! Documents and the files in `deploy/` match the code.

mod monitoring;
mod operations;
