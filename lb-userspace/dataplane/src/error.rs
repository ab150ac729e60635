//! Errors of operations on the kernel. Every error names the operation and its object, includes the
//! kernel's error and says what the operator can do.

pub(super) use lb_model::error::chain;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, DataplaneError>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataplaneError {
    #[error("can't load the eBPF object: {kernel}; {hint}")]
    Load { kernel: String, hint: &'static str },
    #[error(
        "the eBPF object has no {kind} `{name}`: object and controller were built from different \
         sources; build both again"
    )]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        name: &'static str,
    },
    #[error(
        "program {program}: can't load: {kernel}; the verifier's log ends with:\n{log}\n\
         report this with the kernel version (`uname -r`)"
    )]
    Rejected {
        program: &'static str,
        kernel: String,
        log: String,
    },
    #[error("program {program}: can't {operation}: {kernel}; {hint}")]
    Program {
        operation: &'static str,
        program: &'static str,
        kernel: String,
        hint: &'static str,
    },
    #[error("map {map}: can't {operation}: {kernel}; {hint}")]
    Map {
        operation: &'static str,
        map: String,
        kernel: String,
        hint: &'static str,
    },
    #[error("map {map} has {what} {has}, this version needs {needs}; {hint}")]
    Incompatible {
        /// The map: its name, or its path when it is pinned.
        map: String,
        what: &'static str,
        has: String,
        needs: String,
        hint: &'static str,
    },
    #[error("can't {operation} interface {interface}: {kernel}; {hint}")]
    Interface {
        operation: &'static str,
        interface: String,
        kernel: String,
        hint: &'static str,
    },
    #[error("can't {operation} {}: {kernel}; {hint}", path.display())]
    Pin {
        operation: &'static str,
        path: PathBuf,
        kernel: String,
        hint: &'static str,
    },
    #[error("index {index} is out of range: table {table} has {len} entries")]
    OutOfRange {
        table: &'static str,
        index: u32,
        len: u32,
    },
    #[error("table {table} is full: no room for {what} ({limit}); {hint}")]
    Full {
        table: &'static str,
        what: String,
        limit: String,
        hint: &'static str,
    },
    #[error(
        "ring image {image}: word {word} reads back as {read:#x} instead of {written:#x}; another \
         process writes to the maps"
    )]
    Readback {
        image: u32,
        /// The first word that differs.
        word: usize,
        written: u64,
        read: u64,
    },
    #[error("{setting} = {value}: {why}")]
    Setting {
        setting: &'static str,
        value: u64,
        why: &'static str,
    },
    #[error(
        "can't measure the kernel's tick rate: {ticks} jiffies in {elapsed_ns} ns is not between 50 \
         and 2000 per second; is the machine overloaded?"
    )]
    Clock { ticks: u64, elapsed_ns: u64 },
}

pub(super) const PRIVILEGE_HINT: &str =
    "requires root or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";

/// Hint for maps of another version or with other settings.
pub(super) const MISMATCH_HINT: &str = "run `evenkeel unload` (forwarding stops) and start again, \
     or go back to the version and settings that created it";

/// The error number of an error or one of its causes.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return io.raw_os_error();
    }
    error.source().and_then(os_error)
}

impl DataplaneError {
    /// From an error of aya about a map.
    pub(super) fn map(
        operation: &'static str,
        map: impl Into<String>,
        error: &aya::maps::MapError,
        hint: &'static str,
    ) -> Self {
        Self::Map {
            operation,
            map: map.into(),
            kernel: chain(error),
            hint,
        }
    }

    /// From an error of aya about a program; a verifier error includes the end of its log.
    pub(super) fn program(
        operation: &'static str,
        program: &'static str,
        error: &aya::programs::ProgramError,
        hint: &'static str,
    ) -> Self {
        match error {
            aya::programs::ProgramError::LoadError {
                io_error,
                verifier_log,
            } => Self::Rejected {
                program,
                kernel: io_error.to_string(),
                log: last_lines(&verifier_log.to_string(), 30),
            },
            other => Self::Program {
                operation,
                program,
                kernel: chain(other),
                hint,
            },
        }
    }
}

/// The last `count` lines of a text.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_end_of_a_log() {
        assert_eq!(super::last_lines("a\nb\n\nc\n", 2), "b\nc");
        assert_eq!(super::last_lines("", 2), "");
    }
}
