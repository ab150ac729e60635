//! XDP programs of a few instructions, loaded and attached without a library.
//!
//! The lab needs programs other than the balancer: for the switch ([`crate::pass_program`]), and in
//! place of the balancer in the lab's own tests. They are too small to justify an object file.

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

/// A BPF instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    pub opcode: u8,
    /// Destination register in the low four bits, source register in the high ones.
    pub registers: u8,
    /// Offset of a jump or a memory access.
    pub offset: i16,
    pub immediate: i32,
}

/// A program on an interface, detached when dropped.
#[derive(Debug)]
pub struct XdpProgram {
    _link: OwnedFd,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads.
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

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads.
#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

impl XdpProgram {
    /// Loads instructions and attaches them to an interface of a namespace, in native mode.
    pub fn attach(ns: &Namespace, interface: &str, instructions: &[Instruction]) -> Result<Self> {
        // The kernel looks up the interface index in the namespace of the calling thread.
        ns.enter(|| attach(interface, instructions))
            .with_context(|| format!("attach an XDP program to {interface} of {}", ns.name()))
    }
}

fn attach(interface: &str, instructions: &[Instruction]) -> Result<XdpProgram> {
    let program = load(instructions).context("BPF_PROG_LOAD")?;
    let ifindex = nix::net::if_::if_nametoindex(CString::new(interface)?.as_c_str())
        .context("no such interface")?;
    let attributes = LinkAttributes {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: `LinkAttributes` is the start of `union bpf_attr` for this command, without padding
    // or pointers.
    let link = unsafe { bpf(BPF_LINK_CREATE, &attributes) }.context("BPF_LINK_CREATE")?;
    Ok(XdpProgram { _link: link })
}

fn load(instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..3].copy_from_slice(b"lab");
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: instructions.len().try_into()?,
        insns: instructions.as_ptr() as u64,
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
    // SAFETY: `LoadAttributes` is the start of `union bpf_attr` for this command, without padding.
    // The kernel only reads what the pointers refer to: `insn_cnt` instructions of 8 bytes, and a
    // string that ends with 0.
    Ok(unsafe { bpf(BPF_PROG_LOAD, &attributes) }?)
}

/// Executes a `bpf(2)` command that returns a file descriptor.
///
/// # Safety
/// `attributes` must be valid for the command.
unsafe fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes of `attributes`; the caller guarantees their content.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<A>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just created this descriptor (close-on-exec); nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
