//! The API: HTTP and JSON over a Unix socket.

pub mod types;
