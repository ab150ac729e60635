//! The program and the interfaces.
//!
//! A program is attached by a BPF link (Linux 5.9). Its pin keeps it attached without us, and the
//! program in it can be replaced in one step. aya falls back to an older way of attaching when the
//! kernel refuses with EINVAL; what that leaves can't be pinned, so here it is an error.

use std::{fs, os::fd::AsRawFd as _, path::Path};

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

/// How the program is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver. Fails where the driver can't.
    Native,
    /// In the kernel's network stack: slow, works everywhere.
    Generic,
    /// In the driver, else in the stack.
    Auto,
}

/// How it was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the network stack, as asked for.
    Generic,
    /// In the network stack, because the driver refused. To be said loudly.
    Fallback {
        /// What the native attempt said.
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
const DRIVER_HINT: &str = "the driver has no native XDP: choose generic mode (xdp_mode or --mode \
     \"generic\"), or \"auto\" to fall back";
const BUSY_HINT: &str = "another XDP program is attached (`ip link` shows its id): remove it first";
const RANGE_HINT: &str = "the driver refuses native XDP as the interface is set up (often: the MTU \
     is over about 3,500 bytes, or too many queues): change that, or choose generic mode (xdp_mode or \
     --mode \"generic\")";
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
    // What is not a link is detached when it is dropped here.
    FdLink::try_from(link).map_err(|_| DataplaneError::Interface {
        operation: "attach to",
        interface: interface.to_owned(),
        kernel: "the kernel made no BPF link (EINVAL)".into(),
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

/// Attaches by a pinned link: replaces the program in the one that is there, or makes one.
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
        // The modes exclude each other: there is no way to change without a gap.
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

/// Pins a link; the pin alone keeps it then.
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

/// Puts the program into a pinned link. Says no when the link is to an interface that is gone, or
/// that has another name now.
fn replace(xdp: &mut Xdp, pins: &Pins, interface: &str, mode: LinkMode) -> Result<bool> {
    let path = pins.link(interface, mode);
    let failed = |kernel: String| DataplaneError::Interface {
        operation: "replace the program on",
        interface: interface.to_owned(),
        kernel,
        hint: "remove it (`evenkeel unload`, `evenkeel decap --remove`) and start again if it stays so",
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
    // The pin keeps the link; without this it would be detached when the program is dropped.
    let link = xdp.take_link(id).map_err(|error| failed(chain(&error)))?;
    FdLink::try_from(link)
        .map(drop)
        .map_err(|error| failed(chain(&error)))?;
    Ok(true)
}

/// Index of the interface that a pinned link is attached to, 0 when that is gone. aya does not tell,
/// the descriptor's page under `/proc` does.
pub(super) fn interface_of(path: &Path) -> Option<u32> {
    let link = open_pinned(path).ok()?;
    let page = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).ok()?;
    field(&page, "ifindex")?.parse().ok()
}

/// What a pinned link has to do with an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Name of the interface.
    pub interface: String,
    /// Whether packets meet the program in the stack, not in the driver.
    pub generic: bool,
    /// Id of the program in the link; none when the interface is gone or the link is detached.
    pub program_id: Option<u32>,
}

/// How the pinned links are, as the kernel tells.
pub(super) fn status(pins: &Pins) -> Result<Vec<LinkStatus>> {
    let names = pins.interfaces()?.into_iter();
    Ok(names
        .map(|interface| {
            let path = [LinkMode::Native, LinkMode::Generic].map(|m| pins.link(&interface, m));
            let generic = !path[0].exists();
            let program_id = program_of(&path[usize::from(generic)]);
            LinkStatus {
                interface,
                generic,
                program_id,
            }
        })
        .collect())
}

fn program_of(path: &Path) -> Option<u32> {
    let link = open_pinned(path).ok()?;
    let page = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd())).ok()?;
    let ifindex: u32 = field(&page, "ifindex")?.parse().ok()?;
    // A link that lost its interface still names its program.
    if ifindex == 0 {
        return None;
    }
    field(&page, "prog_id")?.parse().ok()
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
