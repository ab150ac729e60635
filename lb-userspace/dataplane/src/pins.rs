//! Pins in the BPF file system, which keep the data path when this process ends.
//!
//! ```text
//! <bpffs>/evenkeel/maps/NAME               the maps
//! <bpffs>/evenkeel/programs/evenkeel_lb    the last loaded program
//! <bpffs>/evenkeel/links/IFNAME            the program's link to an interface, native mode
//! <bpffs>/evenkeel/links/IFNAME:generic    the same, generic mode
//! <bpffs>/evenkeel/abi                     array of one number: the version of the maps' layout
//! <bpffs>/evenkeel/next/, previous/        maps during a migration to another layout
//! ```
//!
//! The layout version is a map, because the file system only holds BPF objects. It is pinned last:
//! maps without it are left from an interrupted start, used by no link, and are removed. Names in the
//! BPF file system can't have dots, so a dot in an interface name is written `%2E`.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
};

use aya::maps::{Array, MapData};
use lb_common::ABI_VERSION;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use super::{
    catalog::{ADDED, MapSpec},
    error::{DataplaneError, MISMATCH_HINT, PRIVILEGE_HINT, Result, chain},
    migration::PREVIOUS_LAYOUT,
    program::PROGRAM,
    syscalls::{detach_link, open_pinned},
};

/// Default mount point of the BPF file system.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

const MOUNT_HINT: &str =
    "mount it: `mount -t bpf -o mode=0700 bpf /sys/fs/bpf`, or name a folder where one is mounted";
/// Pins can be removed, and so forwarding be ended, by whoever can write to their folder.
const FOLDER_MODE: u32 = 0o700;
const REMOVE_HINT: &str = "remove it by hand, then run `evenkeel unload` again";

/// A folder of pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    folder: PathBuf,
}

impl Default for Pins {
    fn default() -> Self {
        Self::at(DEFAULT_BPFFS)
    }
}

/// A pinned data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Current,
    /// Of the layout before this one.
    Previous,
}

/// XDP mode of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkMode {
    Native,
    Generic,
}

impl Pins {
    /// Pins below the BPF file system at `bpffs`.
    #[must_use]
    pub fn at(bpffs: impl Into<PathBuf>) -> Self {
        Self::below(bpffs, Path::new("evenkeel"))
    }

    /// Pins in a `folder` below the BPF file system.
    pub(super) fn below(bpffs: impl Into<PathBuf>, folder: &Path) -> Self {
        let bpffs = bpffs.into();
        Self {
            folder: bpffs.join(folder),
            bpffs,
        }
    }

    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.folder().join("maps")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.folder().join("images")
    }

    /// Maps of this layout, while they are filled.
    pub(super) fn next(&self) -> PathBuf {
        self.folder().join("next")
    }

    /// Maps of the layout before, until those of this one are in use.
    pub(super) fn previous(&self) -> PathBuf {
        self.folder().join("previous")
    }

    fn programs(&self) -> PathBuf {
        self.folder().join("programs")
    }

    fn links(&self) -> PathBuf {
        self.folder().join("links")
    }

    fn abi(&self) -> PathBuf {
        self.folder().join("abi")
    }

    pub(super) fn link(&self, interface: &str, mode: LinkMode) -> PathBuf {
        let name = escaped(interface);
        self.links().join(match mode {
            LinkMode::Native => name,
            LinkMode::Generic => format!("{name}:generic"),
        })
    }

    /// Interfaces with a pinned link.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let names = entries(&self.links())?.into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let name = name.strip_suffix(":generic").unwrap_or(name);
            Some(name.replace("%2E", ".").replace("%25", "%"))
        });
        Ok(names.collect())
    }

    /// Whether the BPF file system is mounted.
    pub(super) fn is_mounted(&self) -> Result<bool> {
        let kind = statfs(&self.bpffs)
            .map_err(|error| failed("inspect", &self.bpffs, &error.into(), MOUNT_HINT))?;
        Ok(kind.filesystem_type() == BPF_FS_MAGIC)
    }

    /// The kernel's id of the counter map; another id means that the counters were reset.
    #[must_use]
    pub fn counters_id(&self) -> Option<u32> {
        let path = self.maps().join(super::catalog::name::COUNTERS);
        let map = MapData::from_pin(path).ok()?;
        map.info().ok().map(|info| info.id())
    }

    /// Memory of a pinned map as accounted by the kernel, in bytes.
    pub(super) fn memory_of(&self, map: &str) -> Option<u64> {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        let map = MapData::from_pin(self.maps().join(map)).ok()?;
        let fd = map.fd().as_fd().as_raw_fd();
        let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let bytes = facts
            .lines()
            .find_map(|line| line.strip_prefix("memlock:"))?;
        bytes.trim().parse().ok()
    }

    /// Mount point of the BPF file system.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Mounts the BPF file system unless it is mounted. Takes over pins in it that other users could change.
    pub fn mount(&self) -> Result<()> {
        if self.is_mounted()? {
            return self.protect();
        }
        mount(
            Some("bpf"),
            &self.bpffs,
            Some("bpf"),
            MsFlags::empty(),
            // The kernel's default is 1777.
            Some("mode=0700"),
        )
        .map_err(|error| {
            failed(
                "mount a BPF file system at",
                &self.bpffs,
                &error.into(),
                MOUNT_HINT,
            )
        })
    }

    pub(super) fn create_folders(&self) -> Result<()> {
        if let Some(parent) = self.folder().parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(parent)
                .map_err(|error| failed("create", parent, &error, PRIVILEGE_HINT))?;
        }
        for folder in self.folders() {
            match DirBuilder::new().mode(FOLDER_MODE).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create", &folder, &error, PRIVILEGE_HINT));
                }
                _ => {}
            }
        }
        // Another user may have been faster where all may write.
        self.protect()
    }

    /// The folder of the pins, and the folders in it.
    fn folders(&self) -> [PathBuf; 5] {
        let (maps, images) = (self.maps(), self.images());
        [self.folder(), maps, images, self.programs(), self.links()]
    }

    /// Makes the folders that exist accessible to this user only, whoever created them.
    fn protect(&self) -> Result<()> {
        let user = geteuid().as_raw();
        for folder in self.folders() {
            let protect = || {
                let found = fs::symlink_metadata(&folder)?;
                if !found.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                if found.uid() != user {
                    lchown(&folder, Some(user), None)?;
                }
                fs::set_permissions(&folder, Permissions::from_mode(FOLDER_MODE))
            };
            match protect() {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("protect", &folder, &error, REMOVE_HINT));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks for a data path that can be adopted or migrated. An error if one is pinned that can't.
    pub(super) fn find(&self, maps: &[MapSpec]) -> Result<Found> {
        if !self.abi().exists() {
            if let Some(link) = entries(&self.links())?.first() {
                return Err(mismatch(link, "no", "a map `abi` beside it"));
            }
            return Ok(Found::Nothing);
        }
        if self.version()? == PREVIOUS_LAYOUT {
            return Ok(Found::Previous);
        }
        self.check_version()?;
        for map in maps {
            let path = self.maps().join(map.name);
            if ADDED.contains(&map.name) && !path.exists() {
                continue;
            }
            let data = MapData::from_pin(&path).map_err(|error| {
                failed(
                    "open pinned map",
                    &path,
                    &io::Error::other(chain(&error)),
                    MISMATCH_HINT,
                )
            })?;
            map.check(&path.display().to_string(), &data)?;
        }
        Ok(Found::Current)
    }

    /// Checks the version of the pins; also an error if nothing is pinned.
    pub(super) fn check_version(&self) -> Result<()> {
        let version = self.version()?;
        if version == ABI_VERSION {
            return Ok(());
        }
        let (has, needs) = (version.to_string(), ABI_VERSION.to_string());
        Err(mismatch(&self.abi(), &has, &needs))
    }

    pub(super) fn version(&self) -> Result<u32> {
        let abi = self.abi();
        let read = || {
            let map = aya::maps::Map::from_map_data(MapData::from_pin(&abi)?)?;
            Array::<_, u32>::try_from(map)?.get(&0, 0)
        };
        read().map_err(|error| {
            failed(
                "read the version in",
                &abi,
                &io::Error::other(chain(&error)),
                MISMATCH_HINT,
            )
        })
    }

    pub(super) fn pin_version(&self) -> Result<()> {
        let abi = self.abi();
        let write = || -> std::result::Result<(), Box<dyn std::error::Error>> {
            let mut map = Array::<MapData, u32>::create(1, 0)?;
            map.set(0, ABI_VERSION, 0)?;
            Ok(map.pin(&abi)?)
        };
        write().map_err(|error| {
            failed(
                "pin",
                &abi,
                &io::Error::other(chain(error.as_ref())),
                PRIVILEGE_HINT,
            )
        })
    }

    pub(super) fn set_version(&self, version: u32) -> Result<()> {
        let abi = self.abi();
        let write = || {
            let map = aya::maps::Map::from_map_data(MapData::from_pin(&abi)?)?;
            Array::<_, u32>::try_from(map)?.set(0, version, 0)
        };
        write().map_err(|error| {
            let error = io::Error::other(chain(&error));
            failed("write the version in", &abi, &error, PRIVILEGE_HINT)
        })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(|error| failed("rename", from, &error, REMOVE_HINT))
    }

    pub(super) fn remove_maps(&self) -> Result<()> {
        remove_with_pins(&self.maps())
    }

    pub(super) fn remove_next(&self) -> Result<()> {
        remove_with_pins(&self.next())
    }

    pub(super) fn remove_previous(&self) -> Result<()> {
        remove_with_pins(&self.previous())
    }

    /// Path of the pinned program.
    pub(super) fn program(&self) -> PathBuf {
        self.programs().join(PROGRAM)
    }

    /// Replaces the pinned program atomically.
    pub(super) fn pin_program(&self, program: &mut aya::programs::Xdp) -> Result<()> {
        let path = self.program();
        let next = self.programs().join(format!("{PROGRAM}_next"));
        remove(&next)?;
        program.pin(&next).map_err(|error| {
            failed(
                "pin",
                &next,
                &io::Error::other(chain(&error)),
                PRIVILEGE_HINT,
            )
        })?;
        fs::rename(&next, &path).map_err(|error| failed("rename", &next, &error, REMOVE_HINT))
    }

    /// Detaches a pinned link and removes its pin; returns whether there was one.
    pub(super) fn remove_link(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        open_pinned(path)
            .and_then(|link| detach_link(&link))
            .map_err(|error| failed("detach", path, &error, REMOVE_HINT))?;
        remove(path)
    }

    /// Removes all pins, links first.
    pub fn remove_all(&self) -> Result<()> {
        for link in entries(&self.links())? {
            Self::remove_link(&link)?;
        }
        let maps = [self.maps(), self.next(), self.previous()];
        for folder in [self.links(), self.programs(), self.images()]
            .iter()
            .chain(&maps)
        {
            remove_with_pins(folder)?;
        }
        remove(&self.abi())?;
        remove_folder(&self.folder())
    }
}

/// Escapes an interface name for the BPF file system.
pub(super) fn escaped(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2E")
}

pub(super) fn failed(
    operation: &'static str,
    path: &Path,
    error: &io::Error,
    hint: &'static str,
) -> DataplaneError {
    DataplaneError::Pin {
        operation,
        path: path.to_owned(),
        kernel: error.to_string(),
        hint,
    }
}

fn mismatch(path: &Path, has: &str, needs: &str) -> DataplaneError {
    DataplaneError::Incompatible {
        map: path.display().to_string(),
        what: "layout version",
        has: has.to_owned(),
        needs: needs.to_owned(),
        hint: MISMATCH_HINT,
    }
}

/// Paths in a folder; none if there is no such folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| failed("list", folder, &error, PRIVILEGE_HINT)),
    }
}

/// Removes a file; returns whether it existed.
pub(super) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path, &error, REMOVE_HINT)),
    }
}

/// Removes a folder and the pins in it, if it exists.
fn remove_with_pins(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        remove(&path)?;
    }
    remove_folder(folder)
}

pub(super) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, &error, REMOVE_HINT))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_dots_in_names() {
        let pins = Pins::at("/b");
        let native = pins.link("eth0.100", LinkMode::Native);
        assert_eq!(native, Path::new("/b/evenkeel/links/eth0%2E100"));
        let generic = pins.link("a%b", LinkMode::Generic);
        assert_eq!(generic, Path::new("/b/evenkeel/links/a%25b:generic"));
    }
}
