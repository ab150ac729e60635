//! What can go wrong between this process and the kernel.
//!
//! Every error names the operation and its object, repeats what the kernel said, and says what the
//! operator can do.

pub(super) use lb_model::error::chain;
use std::path::PathBuf;

/// Result of an operation on the data path.
pub type Result<T> = std::result::Result<T, DataplaneError>;

/// An operation on the data path failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataplaneError {
    /// The object could not be loaded into the kernel.
    #[error("load the eBPF object: {kernel}; {hint}")]
    Load {
        /// What failed.
        kernel: String,
        /// What to do.
        hint: &'static str,
    },
    /// The object lacks something.
    #[error(
        "the eBPF object has no {kind} `{name}`: object and program were built from different \
         sources; build both again"
    )]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The verifier refused a program.
    #[error(
        "load program `{program}`: {kernel}; the kernel's verifier says:\n{log}\n\
         report this with the kernel's version (`uname -r`)"
    )]
    Rejected {
        /// The program.
        program: &'static str,
        /// The error number's text.
        kernel: String,
        /// Last lines of the verifier's log.
        log: String,
    },
    /// An operation on a program failed.
    #[error("{operation} of program `{program}`: {kernel}; {hint}")]
    Program {
        /// What was tried.
        operation: &'static str,
        /// The program.
        program: &'static str,
        /// What the kernel said.
        kernel: String,
        /// What to do.
        hint: &'static str,
    },
    /// An operation on a map failed.
    #[error("{operation} of map {map}: {kernel}; {hint}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map.
        map: String,
        /// What the kernel said.
        kernel: String,
        /// What to do.
        hint: &'static str,
    },
    /// A map is not what this version works with.
    #[error("map {map} has {what} {has}, this version needs {needs}; {hint}")]
    Incompatible {
        /// The map: its name, or its path when it is pinned.
        map: String,
        /// What differs.
        what: &'static str,
        /// What the map has.
        has: String,
        /// What is needed.
        needs: String,
        /// What to do.
        hint: &'static str,
    },
    /// A program could not be attached to an interface.
    #[error("{operation} interface {interface}: {kernel}; {hint}")]
    Interface {
        /// What was tried.
        operation: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        kernel: String,
        /// What to do.
        hint: &'static str,
    },
    /// Something about the BPF file system failed.
    #[error("{operation} {}: {kernel}; {hint}", path.display())]
    Pin {
        /// What was tried.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        kernel: String,
        /// What to do.
        hint: &'static str,
    },
    /// An index is outside its table.
    #[error("index {index} is outside of table {table}, which has {len} entries")]
    OutOfRange {
        /// The table.
        table: &'static str,
        /// The index.
        index: u32,
        /// Entries of the table.
        len: u32,
    },
    /// A table has no place left.
    #[error("table {table} has no place for {what} ({limit}); {hint}")]
    Full {
        /// The table.
        table: &'static str,
        /// What was to be added.
        what: String,
        /// The limit that was met.
        limit: String,
        /// What to do.
        hint: &'static str,
    },
    /// What was written did not read back.
    #[error(
        "ring image {image}: word {word} reads back as {read:#x}, {written:#x} was written; \
         something else writes to the maps"
    )]
    Readback {
        /// The image.
        image: u32,
        /// The first word that differs.
        word: usize,
        /// What it should be.
        written: u64,
        /// What it is.
        read: u64,
    },
    /// A setting can't be.
    #[error("setting {setting} can't be {value}: {why}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        why: &'static str,
    },
    /// The kernel's tick rate could not be told.
    #[error(
        "measure the kernel's tick rate: {ticks} jiffies in {elapsed_ns} ns is not between 50 and \
         2000 a second; is the machine overloaded?"
    )]
    Clock {
        /// Jiffies that went by.
        ticks: u64,
        /// Time that went by.
        elapsed_ns: u64,
    },
}

/// What is needed to do anything with BPF.
pub(super) const PRIVILEGE_HINT: &str =
    "root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, are needed";

/// Hint for maps of another version or with other settings.
pub(super) const MISMATCH_HINT: &str = "run `evenkeel unload` (forwarding stops) and start again, \
     or go back to the version and settings that created it";

/// Error number in an error or one of its causes.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return io.raw_os_error();
    }
    error.source().and_then(os_error)
}

impl DataplaneError {
    /// An error of aya about a map.
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

    /// An error of aya about a program; that of the verifier with the end of its log.
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
    fn the_end_of_a_log_is_kept() {
        assert_eq!(super::last_lines("a\nb\n\nc\n", 2), "b\nc");
        assert_eq!(super::last_lines("", 2), "");
    }
}
