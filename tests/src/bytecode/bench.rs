//! Runs frames and compares the results with expectations.

use std::fmt::Write;

use lb_common::reason::{Fate, Reason};
use lb_dataplane::Dataplane;

use super::counts::{Counts, counts, difference};
use crate::packet::{Frame, check::findings};

/// XDP verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    Aborted = 0,
    Drop = 1,
    Pass = 2,
    Tx = 3,
    Redirect = 4,
}

/// Expected frame after the run.
#[derive(Clone, Debug)]
pub enum Output {
    Unchanged,
    Bytes(Vec<u8>),
}

/// Expected result of a packet.
#[derive(Clone, Debug)]
pub struct Expect {
    pub verdict: Verdict,
    pub output: Output,
    /// Changes of all counters, including that of the reason.
    pub counts: Counts,
}

impl Expect {
    fn new(verdict: Verdict, reason: Reason, output: Output) -> Self {
        let counts = Counts::from([(reason.text().name.to_owned(), 1)]);
        Self {
            verdict,
            output,
            counts,
        }
    }

    /// Expects that the frame is unchanged and dropped or passed, depending on the reason.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        let verdict = match reason.text().fate {
            Fate::Passed => Verdict::Pass,
            _ => Verdict::Drop,
        };
        Self::new(verdict, reason, Output::Unchanged)
    }

    /// Expects that this frame is transmitted.
    #[must_use]
    pub fn sent(reason: Reason, output: &Frame) -> Self {
        Self::new(Verdict::Tx, reason, Output::Bytes(output.bytes()))
    }

    /// Expects that this frame is transmitted to a member, which counts `input`.
    #[must_use]
    pub fn forwarded(member: u16, input: &Frame, output: &Frame) -> Self {
        Self::sent(Reason::Forwarded, output)
            .plus(&format!("m{member}.packets"), 1)
            .plus(&format!("m{member}.bytes"), input.bytes().len())
    }

    /// Expects a redirect to another interface.
    #[must_use]
    pub fn redirected(mut self) -> Self {
        self.verdict = Verdict::Redirect;
        self
    }

    /// Expects that this counter increases as well.
    #[must_use]
    pub fn plus(mut self, counter: &str, by: usize) -> Self {
        *self.counts.entry(counter.to_owned()).or_default() += by as i128;
        self
    }

    /// Expects that the member counts a new flow as well.
    #[must_use]
    pub fn new_flow(self, member: u16) -> Self {
        self.plus(&format!("m{member}.new_flows"), 1)
    }
}

/// A data path under test, with the failures so far.
pub struct Bench {
    pub dataplane: Dataplane,
    failures: Vec<String>,
    cases: usize,
}

impl Bench {
    #[must_use]
    pub const fn new(dataplane: Dataplane) -> Self {
        Self {
            dataplane,
            failures: Vec::new(),
            cases: 0,
        }
    }

    /// Returns the data path.
    ///
    /// # Panics
    /// If a case failed.
    #[must_use]
    pub fn into_dataplane(mut self) -> Dataplane {
        self.conclude();
        self.dataplane
    }

    /// Runs a frame, checks the result, and returns the frame afterwards.
    pub fn check(&mut self, name: &str, input: &Frame, expect: &Expect) -> Vec<u8> {
        self.check_bytes(name, &input.bytes(), expect)
    }

    /// The same for arbitrary bytes.
    pub fn check_bytes(&mut self, name: &str, input: &[u8], expect: &Expect) -> Vec<u8> {
        self.check_by(name, input, |_| expect.clone())
    }

    /// The same with an expectation that depends on the frame afterwards.
    pub fn check_by(
        &mut self,
        name: &str,
        input: &[u8],
        expect: impl FnOnce(&[u8]) -> Expect,
    ) -> Vec<u8> {
        self.cases += 1;
        let before = counts(&self.dataplane.counters).unwrap_or_default();
        let run = match self.dataplane.run(input) {
            Ok(run) => run,
            Err(error) => {
                self.failures.push(format!("{name}: {error}"));
                return input.to_vec();
            }
        };
        let after = counts(&self.dataplane.counters).unwrap_or_default();
        let expect = expect(&run.frame);
        let mut report = String::new();
        let changes = difference(&before, &after);
        if run.verdict != expect.verdict as u32 {
            let _ = writeln!(
                report,
                "  verdict {}, expected {:?}",
                run.verdict, expect.verdict
            );
        }
        if changes != expect.counts {
            let _ = writeln!(report, "  {:<24} {:>8} {:>8}", "counter", "expected", "was");
            for name in difference(&expect.counts, &changes).keys() {
                let of = |counts: &Counts| counts.get(name).copied().unwrap_or(0);
                let (should, was) = (of(&expect.counts), of(&changes));
                let _ = writeln!(report, "  {name:<24} {should:>8} {was:>8}");
            }
        }
        let output = match &expect.output {
            Output::Unchanged => input,
            Output::Bytes(bytes) => bytes,
        };
        if run.frame != output {
            let _ = writeln!(report, "{}", bytes_differ(input, output, &run.frame));
        }
        if run.verdict >= Verdict::Tx as u32 {
            let faults = findings(&run.frame).since(&findings(input));
            if !faults.is_empty() {
                let _ = writeln!(report, "  etherparse: {faults:?}");
            }
        }
        if !report.is_empty() {
            self.failures.push(format!("{name}\n{report}"));
        }
        run.frame
    }

    /// Adds a failure.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// # Panics
    /// If a case failed. The message lists all that did.
    pub fn conclude(&mut self) {
        let failures = std::mem::take(&mut self.failures);
        assert!(
            failures.is_empty(),
            "{} of {} cases failed\n\n{}",
            failures.len(),
            self.cases,
            failures.join("\n")
        );
    }
}

/// Returns the lines of 16 bytes that differ.
fn bytes_differ(input: &[u8], expected: &[u8], was: &[u8]) -> String {
    let mut text = format!(
        "  frame of {} bytes, expected {}, in {}\n",
        was.len(),
        expected.len(),
        input.len()
    );
    let lines = expected.len().max(was.len()).div_ceil(16);
    for line in 0..lines.min(200) {
        let part =
            |bytes: &[u8]| -> Vec<u8> { bytes.iter().skip(line * 16).take(16).copied().collect() };
        let (should, is) = (part(expected), part(was));
        if should != is {
            let _ = writeln!(text, "  {:04x} expected {}", line * 16, hex(&should));
            let _ = writeln!(text, "       was      {}", hex(&is));
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}
