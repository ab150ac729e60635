//! What drivers say about themselves: the ethtool ioctl (`linux/ethtool.h`).
//!
//! Structures are arrays of 32-bit numbers here: that is what those of the commands below are made of,
//! besides characters.

use std::ffi::CStr;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::doctor::Channels;

/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// `ETHTOOL_GDRVINFO`: the name of the driver is in the 32 bytes after the command.
const DRIVER: u32 = 0x03;
const DRIVER_WORDS: usize = 49;
/// `ETHTOOL_GFLAGS`, with `ETH_FLAG_LRO`.
const FLAGS: u32 = 0x25;
const FLAG_LRO: u32 = 1 << 15;
/// `ETHTOOL_GGRO`.
const GRO: u32 = 0x2b;
/// `ETHTOOL_GCHANNELS`: maxima of rx, tx, other and combined, then the present numbers.
const CHANNELS: u32 = 0x3c;
const CHANNEL_WORDS: usize = 9;

/// Asks the driver of an interface. `None`: it can't answer.
fn ask<const WORDS: usize>(interface: &str, command: u32) -> Option<[u32; WORDS]> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
    let mut words = [0; WORDS];
    words[0] = command;
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return None;
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: words.as_mut_ptr().cast(),
        },
    };
    use std::os::fd::AsRawFd as _;
    // SAFETY: the request names a buffer that is as large as the structure of its command, and both live
    // until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    (result == 0).then_some(words)
}

/// Name of the driver.
pub(super) fn driver(interface: &str) -> Option<String> {
    let words = ask::<DRIVER_WORDS>(interface, DRIVER)?;
    let bytes: &[u8] = bytemuck::cast_slice(&words[1..9]);
    let name = CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Queues that packets are received by.
pub(super) fn channels(interface: &str) -> Option<Channels> {
    let [_, max_rx, _, _, max_combined, rx, _, _, combined] =
        ask::<CHANNEL_WORDS>(interface, CHANNELS)?;
    Some(Channels {
        current: rx + combined,
        max: max_rx.max(max_combined),
    })
}

/// Whether the NIC merges received packets.
pub(super) fn lro(interface: &str) -> Option<bool> {
    let [_, flags] = ask(interface, FLAGS)?;
    Some(flags & FLAG_LRO != 0)
}

/// Whether the kernel merges received packets.
pub(super) fn gro(interface: &str) -> Option<bool> {
    let [_, on] = ask(interface, GRO)?;
    Some(on != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn who_can_not_answer_does_not() {
        assert_eq!(super::driver("none-of-this"), None);
        assert_eq!(super::channels("a-name-that-is-much-too-long"), None);
        // The loopback interface has no driver and no queues, but merges.
        assert!(super::gro("lo").is_some());
    }
}
