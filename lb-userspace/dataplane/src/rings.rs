//! Ring images: an array of maps, each an array mapped into this process.
//!
//! An image in use by a VIP is never written to. A new ring is **staged** in a spare image, the VIP is
//! pointed to it by one store, and the old image is **retired**: running programs may still read it,
//! so it is reused only after a **grace period**, when all program runs of that moment have ended.
//!
//! Images are created ahead of time, because the kernel waits for a grace period when one is installed.
//! Several are installed at once, by threads that wait together.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
};

use aya::maps::{Array, ArrayOfMaps, IterableMap, Map, MapData, MapError};
use lb_common::ring::{
    ENTRIES_PER_WORD, IMAGE_WORDS, Image, MAX_IMAGES, SECTION_WORDS, Slot, entry,
};

use super::{
    catalog::{IMAGE, MMAPABLE, name},
    error::{DataplaneError, PRIVILEGE_HINT, Result, chain},
    mapping::Mapped,
    maps::data_of,
    pins::entries,
    syscalls::{membarrier_global, set_inner_map},
    vips::RingName,
};

/// Minimum number of spare images.
pub const SPARE_IMAGES: usize = 4;
/// Maximum number of spare images: the room left beside one image for each VIP.
pub const MOST_SPARE_IMAGES: usize = 64;

/// Images that are installed at once, each by a thread that waits for the kernel's grace period.
const INSTALLED_AT_ONCE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageIndex(pub u32);

#[derive(Debug)]
pub struct Rings {
    outer: ArrayOfMaps<MapData, Array<MapData, Image>>,
    /// The same map, for a call that aya does not have.
    outer_fd: OwnedFd,
    /// Folder where the images are pinned by their index.
    pins: Option<PathBuf>,
    images: BTreeMap<ImageIndex, Mapped<u64>>,
    /// Read by no program.
    spare: Vec<ImageIndex>,
    /// Used by no VIP, but running programs may still read them.
    retired: Vec<ImageIndex>,
}

impl Rings {
    /// Adopts the images pinned in `pins` and those in use by VIPs. An earlier process may have left
    /// others unpinned; they are ignored.
    ///
    /// From pins where possible: reading inner maps from the outer map needs CAP_SYS_ADMIN.
    pub(super) fn adopt(
        outer: Map,
        pins: Option<PathBuf>,
        named: impl IntoIterator<Item = ImageIndex>,
    ) -> Result<Self> {
        let missing = DataplaneError::Missing {
            kind: "array of maps",
            name: name::RINGS,
        };
        let outer_fd = data_of(&outer).ok_or(missing)?.fd().as_fd();
        let mut rings = Self {
            outer_fd: outer_fd
                .try_clone_to_owned()
                .map_err(|error| io_error("open", &error))?,
            outer: outer
                .try_into()
                .map_err(|error| map_error("open", &error))?,
            pins,
            images: BTreeMap::new(),
            spare: Vec::new(),
            retired: Vec::new(),
        };
        let pinned = rings.pins.as_deref().map(pinned_images).transpose()?;
        for index in pinned.unwrap_or_default() {
            let image = rings.open(index)?;
            rings.map_image(index, &image)?;
        }
        rings.retired = rings.images.keys().copied().collect();
        for index in named {
            if !rings.images.contains_key(&index) {
                let image = rings.open(index)?;
                rings.map_image(index, &image)?;
            }
            rings.retired.retain(|&retired| retired != index);
        }
        Ok(rings)
    }

    /// Opens an existing image from its pin, or else from the outer map.
    fn open(&self, index: ImageIndex) -> Result<Array<MapData, Image>> {
        let pin = self.pins.as_ref().map(|folder| pin_of(folder, index));
        let opened = match pin.filter(|pin| pin.exists()) {
            Some(pin) => MapData::from_pin(pin)
                .and_then(Map::from_map_data)
                .and_then(Array::try_from),
            None => self.outer.get(&index.0, 0),
        };
        opened.map_err(|error| map_error("look up an image", &error))
    }

    fn map_image(&mut self, index: ImageIndex, image: &Array<MapData, Image>) -> Result<()> {
        IMAGE.check(&format!("{} {}", IMAGE.name, index.0), image_data(image))?;
        let mapped = Mapped::of(IMAGE.name, image_data(image).fd(), 0, IMAGE_WORDS)?;
        self.images.insert(index, mapped);
        Ok(())
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Number of spare images.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.spare.len()
    }

    /// Creates images until `spare` are available, after reclaiming retired ones. Call it when nothing
    /// is urgent, after a batch of swaps: otherwise the next [`Self::stage`] has to wait for this
    /// (about 10 ms).
    pub fn reserve(&mut self, spare: usize) -> Result<()> {
        self.reclaim()?;
        self.create(spare.saturating_sub(self.spare.len()))
    }

    /// Writes a ring to a spare image and verifies it. Words past the end of `words` are zero.
    pub fn stage(&mut self, words: &[u64]) -> Result<ImageIndex> {
        let image = self.take(1)?[0];
        if let Err(error) = self.fill(image, words) {
            self.retire(image);
            return Err(error);
        }
        Ok(image)
    }

    /// Takes spare images, to be filled and used by VIPs, or else retired.
    pub fn take(&mut self, images: usize) -> Result<Vec<ImageIndex>> {
        if self.spare.len() < images {
            self.reclaim()?;
        }
        if self.spare.len() < images {
            self.reserve(images.max(SPARE_IMAGES))?;
        }
        Ok(self.spare.split_off(self.spare.len() - images))
    }

    /// Writes a ring to a taken image and verifies it. Words past the end of `words` are zero.
    pub fn fill(&self, image: ImageIndex, words: &[u64]) -> Result<()> {
        if words.len() > IMAGE_WORDS as usize {
            return Err(DataplaneError::OutOfRange {
                table: IMAGE.name,
                index: words.len() as u32,
                len: IMAGE_WORDS,
            });
        }
        self.write(image, words)?;
        self.verify(image, words)
    }

    /// Whether an image may be written to, now or after a grace period.
    #[must_use]
    pub fn is_free(&self, image: ImageIndex) -> bool {
        self.retired.contains(&image) || self.spare.contains(&image)
    }

    /// Gives back an image that no VIP uses any more.
    pub fn retire(&mut self, image: ImageIndex) {
        let known = self.images.contains_key(&image);
        if known && !self.is_free(image) {
            self.retired.push(image);
        }
    }

    /// Makes retired images spare, after a grace period if there are any.
    pub fn reclaim(&mut self) -> Result<()> {
        if !self.retired.is_empty() {
            self.grace_period()?;
            self.spare.append(&mut self.retired);
        }
        Ok(())
    }

    /// Waits until every program run that began before this call has ended.
    ///
    /// If `membarrier` is not permitted, rewrites an entry of the array of maps with its value: the
    /// kernel then waits before it returns (since 4.20), because userspace may reuse the old map.
    pub fn grace_period(&mut self) -> Result<()> {
        if membarrier_global().is_ok() {
            Ok(())
        } else {
            self.grace_period_by_update()
        }
    }

    /// The fallback of [`Self::grace_period`].
    pub(super) fn grace_period_by_update(&mut self) -> Result<()> {
        let Some(&index) = self.images.keys().next() else {
            // Creating an image writes an entry, too.
            return self.create(1);
        };
        let image = self.open(index)?;
        self.outer
            .set(index.0, &image, 0)
            .map_err(|error| map_error("wait for a grace period by an update", &error))
    }

    pub fn words(&self, image: ImageIndex) -> Result<Vec<u64>> {
        let words = self.image(image)?.words().iter();
        Ok(words.map(|word| word.load(Ordering::Acquire)).collect())
    }

    /// One slot of a ring.
    ///
    /// # Errors
    ///
    /// The image is unknown (created by another process meanwhile), or has no such slot.
    pub fn slot(&self, ring: RingName, slot: u32) -> Result<Slot> {
        let image = self.image(ring.image)?.words();
        let at = slot / ENTRIES_PER_WORD;
        let read = |at: u32| {
            image
                .get(at as usize)
                .map(|word| word.load(Ordering::Acquire))
        };
        match (read(at), read(SECTION_WORDS + at)) {
            (Some(first), Some(second)) if slot < ring.size => {
                Ok(Slot::decode(entry(first, slot), entry(second, slot)))
            }
            _ => Err(DataplaneError::OutOfRange {
                table: IMAGE.name,
                index: slot,
                len: ring.size,
            }),
        }
    }

    fn image(&self, image: ImageIndex) -> Result<&Mapped<u64>> {
        self.images.get(&image).ok_or(DataplaneError::OutOfRange {
            table: name::RINGS,
            index: image.0,
            len: self.images.len() as u32,
        })
    }

    fn write(&self, image: ImageIndex, words: &[u64]) -> Result<()> {
        let rest = std::iter::repeat(&0);
        for (to, from) in self
            .image(image)?
            .words()
            .iter()
            .zip(words.iter().chain(rest))
        {
            to.store(*from, Ordering::Relaxed);
        }
        // A program that sees the VIP use this image sees all of it.
        std::sync::atomic::fence(Ordering::Release);
        Ok(())
    }

    /// Verifies that an image holds this ring; the error names the first word that differs.
    pub fn verify(&self, image: ImageIndex, words: &[u64]) -> Result<()> {
        let rest = std::iter::repeat(&0);
        let pairs = self
            .image(image)?
            .words()
            .iter()
            .zip(words.iter().chain(rest));
        for (word, (there, &written)) in pairs.enumerate() {
            let read = there.load(Ordering::Acquire);
            if read != written {
                return Err(DataplaneError::Readback {
                    image: image.0,
                    word,
                    written,
                    read,
                });
            }
        }
        Ok(())
    }

    /// Creates spare images at the first free indexes, as many as there is room for.
    fn create(&mut self, images: usize) -> Result<()> {
        let free = (0..MAX_IMAGES).map(ImageIndex);
        let free = free.filter(|index| !self.images.contains_key(index));
        let indexes: Vec<ImageIndex> = free.take(images).collect();
        for some in indexes.chunks(INSTALLED_AT_ONCE) {
            let create = |&index: &ImageIndex| {
                let image = Array::<MapData, Image>::create(1, MMAPABLE)
                    .map_err(|error| map_error("create an image", &error))?;
                Ok((index, image))
            };
            let created: Vec<_> = some.iter().map(create).collect::<Result<_>>()?;
            self.install(&created)?;
            for (index, image) in created {
                self.map_image(index, &image)?;
                // In this order, so that every pinned image is in the outer map.
                self.pin(index, image)?;
                self.spare.push(index);
            }
        }
        if indexes.len() < images {
            return Err(full());
        }
        Ok(())
    }

    /// Installs images in the outer map, all within one or two grace periods.
    fn install(&self, images: &[(ImageIndex, Array<MapData, Image>)]) -> Result<()> {
        let outer = self.outer_fd.as_fd();
        let install = |(index, image): &(ImageIndex, Array<MapData, Image>)| {
            set_inner_map(outer, index.0, image_data(image).fd().as_fd())
        };
        let installed: Vec<io::Result<()>> = thread::scope(|scope| {
            let wait = |image| {
                let waiting = thread::Builder::new().spawn_scoped(scope, move || install(image));
                // Without a thread, here.
                waiting.map_err(|_| install(image))
            };
            let waiting: Vec<_> = images.iter().map(wait).collect();
            let installed = waiting.into_iter().map(|waiting| match waiting {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
                Err(installed) => installed,
            });
            installed.collect()
        });
        let done: io::Result<()> = installed.into_iter().collect();
        done.map_err(|error| io_error("install an image in", &error))
    }

    fn pin(&self, index: ImageIndex, image: Array<MapData, Image>) -> Result<()> {
        let Some(folder) = &self.pins else {
            return Ok(());
        };
        let path = pin_of(folder, index);
        image.pin(&path).map_err(|error| DataplaneError::Pin {
            operation: "pin",
            kernel: chain(&error),
            path,
            hint: PRIVILEGE_HINT,
        })
    }
}

fn pin_of(folder: &Path, image: ImageIndex) -> PathBuf {
    folder.join(image.0.to_string())
}

/// Indexes of the pinned images.
fn pinned_images(folder: &Path) -> Result<Vec<ImageIndex>> {
    let names = entries(folder)?.into_iter().filter_map(|path| {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        Some(ImageIndex(number)).filter(|_| number < MAX_IMAGES)
    });
    Ok(names.collect())
}

fn image_data(image: &Array<MapData, Image>) -> &MapData {
    IterableMap::<u32, Image>::map(image)
}

fn map_error(operation: &'static str, error: &MapError) -> DataplaneError {
    DataplaneError::map(operation, name::RINGS, error, PRIVILEGE_HINT)
}

fn io_error(operation: &'static str, error: &io::Error) -> DataplaneError {
    DataplaneError::Map {
        operation,
        map: name::RINGS.into(),
        kernel: error.to_string(),
        hint: PRIVILEGE_HINT,
    }
}

fn full() -> DataplaneError {
    DataplaneError::Full {
        table: name::RINGS,
        what: "another ring image".into(),
        limit: format!("{MAX_IMAGES} images"),
        hint: "remove VIPs",
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use crate::{Dataplane, LoadOptions};

    /// Needs root.
    #[test]
    fn waits_for_a_grace_period_without_membarrier() {
        let options = LoadOptions {
            jiffies_shift: Some(8),
            ..LoadOptions::default()
        };
        let mut rings = Dataplane::load(&options).unwrap().rings;
        rings.grace_period_by_update().unwrap();
        assert_eq!(rings.len(), 1, "an image was created, which waits");
        let image = rings.stage(&[1, 2, 3]).unwrap();
        let began = Instant::now();
        rings.grace_period_by_update().unwrap();
        println!("a grace period by an update takes {:?}", began.elapsed());
        assert_eq!(
            rings.words(image).unwrap()[..4],
            [1, 2, 3, 0],
            "the images are unchanged"
        );
        let again = rings.outer.get(&image.0, 0).unwrap();
        // aya copies the image (256 KiB) several times through the stack.
        let word = thread::scope(|scope| {
            let reader = thread::Builder::new().stack_size(16 << 20);
            let reader = reader.spawn_scoped(scope, || again.get(&0, 0).unwrap()[2]);
            reader.unwrap().join().unwrap()
        });
        assert_eq!(word, 3, "and still installed");
    }
}
