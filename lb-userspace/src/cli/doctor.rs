//! `evenkeel doctor`.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;

use super::{
    block_on, stream,
    view::{
        figures::plural,
        paint::{Paint, Tone},
    },
};
use crate::doctor::{Finding, Host, Level, diagnose, gather, has_problem};
use lb_daemon::{config_file, membership};
use lb_dataplane::DEFAULT_BPFFS;

/// Check whether this host can run the balancer.
///
/// Checks the kernel, privileges, interfaces and file systems; with --config, also next hops of the
/// backends, MTUs, addresses and ports. Each line is ok, a warning or a problem, with its fix.
/// Changes nothing and needs no controller. Run it as root for all checks.
///
/// Exits with 0 if there is no problem (warnings do not count), 1 if there is.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  evenkeel doctor
  evenkeel doctor --config /etc/evenkeel/evenkeel.toml")]
pub(super) struct DoctorArgs {
    /// Configuration file (TOML) to check the host for.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Mount point of the BPF file system.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Print the findings as a JSON list.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut config = args.config.as_ref().map(config_file::load).transpose()?;
    let host = block_on(async {
        // Their members are checked like configured backends.
        let sources = match &mut config {
            Some(config) => membership::ask_all(config).await,
            None => Vec::new(),
        };
        let host = gather(config.as_ref(), &args.bpffs).await?;
        Ok(Host { sources, ..host })
    })?;
    let findings = diagnose(&host, config.as_ref());
    let mut out = stream::stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&mut out, &findings, Paint::when(io::stdout().is_terminal()))?;
    }
    out.flush()?;
    Ok(u8::from(has_problem(&findings)).into())
}

fn print(out: &mut impl Write, findings: &[Finding], paint: Paint) -> io::Result<()> {
    let width = |of: fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    let check_width = width(|finding| finding.check.chars().count());
    let subject_width = width(|finding| finding.subject.chars().count());
    for finding in findings {
        let Finding {
            check,
            subject,
            level,
            finding,
            advice,
        } = finding;
        let tone = match level {
            Level::Ok => Tone::Good,
            Level::Warning => Tone::Warn,
            Level::Problem => Tone::Bad,
        };
        let level = paint.apply(tone, &format!("{level:<7}"));
        writeln!(
            out,
            "{level}  {check:<check_width$}  {subject:<subject_width$}  {finding}"
        )?;
        if let Some(advice) = advice {
            writeln!(out, "         → {advice}")?;
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let problems = plural(count(Level::Problem), "problem");
    let warnings = plural(count(Level::Warning), "warning");
    writeln!(out, "{problems}, {warnings}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_findings_with_advice_below() {
        let finding = |check, subject: &str, level, advice: Option<&str>| Finding {
            check,
            subject: subject.into(),
            level,
            finding: "found".into(),
            advice: advice.map(str::to_owned),
        };
        let findings = [
            finding("kernel", "host", Level::Ok, None),
            finding("mtu", "a-vip", Level::Problem, Some("raise it")),
        ];
        let mut out = Vec::new();
        print(&mut out, &findings, Paint::PLAIN).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       kernel  host   found\n\
             problem  mtu     a-vip  found\n         → raise it\n\
             1 problem, 0 warnings\n"
        );
    }
}
