//! The balancer's program: loaded, run on frames of ours.

use aya::{
    Ebpf,
    programs::{ProgramError, TestRun, TestRunOptions, Xdp},
};
use lb_common::trace::Trace;
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{
    Counters,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
};

/// Name of the balancer's program.
pub(super) const PROGRAM: &str = "evenkeel_lb";

/// Room that a frame may grow by: the kernel gives a test run 256 bytes in front.
const GROWTH: usize = 512;

const RUN_HINT: &str = "frames of 14 to about 3,500 bytes can be run";

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The verdict, as XDP numbers it.
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// The program, with the memory that it leaves traces in.
#[derive(Debug)]
pub(super) struct Balancer {
    ebpf: Ebpf,
}

/// Times that the kernel is asked to verify the program. It gives up with `EAGAIN` when a signal comes for the
/// thread meanwhile, and on a busy machine that takes seconds.
const LOAD_ATTEMPTS: u32 = 5;

fn load_patiently(program: &mut Xdp) -> std::result::Result<(), ProgramError> {
    for _ in 1..LOAD_ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(Errno::EAGAIN as i32) => {}
            done => return done,
        }
    }
    program.load()
}

impl Balancer {
    /// Has the program verified and loaded.
    pub(super) fn load(mut ebpf: Ebpf) -> Result<Self> {
        load_patiently(xdp_of(&mut ebpf)?)
            .map_err(|error| DataplaneError::program("load", PROGRAM, &error, PRIVILEGE_HINT))?;
        Ok(Self { ebpf })
    }

    pub(super) const fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    pub(super) const fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub(super) fn xdp(&self) -> Result<&Xdp> {
        self.ebpf
            .program(PROGRAM)
            .and_then(|program| <&Xdp>::try_from(program).ok())
            .ok_or(DataplaneError::Missing {
                kind: "program",
                name: PROGRAM,
            })
    }

    pub(super) fn xdp_mut(&mut self) -> Result<&mut Xdp> {
        xdp_of(&mut self.ebpf)
    }

    /// The kernel's number for the program.
    pub(super) fn id(&self) -> Result<u32> {
        let info = self.xdp()?.info();
        let info = info.map_err(|error| {
            DataplaneError::program("describe", PROGRAM, &error, PRIVILEGE_HINT)
        })?;
        Ok(info.id())
    }

    /// Runs the program so many times on a frame; each time finds what the one before left.
    pub(super) fn run(&self, frame: &[u8], times: u32) -> Result<Run> {
        let mut out = vec![0; frame.len() + GROWTH];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: times,
            ..TestRunOptions::new()
        };
        let result = self
            .xdp()?
            .test_run(options)
            .map_err(|error| DataplaneError::program("run", PROGRAM, &error, RUN_HINT))?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            verdict: result.return_value,
            frame: out,
        })
    }

    /// Runs the program on a frame, and reads what it wrote down about it.
    ///
    /// Traces are kept per CPU, so the thread stays on one for the while.
    pub(super) fn run_traced(&self, frame: &[u8], counters: &Counters) -> Result<(Run, Trace)> {
        let stay = Stay::on_this_cpu()?;
        counters.clear_traces()?;
        let run = self.run(frame, 1)?;
        Ok((run, counters.trace(stay.cpu)?))
    }
}

fn xdp_of(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| <&mut Xdp>::try_from(program).ok())
        .ok_or(DataplaneError::Missing {
            kind: "program",
            name: PROGRAM,
        })
}

/// Keeps this thread on its CPU while it lives.
struct Stay {
    cpu: usize,
    before: CpuSet,
}

impl Stay {
    fn on_this_cpu() -> Result<Self> {
        let this = Pid::from_raw(0);
        let stay = || {
            let before = sched_getaffinity(this)?;
            let cpu = sched_getcpu()?;
            let mut only = CpuSet::new();
            only.set(cpu)?;
            sched_setaffinity(this, &only)?;
            Ok(Self { cpu, before })
        };
        stay().map_err(|error: nix::Error| DataplaneError::Program {
            operation: "keep the thread on one CPU for a run",
            program: PROGRAM,
            kernel: error.to_string(),
            hint: "the CPU may have gone offline; try again",
        })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // The set was valid a moment ago; if a CPU went away since, the kernel moves the thread.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
