//! Packet capture: a program that records packets takes the balancer's place in the links.
//!
//! [`CaptureLoader::load`] loads it with the pinned maps, which takes a moment and does not need the
//! data path. [`Dataplane::begin_capture`] puts it into the links, [`Dataplane::end_capture`] puts the
//! balancer's back; both replace the program atomically. [`restore_program`] does the latter for a process
//! that is gone. The pinned program is always the balancer's.

use std::{mem::offset_of, path::Path};

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
    programs::Xdp,
};
use aya_log::EbpfLogger;
use aya_obj::programs::XdpAttachType;
use bytemuck::pod_read_unaligned;
use lb_common::capture::{CaptureCounts, DEADLINE_S, Filter, Record};
use log::Log;

use super::{
    Dataplane, LoadOptions, Mapped, Pins, Result, attach,
    catalog::{self, name},
    counters::possible_cpus,
    error::{DataplaneError, PRIVILEGE_HINT, chain},
    external::ExternalMaps,
    maps::{data_of, mapped_from},
    object,
    program::{Balancer, CAPTURING, PROGRAM},
    take,
};

/// The smallest space for records in bytes: a page of most machines. The loader rounds up.
pub(super) const LEAST_RECORDS: u32 = 4096;

/// What loading the program for a capture needs of a data path.
#[derive(Clone, Debug)]
pub struct CaptureLoader {
    options: LoadOptions,
    jiffies_shift: u32,
    pins: Pins,
}

/// The loaded program for a capture. Dropping it unloads it.
#[derive(Debug)]
pub struct CaptureProgram {
    pub(super) balancer: Balancer,
    filter: Mapped<Filter>,
}

/// The reader of a capture.
#[derive(Debug)]
pub struct Records {
    ring: Ring,
    counts: Mapped<CaptureCounts>,
}

struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl CaptureLoader {
    /// Loads the program, with `bytes` (a power of two) for records that are not read yet.
    pub fn load(&self, bytes: u32) -> Result<(CaptureProgram, Records)> {
        let options = LoadOptions {
            tracing: true,
            ..self.options.clone()
        };
        let cpus = possible_cpus()?;
        let maps = self.pins.maps();
        let external = ExternalMaps::open(catalog::external(cpus), &maps)?;
        let shift = self.jiffies_shift;
        let pin_of = |name: &str| Some(maps.join(name));
        let ebpf = object::open(&options, shift, &external, &pin_of, Some(bytes))?;
        // Its maps must stay open until it is loaded.
        let mut balancer = Balancer::load(ebpf, CAPTURING)?;
        let ebpf = balancer.ebpf_mut();
        let [filter, counts] = catalog::capture(cpus);
        let (filter, counts) = (mapped(ebpf, &filter)?, mapped(ebpf, &counts)?);
        let ring = Ring(take(ebpf, name::CAPTURE_RECORDS)?);
        let program = CaptureProgram { balancer, filter };
        Ok((program, Records { ring, counts }))
    }
}

impl CaptureProgram {
    /// The kernel's id of the program.
    pub fn id(&self) -> Result<u32> {
        self.balancer.id()
    }

    /// The reader of the program's log messages, like [`Dataplane::messages`].
    ///
    /// # Errors
    ///
    /// It was taken already, or the buffer can't be mapped.
    pub fn messages<T: Log>(&mut self, logger: T) -> Result<EbpfLogger<T>> {
        EbpfLogger::init_with_logger(self.balancer.ebpf_mut(), logger).map_err(|error| {
            DataplaneError::Program {
                operation: "read its messages",
                program: CAPTURING,
                kernel: chain(&error),
                hint: PRIVILEGE_HINT,
            }
        })
    }

    /// Records packets that this filter selects, from now on and for [`DEADLINE_S`] seconds; `now_s` is
    /// the data path's time.
    pub fn record(&self, filter: &Filter, now_s: u64) -> Result<()> {
        let until_s = now_s + DEADLINE_S;
        // The words are written one by one: a change of the filter takes effect bit by bit.
        self.filter.write(0, &Filter { until_s, ..*filter })
    }

    /// Records nothing from now on.
    pub fn stop(&self) -> Result<()> {
        self.filter.store_word(0, offset_of!(Filter, until_s), 0)
    }
}

impl Records {
    /// Passes all records that are there, each with the frame as received and as transmitted, until
    /// `take` returns false. Returns their number.
    pub fn read(&mut self, mut take: impl FnMut(&Record, &[u8], &[u8]) -> bool) -> usize {
        let mut count = 0;
        while let Some(item) = self.ring.0.next() {
            let Some((head, bytes)) = item.split_at_checked(size_of::<Record>()) else {
                continue;
            };
            let record: Record = pod_read_unaligned(head);
            let (received, rest) = bytes.split_at(bytes.len().min(record.in_bytes as usize));
            let transmitted = &rest[..rest.len().min(record.out_bytes as usize)];
            count += 1;
            if !take(&record, received, transmitted) {
                break;
            }
        }
        count
    }

    /// The counts of all CPUs together.
    pub fn counts(&self) -> Result<CaptureCounts> {
        let mut sum: CaptureCounts = bytemuck::Zeroable::zeroed();
        for cpu in 0..self.counts.len() {
            let counts = self.counts.read(cpu)?;
            sum.matched += counts.matched;
            sum.recorded += counts.recorded;
            sum.no_space += counts.no_space;
            sum.over_limit += counts.over_limit;
        }
        Ok(sum)
    }
}

impl Dataplane {
    /// What loads the program for a capture; none without pins.
    #[must_use]
    pub fn capture_loader(&self) -> Option<CaptureLoader> {
        Some(CaptureLoader {
            options: self.options.clone(),
            jiffies_shift: self.clock.jiffies_shift(),
            pins: self.pins.clone()?,
        })
    }

    /// Replaces the balancer's program in all links by the one for a capture. On an error, the balancer's
    /// stays.
    pub fn begin_capture(&mut self, program: CaptureProgram) -> Result<()> {
        let capture = self.capture.insert(program);
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let replaced = capture
            .balancer
            .xdp_mut()
            .and_then(|xdp| attach::replace_all(xdp, pins));
        if replaced.is_err() {
            // The first error is the one to report.
            let _ = self.end_capture();
        }
        replaced
    }

    /// Puts the balancer's program back into all links, and waits until no packet uses the other one. On an
    /// error, the program for the capture stays loaded, but records nothing.
    pub fn end_capture(&mut self) -> Result<()> {
        let Some(capture) = &self.capture else {
            return Ok(());
        };
        if let Some(pins) = &self.pins {
            let replaced = attach::replace_all(self.balancer.xdp_mut()?, pins);
            if replaced.is_err() {
                capture.stop()?;
                return replaced;
            }
        }
        self.capture = None;
        self.rings.grace_period()
    }

    /// Mount point of the BPF file system with the pins; none without pins.
    #[must_use]
    pub fn bpffs(&self) -> Option<&Path> {
        self.pins.as_ref().map(Pins::bpffs)
    }

    /// The program that belongs into the links.
    pub(super) fn attached(&self) -> &Balancer {
        let capture = self.capture.as_ref();
        capture.map_or(&self.balancer, |capture| &capture.balancer)
    }

    /// The program in the links during a capture.
    #[must_use]
    pub const fn capture(&self) -> Option<&CaptureProgram> {
        self.capture.as_ref()
    }
}

/// Puts the pinned program back into the pinned links that still have the program `capturing`. Returns the
/// number of links.
pub fn restore_program(pins: &Pins, capturing: u32) -> Result<u32> {
    let mut id = capturing;
    let mut links = 0;
    loop {
        let (mut program, restored) = pinned_program(pins)?;
        links += attach::replace_program(&mut program, pins, id)?;
        // A controller that starts meanwhile pins its program before it replaces those in the links.
        if pinned_program(pins)?.1 == restored {
            return Ok(links);
        }
        id = restored;
    }
}

/// The pinned program, with its id.
fn pinned_program(pins: &Pins) -> Result<(Xdp, u32)> {
    let failed = |error: &aya::programs::ProgramError| {
        DataplaneError::program("open the pinned", PROGRAM, error, PRIVILEGE_HINT)
    };
    let program = Xdp::from_pin(pins.program(), XdpAttachType::Interface);
    let program = program.map_err(|error| failed(&error))?;
    let id = program.info().map_err(|error| failed(&error))?.id();
    Ok((program, id))
}

fn mapped<T: bytemuck::Pod>(ebpf: &mut Ebpf, spec: &catalog::MapSpec) -> Result<Mapped<T>> {
    let map: Map = super::take_any(ebpf, spec.name)?;
    let data = data_of(&map).ok_or(DataplaneError::Missing {
        kind: "array map",
        name: spec.name,
    })?;
    spec.check(spec.name, data)?;
    mapped_from(spec.name, &map)
}
