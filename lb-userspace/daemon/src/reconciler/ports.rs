//! Keeps the ports of `nat` and the host's own sockets apart.
//!
//! A reply to a session and a packet to a socket of the host look the same if address and port are
//! equal. So the ports of `node.nat_ports` are **reserved** (the kernel does not choose them for
//! sockets any more), and are not taken into use while a socket is **bound** to one of them.
//! Reservations are recorded, so that `unload` releases just these.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

/// One list per network namespace, for TCP and UDP, IPv4 and IPv6.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

pub type PortRange = RangeInclusive<u16>;

#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error(
        "{protocol} socket {address} of this host is bound to a port of node.nat_ports \
         ({}-{}), which `nat` uses on the same address: stop the process (`ss -anp 'sport = :{}'` \
         names it), or choose other nat_ports",
        range.start(), range.end(), address.port()
    )]
    Bound {
        /// `tcp` or `udp`.
        protocol: &'static str,
        address: SocketAddr,
        range: PortRange,
    },
    #[error("can't {operation} {}: {source}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{RESERVED} is {text:?}, which is not a list of ports")]
    NotAList { text: String },
}

type Result<T> = std::result::Result<T, PortError>;

/// Parses a list in the kernel's format: `1-3,5`.
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

/// The union of `there` and `ours`, and the part of `ours` that was not in `there`.
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

/// Ports that the kernel does not choose for sockets.
///
/// # Errors
///
/// The list can't be read.
pub fn read_reserved() -> Result<Vec<PortRange>> {
    let text = fs::read_to_string(RESERVED).map_err(file_error("read", RESERVED))?;
    parse_list(&text).ok_or(PortError::NotAList { text })
}

/// The record of our reservations in this network namespace. A reboot removes both the reservations
/// and the record.
fn record_path() -> Result<PathBuf> {
    const NAMESPACE: &str = "/proc/self/ns/net";
    let namespace = fs::metadata(NAMESPACE).map_err(file_error("read", NAMESPACE))?;
    let name = format!("reserved-ports-{}", namespace.ino());
    Ok(PathBuf::from("/run/evenkeel").join(name))
}

fn read_record(path: &PathBuf) -> Vec<PortRange> {
    let text = fs::read_to_string(path).unwrap_or_default();
    parse_list(&text).unwrap_or_default()
}

/// Reserves ports in addition to those reserved already.
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
    let record = record_path()?;
    let (recorded, _) = merge(&read_record(&record), &added);
    if let Some(folder) = record.parent() {
        fs::create_dir_all(folder).map_err(file_error("create", folder))?;
    }
    // The record first: without it, the ports would never be released.
    fs::write(&record, show_list(&recorded)).map_err(file_error("write", &record))?;
    fs::write(RESERVED, show_list(&both)).map_err(file_error("write", RESERVED))
}

/// Releases the ports that [`reserve`] reserved.
///
/// # Errors
///
/// The list can't be read or written.
pub fn release() -> Result<()> {
    let record = record_path()?;
    let ours = read_record(&record);
    if !ours.is_empty() {
        let left = subtract(&read_reserved()?, &ours);
        // The kernel reads an empty line as an empty list.
        fs::write(RESERVED, show_list(&left) + "\n").map_err(file_error("write", RESERVED))?;
    }
    match fs::remove_file(&record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error("remove", &record)(error))
        }
        _ => Ok(()),
    }
}

/// Parses an address in the format of `/proc/net/tcp`: words in host order, port as a number.
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

/// The state TCP_TIME_WAIT.
const TIME_WAIT: &str = "06";

/// Addresses that the sockets of a table in `/proc/net` are bound to.
fn bound(table: &str) -> impl Iterator<Item = SocketAddr> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let state = fields.nth(1)?;
        (state != TIME_WAIT).then(|| parse_address(local))?
    })
}

/// Whether a socket bound to `socket` receives packets to a port of `range` at one of `addresses`. A
/// socket bound to `::` is assumed to receive IPv4 packets, since IPV6_V6ONLY can't be seen.
fn meets(socket: &SocketAddr, addresses: &[IpAddr], range: &PortRange) -> bool {
    let same = |address: &IpAddr| {
        socket.ip() == *address
            || socket.ip().is_unspecified() && (socket.is_ipv6() || address.is_ipv4())
    };
    range.contains(&socket.port()) && addresses.iter().any(same)
}

/// Checks that no socket of this host is bound to a port of `nat`.
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
            // The host has no IPv6.
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
    fn merges_and_subtracts_lists() {
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
        fn subtracting_what_was_added_restores_the_list(
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
    fn parses_the_kernels_socket_table() {
        let sockets: Vec<_> = bound(TCP).map(|socket| socket.to_string()).collect();
        assert_eq!(sockets, ["127.0.0.1:20000", "0.0.0.0:20001"]);
        let v6 = parse_address("B80D0120000000000000000001000000:01BB").unwrap();
        assert_eq!(v6.to_string(), "[2001:db8::1]:443");
    }

    #[test]
    fn matches_sockets_on_the_address_or_any_address() {
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
