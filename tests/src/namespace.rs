//! Network namespaces: each is one host of the lab.
//!
//! A **thread** creates or enters a namespace with `unshare` or `setns`. Both change only the calling
//! thread, which might fail to return, so each entry uses a new thread. `ip netns exec`, which would
//! mount a new `/sys`, is not needed. A socket stays in the namespace in which it was created.
//!
//! Trap: `/proc/net` is that of the process's *main* thread. Inside, read `/proc/thread-self/net`.
//! `/proc/sys/net` follows the calling thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::leftovers;
use crate::run::Run;

/// Folder of namespace names, where `ip -n NAME` and `nsenter --net=` find them.
pub(crate) const NAMES: &str = "/run/netns";

/// A network namespace. Dropping it kills the processes in it and removes its name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    entry: Entry,
}

/// A handle for entering a namespace, also after its name is removed.
#[derive(Clone, Debug)]
pub struct Entry(Arc<OwnedFd>);

impl Namespace {
    /// Creates a namespace with only a loopback interface, which is up.
    pub fn new(role: &str) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("creating network namespaces needs root: run the lab with sudo");
        }
        leftovers::sweep_once();
        let name = Run::current().name(role);
        let path = Path::new(NAMES).join(&name);
        let file = thread::spawn({
            let path = path.clone();
            move || make(&path)
        })
        .join()
        .unwrap_or_else(|panic| resume_unwind(panic))
        .with_context(|| format!("create the network namespace {name}"))?;
        let namespace = Self {
            name,
            entry: Entry(Arc::new(file)),
        };
        namespace.set_defaults()?;
        Ok(namespace)
    }

    /// Returns the name for `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a handle for threads and processes that outlive a borrow.
    pub fn entry(&self) -> Entry {
        self.entry.clone()
    }

    /// Runs a closure inside, on a new thread. Propagates panics.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.entry.set_thread();
                    inside()
                })
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Sets a sysctl, such as `net.ipv4.ip_forward`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))
            .with_context(|| format!("sysctl {key} = {value} in {}", self.name))
    }

    /// Reads a file under `/proc/net` of the namespace.
    pub fn read_proc_net(&self, file: &str) -> Result<String> {
        self.enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))
            .with_context(|| format!("/proc/net/{file} of {}", self.name))
    }

    /// Sets sysctls before the first interface is created: each new one copies `default`.
    fn set_defaults(&self) -> Result<()> {
        for (key, value) in [
            // Addresses are usable at once, and router advertisements are ignored.
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
            // With direct server return, replies arrive where a strict check does not expect them.
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ] {
            self.set_sysctl(key, value)?;
        }
        crate::link::ip(self, &["link set lo up"])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let path = Path::new(NAMES).join(&self.name);
        if let Err(error) = remove(&path) {
            eprintln!("lab: remove the namespace {}: {error:#}", self.name);
        }
    }
}

impl Entry {
    /// Moves the calling thread inside. Safe between `fork` and `exec`: it is one system call.
    pub(crate) fn set_current(&self) -> io::Result<()> {
        Ok(setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }

    fn set_thread(&self) {
        self.set_current()
            .expect("setns with a descriptor of a network namespace, as root");
    }

    /// Starts a thread inside.
    pub fn spawn(
        &self,
        name: &str,
        inside: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let entry = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            entry.set_thread();
            inside();
        })
    }
}

/// Must run on a thread that ends afterwards, because it leaves the process's namespace.
fn make(path: &Path) -> Result<OwnedFd> {
    const THIS: &str = "/proc/thread-self/ns/net";
    unshare(CloneFlags::CLONE_NEWNET).context("unshare")?;
    std::fs::create_dir_all(NAMES).context(NAMES)?;
    File::create_new(path).with_context(|| path.display().to_string())?;
    let mounted = mount(
        Some(THIS),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    );
    if let Err(error) = mounted {
        let _ = std::fs::remove_file(path);
        return Err(error).context("mount its name");
    }
    Ok(File::open(THIS).context(THIS)?.into())
}

/// Kills the processes in the namespace with this name and removes the name.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if let Ok(data) = path.metadata() {
        leftovers::kill_inside((data.dev(), data.ino()));
    }
    // EINVAL: not mounted, because its creator died before mounting it.
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).context("unmount its name"),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("remove its name")
        }
        _ => Ok(()),
    }
}
