//! The balancer's program: loading and test runs.

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
    Counters, LoadOptions,
    capture::LEAST_RECORDS,
    error::{DataplaneError, PRIVILEGE_HINT, Result},
};

pub(super) const PROGRAM: &str = "evenkeel_lb";

/// The balancer's program for the time of a capture.
pub(super) const CAPTURING: &str = "evenkeel_capture";

/// The program that these options ask for, and the space for its records in bytes.
pub(super) const fn of(options: &LoadOptions) -> (&'static str, Option<u32>) {
    if options.capturing {
        (CAPTURING, Some(LEAST_RECORDS))
    } else {
        (PROGRAM, None)
    }
}

/// Bytes that a frame may grow by: a test run has 256 bytes of headroom.
const GROWTH: usize = 512;

const RUN_HINT: &str = "the frame must have 14 to about 3,500 bytes";

/// Result of a test run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// XDP action code.
    pub verdict: u32,
    /// The frame after the run.
    pub frame: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Balancer {
    ebpf: Ebpf,
    /// Name of the program.
    name: &'static str,
}

/// Attempts to load the program. Verification takes seconds on a busy machine, and fails with `EAGAIN`
/// if a signal arrives meanwhile.
const LOAD_ATTEMPTS: u32 = 5;

fn load_with_retries(program: &mut Xdp) -> std::result::Result<(), ProgramError> {
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
    /// Loads the program `name` of an object.
    pub(super) fn load(mut ebpf: Ebpf, name: &'static str) -> Result<Self> {
        load_with_retries(xdp_of(&mut ebpf, name)?)
            .map_err(|error| DataplaneError::program("load", name, &error, PRIVILEGE_HINT))?;
        Ok(Self { ebpf, name })
    }

    pub(super) const fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    pub(super) const fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub(super) fn xdp(&self) -> Result<&Xdp> {
        self.ebpf
            .program(self.name)
            .and_then(|program| <&Xdp>::try_from(program).ok())
            .ok_or(DataplaneError::Missing {
                kind: "program",
                name: self.name,
            })
    }

    pub(super) fn xdp_mut(&mut self) -> Result<&mut Xdp> {
        xdp_of(&mut self.ebpf, self.name)
    }

    /// The kernel's id of the program.
    pub(super) fn id(&self) -> Result<u32> {
        let info = self.xdp()?.info();
        let info = info.map_err(|error| {
            DataplaneError::program("describe", self.name, &error, PRIVILEGE_HINT)
        })?;
        Ok(info.id())
    }

    /// Runs the program repeatedly on a frame; each run gets the frame as the last one left it. `received_on`:
    /// index of the interface, which must have a receive queue (Linux 5.14).
    pub(super) fn run(&self, frame: &[u8], times: u32, received_on: Option<u32>) -> Result<Run> {
        let mut out = vec![0; frame.len() + GROWTH];
        let context = received_on.map(|interface| context(frame.len() as u32, interface));
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context.as_ref().map(|context| &context[..]),
            repeat: times,
            ..TestRunOptions::new()
        };
        let result = self
            .xdp()?
            .test_run(options)
            .map_err(|error| DataplaneError::program("run", self.name, &error, RUN_HINT))?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            verdict: result.return_value,
            frame: out,
        })
    }

    /// Runs the program on a frame and reads its trace. Traces are per CPU, so the thread is pinned to
    /// one meanwhile.
    pub(super) fn run_traced(
        &self,
        frame: &[u8],
        received_on: Option<u32>,
        counters: &Counters,
    ) -> Result<(Run, Trace)> {
        let thread = PinnedThread::on_this_cpu()?;
        counters.clear_traces()?;
        let run = self.run(frame, 1, received_on)?;
        Ok((run, counters.trace(thread.cpu)?))
    }
}

/// `struct xdp_md` of a frame of this length, received on the first queue of an interface.
fn context(length: u32, interface: u32) -> [u8; 24] {
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let words = [0, length, 0, interface, 0, 0];
    let mut bytes = [0; 24];
    for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
        field.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn xdp_of<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp> {
    ebpf.program_mut(name)
        .and_then(|program| <&mut Xdp>::try_from(program).ok())
        .ok_or(DataplaneError::Missing {
            kind: "program",
            name,
        })
}

/// Pins this thread to its CPU until dropped.
struct PinnedThread {
    cpu: usize,
    before: CpuSet,
}

impl PinnedThread {
    fn on_this_cpu() -> Result<Self> {
        let this = Pid::from_raw(0);
        let pin = || {
            let before = sched_getaffinity(this)?;
            let cpu = sched_getcpu()?;
            let mut only = CpuSet::new();
            only.set(cpu)?;
            sched_setaffinity(this, &only)?;
            Ok(Self { cpu, before })
        };
        pin().map_err(|error: nix::Error| DataplaneError::Program {
            operation: "pin the thread to a CPU for a run",
            program: PROGRAM,
            kernel: error.to_string(),
            hint: "the CPU may have gone offline; try again",
        })
    }
}

impl Drop for PinnedThread {
    fn drop(&mut self) {
        // The set was valid before; if a CPU went offline since, the kernel moves the thread.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
