//! System calls that neither aya nor nix provides.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use bytemuck::Pod;

/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`, Linux 3.18.
const MAP_UPDATE_ELEM: libc::c_int = 2;

/// `BPF_OBJ_GET`, Linux 4.4.
const OBJ_GET: libc::c_int = 7;

/// `BPF_MAP_LOOKUP_BATCH`, Linux 5.6.
const MAP_LOOKUP_BATCH: libc::c_int = 24;

/// `BPF_LINK_DETACH`, Linux 5.9.
const LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that these commands read.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    /// `BPF_OBJ_GET`: pointer to the path. `BPF_LINK_DETACH`: the descriptor, in the lower half.
    first: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn bpf(command: libc::c_int, attributes: &Attributes) -> io::Result<libc::c_long> {
    let size = size_of::<Attributes>();
    // SAFETY: the kernel reads `size` bytes of `attributes`, and a pointer among them only for
    // `BPF_OBJ_GET`, whose caller keeps what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Opens the object pinned at a path.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        first: path.as_ptr().expose_provenance() as u64,
        ..Attributes::default()
    };
    let fd = bpf(OBJ_GET, &attributes)?;
    // SAFETY: the kernel has just given us this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Detaches a link immediately, even if others hold it. Removing its last pin would detach it some
/// time later and keep the interface busy until then.
pub(super) fn detach_link(link: &OwnedFd) -> io::Result<()> {
    let mut attributes = Attributes::default();
    let fd = (link.as_raw_fd() as u32).to_ne_bytes();
    let mut first = [0; 8];
    first[..4].copy_from_slice(&fd);
    attributes.first = u64::from_ne_bytes(first);
    bpf(LINK_DETACH, &attributes).map(drop)
}

/// The part of `union bpf_attr` that commands on one element read.
#[repr(C)]
struct Element {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Sets an element of an array of maps. The kernel waits for a grace period, which calls from several
/// threads share; aya's call takes the map for itself.
pub(super) fn set_inner_map(
    outer: BorrowedFd<'_>,
    index: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = inner.as_raw_fd() as u32;
    let element = Element {
        map_fd: outer.as_raw_fd() as u32,
        _pad: 0,
        key: (&raw const index).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    let size = size_of::<Element>();
    // SAFETY: the kernel reads `size` bytes of `element`, and of such a map a 32-bit key and a 32-bit
    // value, all of which live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_ELEM, &raw const element, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The part of `union bpf_attr` that batch commands read.
#[repr(C)]
#[derive(Default)]
struct Batch {
    /// End of the last batch; 0 at first.
    from: u64,
    /// End of this batch: a 32-bit number for hash maps.
    to: u64,
    keys: u64,
    values: u64,
    /// In: capacity of the buffers. Out: number of elements.
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Reads a hash map, `at_once` elements per call: more than the largest bucket holds.
pub(super) fn read_hash<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    at_once: usize,
) -> io::Result<Vec<(K, V)>> {
    let mut keys = vec![K::zeroed(); at_once];
    let mut values = vec![V::zeroed(); at_once];
    let mut read = Vec::new();
    let mut place = [0_u32; 2];
    let mut first = true;
    loop {
        let mut batch = Batch {
            from: if first {
                0
            } else {
                place.as_ptr().expose_provenance() as u64
            },
            to: place.as_mut_ptr().expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: at_once as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let size = size_of::<Batch>();
        // SAFETY: the kernel reads and writes `size` bytes of `batch`, up to `count` elements of the
        // two vectors, whose elements have the map's sizes (checked when it was opened) and accept any
        // bytes, and a 32-bit number at `from` and `to`; all of them live until it returns.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut batch, size) };
        let ended = if result < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            true
        } else {
            false
        };
        let count = at_once.min(batch.count as usize);
        read.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if ended {
            return Ok(read);
        }
        first = false;
    }
}

/// Waits until every program run that has begun has ended.
///
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu` for userspace (Linux 4.3). It is
/// refused with EINVAL on kernels booted with `nohz_full`.
pub(super) fn membarrier_global() -> io::Result<()> {
    let command = libc::MEMBARRIER_CMD_GLOBAL;
    // SAFETY: the system call takes three numbers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
