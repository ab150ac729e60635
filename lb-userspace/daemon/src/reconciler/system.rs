//! The service manager and the host.
//!
//! The crate `sd-notify` is not used: it cannot reach sockets in the abstract namespace (`@…`), which
//! sd_notify(3) allows.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Sends a message such as `READY=1` to systemd, if it set `NOTIFY_SOCKET` (`Type=notify`).
///
/// # Errors
///
/// The socket does not accept the message.
pub fn notify(message: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let name = path.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// Returns the monotonic clock in microseconds, which systemd needs with `RELOADING=1`.
#[must_use]
pub fn monotonic_us() -> i64 {
    use nix::time::{ClockId, clock_gettime};
    // This clock always exists.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000)
}

/// Raises the soft limit of open files to the hard one. Returns both: commands of checks get the soft one
/// back, as some close all files that they may have open.
///
/// # Errors
///
/// The kernel refuses it.
pub fn raise_file_limit() -> io::Result<(u64, u64)> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limits = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1)?;
    Ok(limits)
}

/// Whether systemd expects keep-alive messages (`WatchdogSec=`).
#[must_use]
pub fn wants_watchdog() -> bool {
    let ours =
        std::env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
    ours && std::env::var_os("WATCHDOG_USEC").is_some()
}

#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
