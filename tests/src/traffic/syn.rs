//! A single TCP connection, and whether its first SYN was answered.

use std::mem::{MaybeUninit, size_of};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;

/// Connects from a host and returns how many segments had to be sent again for it: 0 if the first SYN was
/// answered.
pub fn connect(host: &Host, to: SocketAddr, limit: Duration) -> Result<u32> {
    let connected = host.ns.enter(|| {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        retransmissions(&stream)
    });
    connected.with_context(|| format!("connect from {} to {to}", host.name))
}

fn retransmissions(stream: &TcpStream) -> std::io::Result<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, which are there.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: all bits are valid for its integers, and it was zeroed before.
    Ok(unsafe { info.assume_init() }.tcpi_total_retrans)
}
