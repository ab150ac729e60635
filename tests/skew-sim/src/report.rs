//! The results as JSON, tables, and the generated part of `docs/skew.md`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::clients::Failure;
use super::{bake, black_holes, cost, faultless, plot, power};

/// All results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    #[serde(skip)]
    pub run: Run,
    /// Traffic without a fault.
    pub faultless: Vec<faultless::Line>,
    /// Faults, including VIPs with few flows per member, where no test is fast.
    pub power: Vec<power::Line>,
    /// The test after a change.
    #[serde(skip)]
    pub bake: Vec<bake::Line>,
    /// Members that never reply.
    #[serde(skip)]
    pub black_holes: Vec<black_holes::Line>,
    /// CPU time of the share monitor.
    #[serde(skip)]
    pub cost: Vec<cost::Line>,
}

/// Parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub seed: u64,
    /// VIP-days without a fault.
    pub days: f64,
    /// Trials of each fault.
    pub trials: usize,
}

/// Delimiters of the generated part of `docs/skew.md`.
const BEGIN: &str = "<!-- skew-sim: begin -->";
const END: &str = "<!-- skew-sim: end -->";

fn rules(lines: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut rules = Vec::new();
    for rule in lines {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1}"))
}

impl Report {
    /// Simulated days without a fault, and false alarms of the share monitor.
    #[must_use]
    pub fn faultless_totals(&self) -> (f64, u64) {
        let own = self.faultless.iter().filter(|line| line.rule == "evenkeel");
        own.fold((0.0, 0), |(days, alarms), line| {
            (days + line.vip_days, alarms + line.false_alarms)
        })
    }

    /// All tables as Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        let (days, alarms) = self.faultless_totals();
        let Run {
            seed,
            days: asked,
            trials,
        } = self.run;
        let mut text = format!(
            "`cargo xtask skew-sim --seed {seed} --days {asked} --trials {trials}` (a fifth of the trials for VIPs of more than 100 members):\n\n"
        );
        let _ = writeln!(
            text,
            "### No fault\n\n{alarms} false alarms of `evenkeel` in {days:.0} VIP-days. False alarms per VIP-day (VIP-days watched):\n"
        );
        self.faultless_table(&mut text);
        let right = self
            .faultless
            .iter()
            .filter(|line| line.rule == "evenkeel" && line.true_warnings > 0);
        for line in right {
            let _ = writeln!(
                text,
                "\nIn `{}`, {} warnings of `evenkeel` were correct and are not counted: the hash covers only the source, and the clients really gave some members more than 15 % too much.",
                line.scenario, line.true_warnings
            );
        }
        if !self.power.is_empty() {
            self.fault_tables(&mut text);
        }
        text
    }

    fn fault_tables(&self, text: &mut String) {
        text.push_str("\n### One member off its share\n\nSeconds from the first misplaced flow until the finding: median / 99th percentile of trials (– : not within ten minutes; at less than ten flows per second and member, two hours). In brackets: trials that ended without a finding, if any.\n\n");
        let (slow, quick): (Vec<_>, Vec<_>) =
            self.power.iter().cloned().partition(power::Line::is_slow);
        power_table(&quick, text);
        text.push_str("\nWhere a member has less than five new flows per second, the evidence itself takes longer to accumulate:\n\n");
        power_table(&slow, text);
        text.push_str("\n### After a change\n\n| members | new flows/s | good changes rolled back within 60 s | accepted (median) | 94 % of the table to one (median) | one at twice its share (median) |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n");
        for line in &self.bake {
            let (false_rollbacks, trials) = line.false_rollbacks;
            let shown = |seconds: Option<u64>| {
                seconds.map_or_else(|| "not within 60 s".to_owned(), |s| format!("{s} s"))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {false_rollbacks} of {trials} | {} | {} | {} |",
                line.members,
                line.flows_per_s,
                shown(line.accepted_s),
                shown(line.wrong_table_s),
                shown(line.not_followed_s)
            );
        }
        self.black_hole_table(text);
        text.push_str("\n### CPU time\n\n| VIPs | members of each | | CPU time per second | of one core |\n| ---: | ---: | --- | ---: | ---: |\n");
        for line in &self.cost {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.2} ms | {:.2} % |",
                line.vips,
                line.members,
                line.load.description(),
                line.median_us / 1e3,
                line.median_us / 1e4
            );
        }
    }

    fn black_hole_table(&self, text: &mut String) {
        text.push_str("\n### Black holes: detection time\n\nOne of four. Seconds from the first unanswered flow until the member is reported as a black hole: median / 99th percentile of trials (– : not within five minutes). *Dead*: no packet comes back. *Mute*: it accepts connections but never replies.\n\n| clients | new flows/s | dead | mute |\n| --- | ---: | ---: | ---: |\n");
        for dead in self
            .black_holes
            .iter()
            .filter(|line| line.failure == Failure::Dead)
        {
            let _ = write!(text, "| {} | {} |", dead.scenario, dead.flows_per_s);
            for failure in [Failure::Dead, Failure::Mute] {
                let line = self.black_holes.iter().find(|line| {
                    line.failure == failure
                        && line.scenario == dead.scenario
                        && line.flows_per_s == dead.flows_per_s
                });
                if let Some(line) = line {
                    let _ = write!(
                        text,
                        " {} / {} |",
                        seconds(line.median_s),
                        seconds(line.p99_s)
                    );
                }
            }
            text.push('\n');
        }
    }

    fn faultless_table(&self, text: &mut String) {
        let rules = rules(self.faultless.iter().map(|line| line.rule));
        let _ = writeln!(text, "| scenario | {} |", rules.join(" | "));
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(rules.len()));
        let mut scenarios: Vec<&str> = self.faultless.iter().map(|line| line.scenario).collect();
        scenarios.dedup();
        for scenario in scenarios {
            let _ = write!(text, "| {scenario} |");
            for rule in &rules {
                let line = self
                    .faultless
                    .iter()
                    .find(|l| l.scenario == scenario && l.rule == *rule);
                match line.filter(|line| line.vip_days > 0.0) {
                    Some(line) => {
                        let rate = line.false_alarms as f64 / line.vip_days;
                        let digits = if line.false_alarms == 0 { 0 } else { 2 };
                        let _ = write!(text, " {rate:.digits$} ({:.0}) |", line.vip_days);
                    }
                    None => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
    }

    /// Writes the generated part of `docs/skew.md` and its plots.
    ///
    /// # Errors
    /// If the page cannot be read or written, or lacks the delimiters.
    pub fn write(&self, docs: &Path) -> Result<()> {
        let page = docs.join("skew.md");
        let shown = page.display();
        let text = fs::read_to_string(&page).with_context(|| format!("read {shown}"))?;
        let (before, rest) = text
            .split_once(BEGIN)
            .with_context(|| format!("no `{BEGIN}` in {shown}"))?;
        let (_, after) = rest
            .split_once(END)
            .with_context(|| format!("no `{END}` in {shown}"))?;
        let text = format!("{before}{BEGIN}\n{}{END}{after}", self.tables());
        fs::write(&page, text).with_context(|| format!("write {shown}"))?;
        for (name, drawing) in [
            ("skew-detection.svg", plot::detection(&self.power)),
            ("skew-false-alarms.svg", plot::false_alarms(&self.faultless)),
        ] {
            let file = docs.join(name);
            fs::write(&file, drawing).with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

fn power_table(lines: &[power::Line], text: &mut String) {
    let rules = rules(lines.iter().map(|line| line.rule));
    let _ = writeln!(
        text,
        "| members | new flows/s | times its share | {} |",
        rules.join(" | ")
    );
    let _ = writeln!(
        text,
        "| ---: | ---: | ---: |{}",
        " ---: |".repeat(rules.len())
    );
    for own in lines
        .iter()
        .filter(|line| Some(&line.rule) == rules.first())
    {
        let _ = write!(
            text,
            "| {} | {} | {} |",
            own.members, own.flows_per_s, own.times_its_share
        );
        for rule in &rules {
            let same = |line: &&power::Line| {
                line.rule == *rule
                    && line.members == own.members
                    && line.flows_per_s == own.flows_per_s
                    && line.times_its_share == own.times_its_share
            };
            if let Some(line) = lines.iter().find(same) {
                let _ = write!(
                    text,
                    " {} / {}",
                    seconds(line.median_s),
                    seconds(line.p99_s)
                );
                if line.missed > 0.0 {
                    let _ = write!(text, " ({:.0} %)", (line.missed * 100.0).max(1.0));
                }
            }
            text.push_str(" |");
        }
        text.push('\n');
    }
}
