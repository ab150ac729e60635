//! CPU time, memory and open files of the controller.

use std::fs;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) memory_bytes: f64,
    pub(super) open_files: f64,
}

/// Reads the usage from `/proc/self`; `None` if the files have another format.
pub(super) fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (ticks, pages) = parse(&stat)?;
    Some(Usage {
        cpu_seconds: ticks as f64 / positive(libc::_SC_CLK_TCK)?,
        memory_bytes: pages as f64 * positive(libc::_SC_PAGESIZE)?,
        open_files: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
    })
}

fn positive(name: libc::c_int) -> Option<f64> {
    // SAFETY: sysconf only reads.
    let value = unsafe { libc::sysconf(name) };
    (value > 0).then_some(value as f64)
}

/// Returns CPU time in clock ticks and resident pages (proc(5): fields 14, 15 and 24).
fn parse(stat: &str) -> Option<(u64, u64)> {
    // The name, in parentheses, may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_fields_after_any_name() {
        let stat = "7 (a b) 1 2) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 99 1000000 250 1";
        assert_eq!(parse(stat), Some((42, 250)));
        assert_eq!(parse("nonsense"), None);
        let usage = usage().unwrap();
        assert!(
            usage.memory_bytes > 1e6 && usage.open_files >= 3.0,
            "{usage:?}"
        );
    }
}
