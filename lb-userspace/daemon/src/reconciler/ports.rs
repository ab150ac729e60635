//! Ports of `nat` and the host's own sockets must not meet.
//!
//! A reply to a session and a packet to a socket of the host look the same when they have the same
//! address and port. So the ports of `node.nat_ports` are **reserved** (the kernel then gives none
//! of them to a socket that asks for any port), and a socket that is **bound** to one already is a
//! reason not to begin to use them. What was reserved is written down, so that `unload` takes back just that.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

/// One list for TCP and UDP, IPv4 and IPv6, of this network namespace.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Ports, and nothing but ports.
pub type PortRange = RangeInclusive<u16>;

/// Something about the host's ports failed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A socket is bound to a port of `nat`.
    #[error(
        "{protocol} socket {address} of this host is bound to a port of node.nat_ports \
         ({}-{}), which `nat` uses on the same address: end it (`ss -anp 'sport = :{}'` names the \
         process), or choose other nat_ports",
        range.start(), range.end(), address.port()
    )]
    Bound {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// What it is bound to.
        address: SocketAddr,
        /// The ports of `nat`.
        range: PortRange,
    },
    /// A file can't be read or written.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A list of ports is none.
    #[error("{RESERVED} has {text:?}, which is no list of ports")]
    NotAList {
        /// The text.
        text: String,
    },
}

type Result<T> = std::result::Result<T, PortError>;

/// Reads a list as the kernel writes it: `1-3,5`.
fn parse_list(text: &str) -> Option<Vec<PortRange>> {
    let items = text.trim().split(',').filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        })
        .collect()
}

fn to_set(ranges: &[PortRange]) -> Vec<bool> {
    let mut set = vec![false; 1 << 16];
    for port in ranges.iter().cloned().flatten() {
        set[usize::from(port)] = true;
    }
    set
}

fn to_ranges(set: &[bool]) -> Vec<PortRange> {
    let mut ranges: Vec<PortRange> = Vec::new();
    for port in (0..=u16::MAX).filter(|port| set[usize::from(*port)]) {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(port) => {
                *last = *last.start()..=port;
            }
            _ => ranges.push(port..=port),
        }
    }
    ranges
}

fn show_list(ranges: &[PortRange]) -> String {
    let items = ranges
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
    items.collect::<Vec<_>>().join(",")
}

/// `there` with `ours`; and what of `ours` was not in `there`.
fn merge(there: &[PortRange], ours: &[PortRange]) -> (Vec<PortRange>, Vec<PortRange>) {
    let (there, ours) = (to_set(there), to_set(ours));
    let both: Vec<bool> = there.iter().zip(&ours).map(|(a, b)| *a || *b).collect();
    let added: Vec<bool> = there.iter().zip(&ours).map(|(a, b)| !*a && *b).collect();
    (to_ranges(&both), to_ranges(&added))
}

fn subtract(there: &[PortRange], ours: &[PortRange]) -> Vec<PortRange> {
    let (there, ours) = (to_set(there), to_set(ours));
    let left: Vec<bool> = there.iter().zip(&ours).map(|(a, b)| *a && !*b).collect();
    to_ranges(&left)
}

fn file_error(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> PortError {
    let path = path.into();
    move |source| PortError::File {
        operation,
        path,
        source,
    }
}

/// Ports that the kernel gives to no socket by itself.
///
/// # Errors
///
/// The list can't be read.
pub fn read_reserved() -> Result<Vec<PortRange>> {
    let text = fs::read_to_string(RESERVED).map_err(file_error("read", RESERVED))?;
    parse_list(&text).ok_or(PortError::NotAList { text })
}

/// Where it is written down what we reserved in this network namespace. Both the reservation and the
/// note are gone after a reboot.
fn note() -> Result<PathBuf> {
    const NAMESPACE: &str = "/proc/self/ns/net";
    let namespace = fs::metadata(NAMESPACE).map_err(file_error("read", NAMESPACE))?;
    let name = format!("reserved-ports-{}", namespace.ino());
    Ok(PathBuf::from("/run/evenkeel").join(name))
}

fn read_note(path: &PathBuf) -> Vec<PortRange> {
    let text = fs::read_to_string(path).unwrap_or_default();
    parse_list(&text).unwrap_or_default()
}

/// Reserves ports, besides those that are reserved already.
///
/// # Errors
///
/// The list can't be read or written.
pub fn reserve(range: &PortRange) -> Result<()> {
    let there = read_reserved()?;
    let (both, added) = merge(&there, std::slice::from_ref(range));
    if added.is_empty() {
        return Ok(());
    }
    let note = note()?;
    let (noted, _) = merge(&read_note(&note), &added);
    if let Some(folder) = note.parent() {
        fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    }
    // The note comes first: better a note too many than ports that nobody gives back.
    fs::write(&note, show_list(&noted)).map_err(file_error("write", &note))?;
    fs::write(RESERVED, show_list(&both)).map_err(file_error("write", RESERVED))
}

/// Takes back what [`reserve`] reserved.
///
/// # Errors
///
/// The list can't be read or written.
pub fn release() -> Result<()> {
    let note = note()?;
    let ours = read_note(&note);
    if !ours.is_empty() {
        let left = subtract(&read_reserved()?, &ours);
        // The kernel takes an empty line as an empty list.
        fs::write(RESERVED, show_list(&left) + "\n").map_err(file_error("write", RESERVED))?;
    }
    match fs::remove_file(&note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error("remove", &note)(error))
        }
        _ => Ok(()),
    }
}

/// Reads an address as `/proc/net/tcp` has it: words in the machine's order, port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// State of a TCP socket that is closed and only waits for late packets.
const TIME_WAIT: &str = "06";

/// Addresses of a table of `/proc/net` that sockets are bound to.
fn bound(table: &str) -> impl Iterator<Item = SocketAddr> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let state = fields.nth(1)?;
        (state != TIME_WAIT).then(|| parse_address(local))?
    })
}

/// Whether a socket bound to `socket` gets packets to a port of `range` at one of `addresses`.
/// A socket bound to `::` gets IPv4 packets as well, unless it is told not to, which can't be seen.
fn meets(socket: &SocketAddr, addresses: &[IpAddr], range: &PortRange) -> bool {
    let same = |address: &IpAddr| {
        socket.ip() == *address
            || socket.ip().is_unspecified() && (socket.is_ipv6() || address.is_ipv4())
    };
    range.contains(&socket.port()) && addresses.iter().any(same)
}

/// Refuses when a socket of this host is bound to a port of `nat`.
///
/// # Errors
///
/// [`PortError::Bound`], or the kernel's tables can't be read.
pub fn check_sockets(addresses: &[IpAddr], range: &PortRange) -> Result<()> {
    for (protocol, path) in [
        ("tcp", "/proc/self/net/tcp"),
        ("tcp", "/proc/self/net/tcp6"),
        ("udp", "/proc/self/net/udp"),
        ("udp", "/proc/self/net/udp6"),
    ] {
        let table = match fs::read_to_string(path) {
            Ok(table) => table,
            // A host without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(file_error("read", path)(error)),
        };
        if let Some(address) = bound(&table).find(|socket| meets(socket, addresses, range)) {
            return Err(PortError::Bound {
                protocol,
                address,
                range: range.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Vec<PortRange> {
        parse_list(text).unwrap()
    }

    #[test]
    fn lists_are_merged_and_taken_apart_again() {
        let (both, added) = merge(&list("80,100-110\n"), &list("105-120"));
        assert_eq!(show_list(&both), "80,100-120");
        assert_eq!(show_list(&added), "111-120");
        assert_eq!(show_list(&subtract(&both, &added)), "80,100-110");
        assert_eq!(show_list(&list("\n")), "");
        assert_eq!(parse_list("a-b"), None);
        assert_eq!(
            show_list(&merge(&[], &list("65530-65535")).0),
            "65530-65535"
        );
    }

    proptest! {
        #[test]
        fn what_was_added_can_be_taken_back(
            there in prop::collection::vec((0u16..60000, 0u16..500), 0..8),
            ours in prop::collection::vec((0u16..60000, 0u16..500), 0..8),
        ) {
            let ranges = |v: Vec<(u16, u16)>| -> Vec<PortRange> {
                v.into_iter().map(|(first, more)| first..=first + more).collect()
            };
            let (there, ours) = (ranges(there), ranges(ours));
            let (both, added) = merge(&there, &ours);
            prop_assert_eq!(to_set(&subtract(&both, &added)), to_set(&there));
            prop_assert_eq!(list(&show_list(&both)), both);
        }
    }

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
        \x20  0: 0100007F:4E20 00000000:0000 0A 00000000:00000000\n\
        \x20  1: 00000000:4E21 00000000:0000 0A 00000000:00000000\n\
        \x20  2: 0200000A:4E22 0300000A:0050 06 00000000:00000000\n";

    #[test]
    fn sockets_are_read_from_the_kernels_table() {
        let sockets: Vec<_> = bound(TCP).map(|socket| socket.to_string()).collect();
        assert_eq!(sockets, ["127.0.0.1:20000", "0.0.0.0:20001"]);
        let v6 = parse_address("B80D0120000000000000000001000000:01BB").unwrap();
        assert_eq!(v6.to_string(), "[2001:db8::1]:443");
    }

    #[test]
    fn only_sockets_on_the_address_or_on_all_meet() {
        let node = ["10.0.0.2".parse().unwrap()];
        let socket = |text: &str| text.parse().unwrap();
        assert!(meets(&socket("0.0.0.0:20001"), &node, &(20_000..=30_000)));
        assert!(meets(&socket("[::]:20001"), &node, &(20_000..=30_000)));
        assert!(meets(&socket("10.0.0.2:20001"), &node, &(20_000..=30_000)));
        assert!(!meets(
            &socket("127.0.0.1:20000"),
            &node,
            &(20_000..=30_000)
        ));
        assert!(!meets(&socket("0.0.0.0:19999"), &node, &(20_000..=30_000)));
        let node = ["fd00::2".parse().unwrap()];
        assert!(!meets(&socket("0.0.0.0:20001"), &node, &(20_000..=30_000)));
    }
}
