//! The smallest XDP program, `return XDP_PASS`, loaded and attached without any library.
//!
//! A veth end drops, without a word, frames that its peer sends by native `XDP_TX` or `XDP_REDIRECT`, unless
//! it runs an XDP program itself (only then it has the NAPI context that takes such frames). So the
//! switch's end of every balancer's cable gets this one.
//!
//! It is two instructions, so building and loading an object file would cost more than it explains.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::namespace::Namespace;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Native mode or an error, never the generic one.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `r0 = XDP_PASS (2)`, then `exit`: opcode, registers, offset (2 bytes), immediate (4 bytes).
const INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The program on an interface; it comes off when this is dropped.
#[derive(Debug)]
pub struct PassProgram {
    _link: OwnedFd,
}

/// What `BPF_PROG_LOAD` reads of `union bpf_attr`.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// What `BPF_LINK_CREATE` reads of `union bpf_attr`.
#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Puts the program on an interface of a namespace, in native mode.
pub fn attach_pass(ns: &Namespace, interface: &str) -> Result<PassProgram> {
    // The kernel looks the interface's index up in the namespace of the calling thread.
    ns.enter(|| attach(interface))
        .with_context(|| format!("pass program on {interface} of {}", ns.name()))
}

fn attach(interface: &str) -> Result<PassProgram> {
    let program = load().context("BPF_PROG_LOAD")?;
    let ifindex = nix::net::if_::if_nametoindex(CString::new(interface)?.as_c_str())
        .context("no such interface")?;
    let attributes = LinkAttributes {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    let link = bpf(BPF_LINK_CREATE, &attributes).context("BPF_LINK_CREATE")?;
    Ok(PassProgram { _link: link })
}

fn load() -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..8].copy_from_slice(b"lab_pass");
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: INSTRUCTIONS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: BPF_XDP,
    };
    bpf(BPF_PROG_LOAD, &attributes)
}

/// A `bpf(2)` command that makes a file descriptor.
fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes of `attributes`, which is a `repr(C)` struct without
    // padding, and what its pointers name: constants of this file. It writes to none of them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<A>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
