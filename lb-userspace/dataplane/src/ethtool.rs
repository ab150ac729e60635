//! Drivers, queues and offloads of interfaces: the ethtool ioctl (`linux/ethtool.h`).
//!
//! The structures of the commands below consist of 32-bit numbers and characters, and are arrays of
//! 32-bit numbers here.

use std::ffi::CStr;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// `ETHTOOL_GDRVINFO`: the 32 bytes after the command are the name of the driver.
const DRIVER: u32 = 0x03;
const DRIVER_WORDS: usize = 49;
/// `ETHTOOL_GFLAGS`, with `ETH_FLAG_LRO`.
const FLAGS: u32 = 0x25;
const FLAG_LRO: u32 = 1 << 15;
/// The same: VLAN tags are removed from received frames.
const FLAG_RX_VLAN: u32 = 1 << 8;
/// `ETHTOOL_SFLAGS`.
const SET_FLAGS: u32 = 0x26;
/// `ETHTOOL_GGRO`.
const GRO: u32 = 0x2b;
/// `ETHTOOL_GTXCSUM`.
const TX_CHECKSUM: u32 = 0x16;
/// `ETHTOOL_GCHANNELS`: maxima of rx, tx, other and combined, then the current numbers.
const CHANNELS: u32 = 0x3c;
const CHANNEL_WORDS: usize = 9;

/// Numbers of receive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    pub current: u32,
    pub max: u32,
}

/// Sends a command to the driver of an interface; `None` if it fails.
fn query<const WORDS: usize>(interface: &str, command: u32) -> Option<[u32; WORDS]> {
    let mut words = [0; WORDS];
    words[0] = command;
    send(interface, words)
}

fn send<const WORDS: usize>(interface: &str, mut words: [u32; WORDS]) -> Option<[u32; WORDS]> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .ok()?;
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
    // SAFETY: the request points to a buffer of the size of its command's structure, and both live until
    // the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    (result == 0).then_some(words)
}

#[must_use]
pub fn driver(interface: &str) -> Option<String> {
    let words = query::<DRIVER_WORDS>(interface, DRIVER)?;
    let bytes: &[u8] = bytemuck::cast_slice(&words[1..9]);
    let name = CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[must_use]
pub fn channels(interface: &str) -> Option<Channels> {
    let [_, max_rx, _, _, max_combined, rx, _, _, combined] =
        query::<CHANNEL_WORDS>(interface, CHANNELS)?;
    Some(Channels {
        current: rx + combined,
        max: max_rx.max(max_combined),
    })
}

#[must_use]
pub fn lro(interface: &str) -> Option<bool> {
    let [_, flags] = query(interface, FLAGS)?;
    Some(flags & FLAG_LRO != 0)
}

/// Whether VLAN tags are removed from received frames before XDP sees them.
#[must_use]
pub fn rx_vlan(interface: &str) -> Option<bool> {
    let [_, flags] = query(interface, FLAGS)?;
    Some(flags & FLAG_RX_VLAN != 0)
}

/// Leaves VLAN tags in received frames; returns whether they are left there now.
pub fn disable_rx_vlan(interface: &str) -> bool {
    let Some([_, flags]) = query::<2>(interface, FLAGS) else {
        return false;
    };
    // The driver may not be able to.
    let _ = send(interface, [SET_FLAGS, flags & !FLAG_RX_VLAN]);
    rx_vlan(interface) == Some(false)
}

/// Whether the interface computes the checksums of transmitted packets.
#[must_use]
pub fn tx_checksum(interface: &str) -> Option<bool> {
    let [_, on] = query(interface, TX_CHECKSUM)?;
    Some(on != 0)
}

#[must_use]
pub fn gro(interface: &str) -> Option<bool> {
    let [_, on] = query(interface, GRO)?;
    Some(on != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn returns_none_if_the_driver_does_not_support_it() {
        assert_eq!(super::driver("none-of-this"), None);
        assert_eq!(super::channels("a-name-that-is-much-too-long"), None);
        // The loopback interface has no driver and no queues, but GRO.
        assert!(super::gro("lo").is_some());
    }
}
