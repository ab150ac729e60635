//! Fault injection: every write to a file or a map passes a point that can be made to fail.
//!
//! A change must leave the old state or the new one, wherever it fails. To test that, each step that can
//! fail calls [`point`] first. Points are counted from 1, and one of them can be selected:
//!
//! - for the process: `EVENKEEL_FAULT=7` makes the seventh point fail like a system call;
//!   `EVENKEEL_FAULT=7:kill` kills the process there with SIGKILL;
//! - for the current thread of a test: [`Faults`], which also counts. Run a change once to learn how many
//!   points it passes, then once for each of them.
//!
//! `EVENKEEL_STALL=FILE` simulates a disk that stalls: while the file exists, points wait.
//!
//! Without debug assertions, [`point`] is empty and the variable is not read (except in the tests of this
//! crate).

use std::io;

/// Marks a step that can be made to fail, such as `revision: rename`.
///
/// # Errors
///
/// The injected fault; never in release builds.
#[cfg(not(any(debug_assertions, test)))]
#[inline(always)]
pub fn point(_name: &str) -> io::Result<()> {
    Ok(())
}

/// Marks a step that can be made to fail, such as `revision: rename`.
///
/// # Errors
///
/// The injected fault; never in release builds.
#[cfg(any(debug_assertions, test))]
pub fn point(name: &str) -> io::Result<()> {
    armed::stall(name);
    armed::pass_thread(name)?;
    armed::pass_process(name)
}

#[cfg(any(debug_assertions, test))]
pub use armed::Faults;

#[cfg(any(debug_assertions, test))]
mod armed {
    use std::{
        cell::RefCell,
        io,
        marker::PhantomData,
        path::PathBuf,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
        thread,
        time::Duration,
    };

    /// Names the file that stalls all points while it exists.
    static STALL: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("EVENKEEL_STALL").map(PathBuf::from));

    pub(super) fn stall(name: &str) {
        let Some(file) = &*STALL else { return };
        if file.exists() {
            tracing::warn!(name, "stall on purpose (EVENKEEL_STALL)");
        }
        while file.exists() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Selects a point.
    const VARIABLE: &str = "EVENKEEL_FAULT";

    /// What happens at the selected point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Kind {
        /// Only this point fails.
        Fail,
        /// This point and all later ones fail, so that files and maps look as if the process died here.
        Crash,
        /// The process dies.
        Kill,
    }

    #[derive(Debug)]
    struct Armed {
        /// The selected point; 0 for none.
        at: u64,
        kind: Kind,
        /// Names of the passed points, including the selected one.
        passed: Vec<String>,
    }

    thread_local! {
        static ARMED: RefCell<Option<Armed>> = const { RefCell::new(None) };
    }

    /// Faults of the current thread, until this is dropped.
    #[derive(Debug)]
    pub struct Faults {
        before: Option<Armed>,
        /// Belongs to its thread.
        _not_send: PhantomData<*const ()>,
    }

    impl Faults {
        /// Counts points without a fault.
        #[must_use]
        pub fn none() -> Self {
            Self::arm(0, Kind::Fail)
        }

        /// Makes the point with this number (from 1) fail.
        #[must_use]
        pub fn fail_at(point: u64) -> Self {
            Self::arm(point, Kind::Fail)
        }

        /// Makes the point with this number (from 1) and all later ones fail, so that the disk looks as
        /// after a crash there.
        #[must_use]
        pub fn crash_at(point: u64) -> Self {
            Self::arm(point, Kind::Crash)
        }

        fn arm(at: u64, kind: Kind) -> Self {
            let armed = Armed {
                at,
                kind,
                passed: Vec::new(),
            };
            Self {
                before: ARMED.replace(Some(armed)),
                _not_send: PhantomData,
            }
        }

        /// Returns the names of the passed points, including failed ones.
        #[must_use]
        pub fn passed(&self) -> Vec<String> {
            ARMED.with_borrow(|armed| armed.as_ref().map_or(Vec::new(), |a| a.passed.clone()))
        }

        #[must_use]
        pub fn count(&self) -> u64 {
            self.passed().len() as u64
        }
    }

    impl Drop for Faults {
        fn drop(&mut self) {
            ARMED.set(self.before.take());
        }
    }

    pub(super) fn pass_thread(name: &str) -> io::Result<()> {
        ARMED.with_borrow_mut(|armed| {
            let Some(armed) = armed else { return Ok(()) };
            armed.passed.push(name.to_owned());
            let number = armed.passed.len() as u64;
            let hit = match armed.kind {
                _ if armed.at == 0 => false,
                Kind::Crash => number >= armed.at,
                Kind::Fail | Kind::Kill => number == armed.at,
            };
            if hit {
                Err(fault(number, name))
            } else {
                Ok(())
            }
        })
    }

    fn fault(number: u64, name: &str) -> io::Error {
        io::Error::other(format!("injected fault at point {number}, {name}"))
    }

    /// Points passed by this process.
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// The fault selected by the environment.
    static CHOSEN: LazyLock<Option<(u64, Kind)>> = LazyLock::new(|| {
        let value = std::env::var(VARIABLE).ok()?;
        let chosen = parse(&value);
        if chosen.is_none() {
            tracing::warn!(
                value,
                "invalid {VARIABLE}: must be N or N:kill with N from 1"
            );
        }
        chosen
    });

    pub(super) fn parse(value: &str) -> Option<(u64, Kind)> {
        let (number, kind) = match value.split_once(':') {
            None => (value, Kind::Fail),
            Some((number, "kill")) => (number, Kind::Kill),
            Some(_) => return None,
        };
        let number = number.parse().ok().filter(|number| *number > 0)?;
        Some((number, kind))
    }

    pub(super) fn pass_process(name: &str) -> io::Result<()> {
        let Some((at, kind)) = *CHOSEN else {
            return Ok(());
        };
        let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        if number != at {
            return Ok(());
        }
        tracing::warn!(number, name, "injecting a fault ({VARIABLE})");
        if kind == Kind::Kill {
            // SIGKILL: no destructor and no handler may run.
            let died = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            return Err(io::Error::other(format!(
                "SIGKILL was not delivered: {died:?}"
            )));
        }
        Err(fault(number, name))
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::fault::point;

        fn three() -> io::Result<u32> {
            point("one")?;
            point("two")?;
            point("three")?;
            Ok(3)
        }

        #[test]
        fn counts_points_and_fails_at_the_selected_one() {
            let faults = Faults::none();
            assert_eq!(three().unwrap(), 3);
            assert_eq!(faults.passed(), ["one", "two", "three"]);
            drop(faults);

            let faults = Faults::fail_at(2);
            let error = three().unwrap_err().to_string();
            assert_eq!(error, "injected fault at point 2, two");
            assert_eq!(three().unwrap(), 3, "only that point fails");
            assert_eq!(faults.count(), 5);
        }

        #[test]
        fn all_points_fail_after_a_crash() {
            let _faults = Faults::crash_at(2);
            assert!(three().is_err());
            assert!(point("four").is_err());
        }

        #[test]
        fn guards_nest() {
            let outer = Faults::fail_at(1);
            {
                let _inner = Faults::none();
                assert!(three().is_ok());
            }
            assert!(three().is_err());
            drop(outer);
            assert!(three().is_ok());
        }

        #[test]
        fn other_threads_are_not_affected() {
            let _faults = Faults::crash_at(1);
            let other = std::thread::spawn(|| three().is_ok());
            assert!(other.join().unwrap());
        }

        #[test]
        fn parses_the_environment_variable() {
            assert_eq!(parse("7"), Some((7, Kind::Fail)));
            assert_eq!(parse("7:kill"), Some((7, Kind::Kill)));
            for odd in ["", "0", "0:kill", "x", "7:", "7:die", "-1"] {
                assert_eq!(parse(odd), None, "{odd}");
            }
        }
    }
}
