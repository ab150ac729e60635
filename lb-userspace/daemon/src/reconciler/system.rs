//! The service manager that started us.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Tells systemd something (`READY=1`), if it asked to be told (`Type=notify`, `NOTIFY_SOCKET`).
///
/// # Errors
///
/// The socket is there but does not take the message.
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

/// Microseconds of the monotonic clock, as systemd wants them beside `RELOADING=1`.
#[must_use]
pub fn monotonic_us() -> i64 {
    use nix::time::{ClockId, clock_gettime};
    // The clock is always there; without it systemd refuses the message, which is logged.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000)
}

/// Whether systemd wants a sign of life (`WatchdogSec=`).
#[must_use]
pub fn wants_watchdog() -> bool {
    let ours =
        std::env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
    ours && std::env::var_os("WATCHDOG_USEC").is_some()
}

/// Name of this host.
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
