//! What drivers can do with XDP: the netlink family `netdev` (Linux 6.3, `linux/netdev.h`).
//!
//! Two questions on a generic netlink socket: the number of the family, then a device. Each message is a
//! header of 16 bytes (length, type, flags, sequence, sender), four of generic netlink (command,
//! version), and attributes: length, type, value, padded to four bytes.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// The family of families (`linux/genetlink.h`).
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET` and its attributes.
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
const HEADER: usize = 20;

/// Features of an interface ([`crate::doctor::xdp_feature`]); `None`: the kernel does not say.
pub(super) fn of(ifindex: u32) -> Option<u64> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )
    .ok()?;
    let name = (FAMILY_NAME, b"netdev\0".as_slice());
    let answer = ask(&socket, CONTROLLER, GET_FAMILY, name)?;
    let family = attribute(&answer, FAMILY_ID)?;
    let family = u16::from_ne_bytes(family.get(..2)?.try_into().ok()?);
    let device = (IFINDEX, ifindex.to_ne_bytes());
    let answer = ask(&socket, family, GET_DEVICE, (device.0, &device.1))?;
    let features = attribute(&answer, XDP_FEATURES)?;
    Some(u64::from_ne_bytes(features.get(..8)?.try_into().ok()?))
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn message(family: u16, command: u8, (kind, value): (u16, &[u8])) -> Vec<u8> {
    let length = HEADER + 4 + padded(value.len());
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length, 0);
    bytes
}

/// Asks, and gives the attributes of the answer.
fn ask(socket: &OwnedFd, family: u16, command: u8, what: (u16, &[u8])) -> Option<Vec<u8>> {
    let fd = socket.as_raw_fd();
    send(fd, &message(family, command, what), MsgFlags::empty()).ok()?;
    let mut answer = vec![0; 1 << 14];
    // The kernel answers before `send` returns.
    let length = recv(fd, &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
    answer.truncate(length);
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind == ERROR {
        return None;
    }
    answer.get(HEADER..).map(<[u8]>::to_vec)
}

/// The value of an attribute.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(padded(length)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_broken_ones_are_not() {
        let mut bytes = message(1, 2, (7, b"abcde"))[HEADER..].to_vec();
        assert_eq!(bytes.len() % 4, 0);
        bytes.extend([8, 0, 3, 0, 1, 2, 3, 4]);
        assert_eq!(attribute(&bytes, 7), Some(b"abcde".as_slice()));
        assert_eq!(attribute(&bytes, 3), Some([1, 2, 3, 4].as_slice()));
        assert_eq!(attribute(&bytes, 9), None);
        assert_eq!(attribute(&[0, 0, 1, 0], 2), None, "no length: no loop");
        assert_eq!(attribute(&[99, 0, 1, 0], 1), None);
    }
}
