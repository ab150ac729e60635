//! Attaching XDP programs to interfaces.
//!
//! A program is attached by a BPF link (Linux 5.9). The link's pin keeps it attached when this process
//! ends, and its program can be replaced atomically. On EINVAL, aya falls back to attaching by
//! netlink; that can't be pinned, so here it is an error.

use std::{fs, io, os::fd::AsRawFd as _, path::Path};

use aya::programs::{
    ProgramError, Xdp,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpMode as AyaMode},
};

use super::{
    error::{DataplaneError, PRIVILEGE_HINT, Result, chain, os_error},
    pins::{LinkMode, Pins},
    syscalls::open_pinned,
};

/// Requested XDP mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver. Fails if the driver does not support it.
    Native,
    /// In the network stack: slow, but works with every driver.
    Generic,
    /// In the driver, else in the network stack.
    Auto,
}

/// XDP mode that a program was attached in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    Native,
    /// As requested.
    Generic,
    /// Generic mode, because the driver rejected native mode.
    Fallback {
        /// Error of the attempt in native mode.
        why: String,
    },
}

impl AttachedMode {
    const fn of(mode: LinkMode) -> Self {
        match mode {
            LinkMode::Native => Self::Native,
            LinkMode::Generic => Self::Generic,
        }
    }
}

const UNKNOWN_HINT: &str = "`ip link` lists the interfaces of this network namespace";
const DRIVER_HINT: &str = "the driver does not support native XDP: choose generic mode (xdp_mode or --mode \
     \"generic\"), or \"auto\" to fall back";
const BUSY_HINT: &str = "another XDP program is attached (`ip link` shows its id): detach it first";
const RANGE_HINT: &str = "the driver rejects native XDP in this configuration (often: MTU above about \
     3,500 bytes, or too many queues): change it, or choose generic mode (xdp_mode or --mode \
     \"generic\")";
const LINK_HINT: &str = "BPF links need Linux 5.9 or newer";

/// Attaches the program to an interface in one mode.
pub(super) fn attach(xdp: &mut Xdp, interface: &str, mode: LinkMode) -> Result<FdLink> {
    let flags = match mode {
        LinkMode::Native => AyaMode::Driver,
        LinkMode::Generic => AyaMode::Skb,
    };
    let id = xdp
        .attach(interface, flags)
        .map_err(|error| attach_error(interface, &error))?;
    let link = xdp
        .take_link(id)
        .map_err(|error| attach_error(interface, &error))?;
    // An attachment without a link is undone by dropping it here.
    FdLink::try_from(link).map_err(|_| DataplaneError::Interface {
        operation: "attach to",
        interface: interface.to_owned(),
        kernel: "the kernel created no BPF link (EINVAL)".into(),
        hint: LINK_HINT,
    })
}

/// Attaches the program in the first mode that works.
pub(super) fn attach_as(
    xdp: &mut Xdp,
    interface: &str,
    mode: XdpMode,
) -> Result<(FdLink, LinkMode, AttachedMode)> {
    let first = if mode == XdpMode::Generic {
        LinkMode::Generic
    } else {
        LinkMode::Native
    };
    match attach(xdp, interface, first) {
        Ok(link) => Ok((link, first, AttachedMode::of(first))),
        Err(error) if mode == XdpMode::Auto && driver_refused(&error) => {
            let link = attach(xdp, interface, LinkMode::Generic)?;
            Ok((
                link,
                LinkMode::Generic,
                AttachedMode::Fallback {
                    why: error.to_string(),
                },
            ))
        }
        Err(error) => Err(error),
    }
}

/// Attaches by a pinned link: replaces the program in the existing one, or creates one.
pub(super) fn attach_pinned(
    xdp: &mut Xdp,
    pins: &Pins,
    interface: &str,
    mode: XdpMode,
) -> Result<AttachedMode> {
    let pinned = [LinkMode::Native, LinkMode::Generic]
        .into_iter()
        .find(|&mode| pins.link(interface, mode).exists());
    let mut before = None;
    if let Some(there) = pinned {
        let wanted = match mode {
            XdpMode::Native => LinkMode::Native,
            XdpMode::Generic => LinkMode::Generic,
            XdpMode::Auto => there,
        };
        if wanted == there && replace(xdp, pins, interface, there)? {
            return Ok(AttachedMode::of(there));
        }
        // The modes exclude each other: changing the mode leaves a gap.
        Pins::remove_link(&pins.link(interface, there))?;
        before = (wanted != there).then_some(there);
    }
    let attached = attach_as(xdp, interface, mode);
    let (link, link_mode, attached) = match (attached, before) {
        (Ok(attached), _) => attached,
        (Err(error), None) => return Err(error),
        (Err(error), Some(before)) => {
            pin(attach(xdp, interface, before)?, pins, interface, before)?;
            return Err(error);
        }
    };
    pin(link, pins, interface, link_mode)?;
    Ok(attached)
}

/// Pins a link, which keeps it.
fn pin(link: FdLink, pins: &Pins, interface: &str, mode: LinkMode) -> Result<()> {
    let path = pins.link(interface, mode);
    link.pin(&path)
        .map(drop)
        .map_err(|error| DataplaneError::Pin {
            operation: "pin the link",
            path,
            kernel: chain(&error),
            hint: PRIVILEGE_HINT,
        })
}

/// Replaces the program in a pinned link. Returns false if the link's interface is gone or renamed.
fn replace(xdp: &mut Xdp, pins: &Pins, interface: &str, mode: LinkMode) -> Result<bool> {
    let path = pins.link(interface, mode);
    let failed = |kernel: String| DataplaneError::Interface {
        operation: "replace the program on",
        interface: interface.to_owned(),
        kernel,
        hint: "if this persists, remove it (`evenkeel unload`, `evenkeel decap --remove`) and start again",
    };
    let ifindex =
        nix::net::if_::if_nametoindex(interface).map_err(|error| DataplaneError::Interface {
            operation: "find",
            interface: interface.to_owned(),
            kernel: error.to_string(),
            hint: UNKNOWN_HINT,
        })?;
    if interface_of(&path) != Some(ifindex) {
        return Ok(false);
    }
    let link = FdLink::from(PinnedLink::from_pin(&path).map_err(|error| failed(chain(&error)))?);
    let link = XdpLink::try_from(link).map_err(|error| failed(chain(&error)))?;
    let id = xdp
        .attach_to_link(link)
        .map_err(|error| failed(chain(&error)))?;
    // Keep the link from being detached when the program is dropped; the pin holds it.
    let link = xdp.take_link(id).map_err(|error| failed(chain(&error)))?;
    FdLink::try_from(link)
        .map(drop)
        .map_err(|error| failed(chain(&error)))?;
    Ok(true)
}

/// Replaces the program with this id in the pinned links that have it. Returns their number.
pub(super) fn replace_program(xdp: &mut Xdp, pins: &Pins, id: u32) -> Result<u32> {
    let mut replaced = 0;
    for link in status(pins)? {
        let mode = if link.generic {
            LinkMode::Generic
        } else {
            LinkMode::Native
        };
        if link.program_id == Some(id) && replace(xdp, pins, &link.interface, mode)? {
            replaced += 1;
        }
    }
    Ok(replaced)
}

/// Replaces the program in all pinned links.
pub(super) fn replace_all(xdp: &mut Xdp, pins: &Pins) -> Result<()> {
    let mut all = Ok(());
    for interface in pins.interfaces()? {
        for mode in [LinkMode::Native, LinkMode::Generic] {
            if pins.link(&interface, mode).exists() {
                all = all.and(replace(xdp, pins, &interface, mode).map(drop));
            }
        }
    }
    all
}

/// Index of the interface that a pinned link is attached to, 0 if that is gone. From `/proc`, since
/// aya does not expose it.
pub(super) fn interface_of(path: &Path) -> Option<u32> {
    let link = open_pinned(path).ok()?;
    let page = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).ok()?;
    field(&page, "ifindex")?.parse().ok()
}

/// State of a pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    pub interface: String,
    /// Whether the program runs in the network stack, not in the driver.
    pub generic: bool,
    /// Id of the link's program; none if the interface is gone or the link is detached.
    pub program_id: Option<u32>,
    /// Index of the interface, which may have another name by now.
    pub ifindex: Option<u32>,
}

/// State of the pinned links.
///
/// # Errors
///
/// A link can't be read: it may be attached.
pub fn status(pins: &Pins) -> Result<Vec<LinkStatus>> {
    let mut links = Vec::new();
    for interface in pins.interfaces()? {
        // A pin may have been removed since it was listed.
        let native = link_at(pins, &interface, LinkMode::Native)?;
        links.extend(match native {
            Some(native) => Some(native),
            None => link_at(pins, &interface, LinkMode::Generic)?,
        });
    }
    Ok(links)
}

/// State of a link; `None` if it is not pinned.
fn link_at(pins: &Pins, interface: &str, mode: LinkMode) -> Result<Option<LinkStatus>> {
    let path = pins.link(interface, mode);
    let read = || -> io::Result<(u32, u32)> {
        let link = open_pinned(&path)?;
        let page = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
        let number = |name| {
            let number = field(&page, name).and_then(|it| it.parse().ok());
            number.ok_or_else(|| io::Error::other(format!("its description has no {name}")))
        };
        Ok((number("ifindex")?, number("prog_id")?))
    };
    let (ifindex, program_id) = match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| DataplaneError::Pin {
            operation: "read the link",
            path,
            kernel: error.to_string(),
            hint: PRIVILEGE_HINT,
        })?,
    };
    // A link that lost its interface still names its program.
    let is_attached = ifindex != 0;
    Ok(Some(LinkStatus {
        interface: interface.to_owned(),
        generic: mode == LinkMode::Generic,
        program_id: is_attached.then_some(program_id),
        ifindex: is_attached.then_some(ifindex),
    }))
}

/// Value of a line `name: value`.
fn field<'page>(page: &'page str, name: &str) -> Option<&'page str> {
    page.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn driver_refused(error: &DataplaneError) -> bool {
    matches!(error, DataplaneError::Interface { hint, .. }
        if [DRIVER_HINT, RANGE_HINT, LINK_HINT].contains(hint))
}

fn attach_error(interface: &str, error: &ProgramError) -> DataplaneError {
    let hint = match (error, os_error(error)) {
        (ProgramError::UnknownInterface { .. }, _) | (_, Some(libc::ENODEV)) => UNKNOWN_HINT,
        (_, Some(libc::EOPNOTSUPP)) => DRIVER_HINT,
        (_, Some(libc::EBUSY | libc::EEXIST)) => BUSY_HINT,
        (_, Some(libc::EPERM | libc::EACCES)) => PRIVILEGE_HINT,
        _ => RANGE_HINT,
    };
    DataplaneError::Interface {
        operation: "attach to",
        interface: interface.to_owned(),
        kernel: chain(error),
        hint,
    }
}
