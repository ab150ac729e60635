//! `evenkeel doctor`.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::stream;
use crate::doctor::{Finding, Level, diagnose, gather, has_problem};
use lb_dataplane::DEFAULT_BPFFS;
use lb_model::config;

/// Check whether this host can run the balancer, and a configuration.
///
/// Looks at kernel, privileges, interfaces, file systems; with --config also at the ways to its
/// backends, MTUs, addresses and ports. Each line is ok, a warning or a problem, with what to do.
/// Changes nothing, and needs no running controller. As root it sees everything.
///
/// Exits with 0 if there is no problem (warnings don't count), with 1 if there is one.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// The configuration file (TOML) that this host is to run.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the BPF file system is mounted, or is to be.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Print the findings as a JSON list.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DoctorArgs) -> Result<ExitCode> {
    let config = arguments.config.as_ref().map(config::load).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let host = runtime.block_on(gather(config.as_ref(), &arguments.bpffs))?;
    let findings = diagnose(&host, config.as_ref());
    let mut out = stream::stdout();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &findings).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = !refused && io::stdout().is_terminal();
        print(&mut out, &findings, colour)?;
    }
    out.flush()?;
    Ok(if has_problem(&findings) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn print(out: &mut impl Write, findings: &[Finding], colour: bool) -> io::Result<()> {
    let width = |of: fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    let check_width = width(|finding| finding.check.chars().count());
    let subject_width = width(|finding| finding.subject.chars().count());
    for finding in findings {
        let (on, off) = match (colour, finding.level) {
            (false, _) => ("", ""),
            (true, Level::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Level::Warning) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::Problem) => ("\x1b[31m", "\x1b[0m"),
        };
        let Finding {
            check,
            subject,
            level,
            finding,
            advice,
        } = finding;
        writeln!(
            out,
            "{on}{level:<7}{off}  {check:<check_width$}  {subject:<subject_width$}  {finding}"
        )?;
        if let Some(advice) = advice {
            writeln!(out, "         → {advice}")?;
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    writeln!(out, "{problems} problems, {warnings} warnings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_advice_stands_below() {
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
        print(&mut out, &findings, false).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       kernel  host   found\n\
             problem  mtu     a-vip  found\n         → raise it\n\
             1 problems, 0 warnings\n"
        );
    }
}
