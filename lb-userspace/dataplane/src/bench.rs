//! The benchmark's side of the data path: programs measured through a wrapper that makes packets.
//!
//! See [`lb_common::bench`] for what the wrapper does, and why.

use std::{fmt, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    maps::ProgramArray,
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::bench::Plan;
use nix::time::{ClockId, clock_gettime};

use super::{
    Dataplane,
    error::{DataplaneError, PRIVILEGE_HINT, Result, chain},
    mapped,
    mapping::Mapped,
};

/// The object, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/evenkeel-bench"));

const WRAPPER: &str = "evenkeel_wrapper";
const PLAN: &str = "PLAN";
const MEASURED: &str = "MEASURED";
const RUN_HINT: &str = "run the benchmark alone, as root";

/// What a program is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    /// Sends the packet back as it is.
    Tx,
    /// Puts a fixed IPv4 header in front.
    Encap4,
    /// Puts a fixed IPv6 header in front.
    Encap6,
}

impl Floor {
    /// All floors.
    pub const ALL: [Self; 3] = [Self::Tx, Self::Encap4, Self::Encap6];

    /// Name of the program, and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tx => "floor_tx",
            Self::Encap4 => "floor_encap4",
            Self::Encap6 => "floor_encap6",
        }
    }
}

/// The wrapper and the floors.
pub struct Bench {
    ebpf: Ebpf,
    measured: ProgramArray<aya::maps::MapData>,
    plan: Mapped<Plan>,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").finish_non_exhaustive()
    }
}

impl Bench {
    /// Loads wrapper and floors.
    pub fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .load(OBJECT)
            .map_err(|error| DataplaneError::Load {
                kernel: chain(&error),
                hint: PRIVILEGE_HINT,
            })?;
        for name in Floor::ALL.map(Floor::name).into_iter().chain([WRAPPER]) {
            program_mut(&mut ebpf, name)?
                .load()
                .map_err(|error| DataplaneError::program("load", name, &error, PRIVILEGE_HINT))?;
        }
        Ok(Self {
            measured: super::take(&mut ebpf, MEASURED)?,
            plan: mapped(&mut ebpf, PLAN)?,
            ebpf,
        })
    }

    /// Measures a floor from now on.
    pub fn choose_floor(&mut self, floor: Floor) -> Result<()> {
        let program = program_mut(&mut self.ebpf, floor.name())?;
        let fd = fd_of(program, floor.name())?;
        self.choose(&fd)
    }

    /// Measures a balancer from now on.
    pub fn choose_balancer(&mut self, dataplane: &Dataplane) -> Result<()> {
        let program = dataplane.balancer.xdp()?;
        let fd = fd_of(program, super::program::PROGRAM)?;
        self.choose(&fd)
    }

    fn choose(&mut self, fd: &ProgramFd) -> Result<()> {
        self.measured
            .set(0, fd, 0)
            .map_err(|error| DataplaneError::map("write", MEASURED, &error, RUN_HINT))
    }

    /// Sends packets through the chosen program. Gives the time that this thread computed, and the last
    /// verdict. The plan goes on where it stopped.
    pub fn run(&mut self, plan: &mut Plan, packets: u32) -> Result<(Duration, u32)> {
        self.plan.write(0, plan)?;
        let frame = vec![0; plan.frame_len as usize];
        let wrapper = program_mut(&mut self.ebpf, WRAPPER)?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let start = thread_time();
        let result = wrapper
            .test_run(options)
            .map_err(|error| DataplaneError::program("run", WRAPPER, &error, RUN_HINT))?;
        let spent = thread_time().saturating_sub(start);
        plan.made = self.plan.read(0)?.made;
        Ok((spent, result.return_value))
    }
}

/// Time that this thread has computed: does not count what other processes did meanwhile.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp> {
    ebpf.program_mut(name)
        .and_then(|program| <&mut Xdp>::try_from(program).ok())
        .ok_or(DataplaneError::Missing {
            kind: "program",
            name,
        })
}

fn fd_of(program: &Xdp, name: &'static str) -> Result<ProgramFd> {
    let failed = |error| DataplaneError::program("refer to", name, &error, RUN_HINT);
    let fd = program.fd().map_err(failed)?;
    fd.try_clone()
        .map_err(|error| failed(aya::programs::ProgramError::IOError(error)))
}
