//! A TUN device that exists only to have routes.

use std::{fs::File, io, os::fd::AsRawFd as _};

/// Longest name of an interface, without the terminating zero (`IFNAMSIZ`).
const LONGEST_NAME: usize = 15;

/// A TUN device. The kernel removes it, with its routes, when this is dropped or the process dies.
/// Packets that are routed to it are dropped once its queue is full, since nothing reads them.
#[derive(Debug)]
pub(super) struct Tun {
    _file: File,
}

nix::ioctl_write_ptr_bad!(
    /// Creates or attaches a TUN device (linux/if_tun.h).
    set_interface,
    // _IOW('T', 202, int): the number says int, the kernel reads a struct ifreq.
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

impl Tun {
    /// Creates a device.
    ///
    /// # Errors
    /// EBUSY if another process has a device of this name, EINVAL if it is no TUN device or the name is
    /// not possible; EPERM without CAP_NET_ADMIN; ENOENT without the module `tun`.
    pub(super) fn create(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        let mut ifr_name = [0; libc::IFNAMSIZ];
        for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // EXCL: never attach to a persistent device that somebody else made.
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
        let request = libc::ifreq {
            ifr_name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: flags as libc::c_short,
            },
        };
        // SAFETY: the descriptor is open, and the request is a whole struct ifreq, which the kernel only
        // reads and writes during the call. No safe crate of ours has this ioctl.
        unsafe { set_interface(file.as_raw_fd(), &raw const request) }?;
        Ok(Self { _file: file })
    }
}
