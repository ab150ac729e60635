//! Faults on purpose: every write to a file or a map passes a point that can be made to fail.
//!
//! A change must leave the old state or the new one, whatever goes wrong in its middle. To see that,
//! each step that can fail calls [`point`] first. Points are counted, from 1, and one of them can be
//! chosen:
//!
//! - for a whole process, by `EVENKEEL_FAULT=7` (the seventh point fails, as if the system had
//!   refused) or `EVENKEEL_FAULT=7:kill` (the process dies there, by SIGKILL);
//! - for the current thread of a test, by [`Faults`], which also counts: run once to learn how many
//!   points a change passes, then once for each of them.
//!
//! Builds without debug assertions, but for the tests in this crate, have none of this: [`point`] is empty, and the variable is not
//! read.

use std::io;

/// A step that can be made to fail follows. `name` says what: `revision: rename`.
///
/// # Errors
///
/// The fault that was asked for; in release builds never.
#[cfg(not(any(debug_assertions, test)))]
#[inline(always)]
pub fn point(_name: &str) -> io::Result<()> {
    Ok(())
}

/// A step that can be made to fail follows. `name` says what: `revision: rename`.
///
/// # Errors
///
/// The fault that was asked for; in release builds never.
#[cfg(any(debug_assertions, test))]
pub fn point(name: &str) -> io::Result<()> {
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
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// Name of the variable that chooses a point.
    const VARIABLE: &str = "EVENKEEL_FAULT";

    /// What happens at the chosen point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Kind {
        /// It fails, and nothing else does.
        Fail,
        /// It fails, and so does all that follows: as far as files and maps can tell, the process
        /// died here.
        Crash,
        /// The process dies.
        Kill,
    }

    #[derive(Debug)]
    struct Armed {
        /// The chosen point; 0: none.
        at: u64,
        kind: Kind,
        /// Names of the points that were passed, the chosen one among them.
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
        /// Only counts.
        #[must_use]
        pub fn none() -> Self {
            Self::arm(0, Kind::Fail)
        }

        /// The point of this number (from 1) fails; those after it work again.
        #[must_use]
        pub fn fail_at(point: u64) -> Self {
            Self::arm(point, Kind::Fail)
        }

        /// The point of this number (from 1) and all after it fail, so that what is on disk stays as
        /// a death at that point would leave it.
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

        /// Names of the points passed so far, the one that failed among them.
        #[must_use]
        pub fn passed(&self) -> Vec<String> {
            ARMED.with_borrow(|armed| armed.as_ref().map_or(Vec::new(), |a| a.passed.clone()))
        }

        /// Points passed so far.
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
        io::Error::other(format!("fault on purpose at point {number}, {name}"))
    }

    /// Points that this process passed.
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// What the environment asks for.
    static CHOSEN: LazyLock<Option<(u64, Kind)>> = LazyLock::new(|| {
        let value = std::env::var(VARIABLE).ok()?;
        let chosen = parse(&value);
        if chosen.is_none() {
            tracing::warn!(value, "{VARIABLE} is not understood: N or N:kill, N from 1");
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
        tracing::warn!(number, name, "fault on purpose ({VARIABLE})");
        if kind == Kind::Kill {
            // Nothing may run after this: no destructor, no handler.
            let died = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            return Err(io::Error::other(format!("SIGKILL did not come: {died:?}")));
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
        fn points_are_counted_and_fail_where_asked() {
            let faults = Faults::none();
            assert_eq!(three().unwrap(), 3);
            assert_eq!(faults.passed(), ["one", "two", "three"]);
            drop(faults);

            let faults = Faults::fail_at(2);
            let error = three().unwrap_err().to_string();
            assert_eq!(error, "fault on purpose at point 2, two");
            assert_eq!(three().unwrap(), 3, "only that point fails");
            assert_eq!(faults.count(), 5);
        }

        #[test]
        fn after_a_crash_nothing_works() {
            let _faults = Faults::crash_at(2);
            assert!(three().is_err());
            assert!(point("four").is_err());
        }

        #[test]
        fn guards_nest_and_end() {
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
        fn another_thread_is_not_touched() {
            let _faults = Faults::crash_at(1);
            let other = std::thread::spawn(|| three().is_ok());
            assert!(other.join().unwrap());
        }

        #[test]
        fn what_the_environment_may_say() {
            assert_eq!(parse("7"), Some((7, Kind::Fail)));
            assert_eq!(parse("7:kill"), Some((7, Kind::Kill)));
            for odd in ["", "0", "0:kill", "x", "7:", "7:die", "-1"] {
                assert_eq!(parse(odd), None, "{odd}");
            }
        }
    }
}
