//! What is seen of a run, second after second.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lb_api::{RevisionNumber, Status};

use super::site::{BACKENDS, Site};
use crate::alertmanager::Received;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A second of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Second {
    /// When, in seconds since the fault.
    pub at_s: f64,
    /// Its length.
    pub seconds: f64,
    /// New flows of each backend in it.
    pub new_flows: Vec<u64>,
    /// Bytes of each backend in it.
    pub bytes: Vec<u64>,
    /// Their shares of the table at its end.
    pub table: Vec<f64>,
}

impl Second {
    /// Shares of what came.
    pub fn shares(&self, bytes: bool) -> Vec<f64> {
        let what = if bytes { &self.bytes } else { &self.new_flows };
        let all: u64 = what.iter().sum();
        what.iter()
            .map(|&own| own as f64 / all.max(1) as f64)
            .collect()
    }
}

/// A moment worth a mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// When, in seconds since the fault.
    pub at_s: f64,
    /// What happened.
    pub words: String,
}

/// A rollback.
#[derive(Clone, Debug, PartialEq)]
pub struct RolledBack {
    /// When, in seconds since the fault.
    pub at_s: f64,
    /// The revision that was undone.
    pub revision: RevisionNumber,
    /// Why.
    pub why: String,
}

/// What is seen.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    /// When the fault was there; none before.
    fault: Option<Instant>,
    last: Option<(Status, Instant)>,
    /// Second after second.
    pub seconds: Vec<Second>,
    /// What happened.
    pub marks: Vec<Mark>,
    /// Alerts that arrived, and when; each once.
    pub alerts: Vec<(f64, Received)>,
    /// Whether the change was undone.
    pub rolled_back: Option<RolledBack>,
    /// Until when flows were misplaced unseen.
    ended_s: Option<f64>,
}

impl Record {
    /// Begins.
    pub fn begin(_site: &Site<'_>) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            fault: None,
            last: None,
            seconds: Vec::new(),
            marks: Vec::new(),
            alerts: Vec::new(),
            rolled_back: None,
            ended_s: None,
        })
    }

    fn now_s(&self) -> f64 {
        let origin = self.fault.unwrap_or(self.began);
        origin.elapsed().as_secs_f64()
    }

    /// The fault is made now.
    pub fn begins(&mut self, words: &str) {
        let before = self.began.elapsed().as_secs_f64();
        for second in &mut self.seconds {
            second.at_s -= before;
        }
        self.fault = Some(Instant::now());
        self.mark(words);
    }

    /// Waits until the change is in the table: that is the moment from which seconds are counted.
    pub fn is_in_force(&mut self, site: &Site<'_>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            self.look(site)?;
            let status = self.last.as_ref().map(|(status, _)| status);
            let first = status.and_then(|s| s.vips.first()?.members.first().map(|m| m.table_share));
            if first.is_some_and(|share| share > 0.5) || self.rolled_back.is_some() {
                let late = self.now_s();
                for second in &mut self.seconds {
                    second.at_s -= late;
                }
                self.fault = Some(Instant::now());
                self.mark("it is active");
                return Ok(());
            }
            sleep(LOOK);
        }
        bail!("the mistake did not come into force");
    }

    /// Writes down that something happened.
    pub fn mark(&mut self, words: &str) {
        let at_s = self.now_s();
        self.marks.push(Mark {
            at_s,
            words: words.to_owned(),
        });
    }

    /// Goes on for some time, or until it is enough.
    pub fn go_on(
        &mut self,
        site: &Site<'_>,
        limit: Duration,
        is_enough: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while Instant::now() < end && !is_enough(self) {
            self.look(site)?;
            sleep(LOOK);
        }
        Ok(())
    }

    /// Goes on until an alert arrived, and a little.
    pub fn until_told(&mut self, site: &Site<'_>, limit: Duration, after: Duration) -> Result<()> {
        self.go_on(site, limit, |now| !now.alerts.is_empty())?;
        self.ended_s = Some(self.now_s());
        self.go_on(site, after, |_| false)
    }

    /// An error if there are alerts before anything was done.
    pub fn check_quiet(&self) -> Result<()> {
        match self.alerts.first() {
            None => Ok(()),
            Some((_, alert)) => bail!("an alert before anything was wrong: {alert:?}"),
        }
    }

    fn look(&mut self, site: &Site<'_>) -> Result<()> {
        let status = site.status()?;
        let fresh = self
            .last
            .as_ref()
            .is_none_or(|(last, _)| totals(last) != totals(&status));
        if fresh {
            self.take(status);
        }
        for alert in site.alertmanager.alerts()? {
            let same = |known: &&(f64, Received)| known.1.labels.alert_id == alert.labels.alert_id;
            if self.alerts.iter().find(same).is_none() {
                let cause = alert.annotations.cause.clone().unwrap_or_default();
                let words = format!("Alertmanager has: {}; {cause}", alert.annotations.summary);
                self.mark(&words);
                self.alerts.push((self.now_s(), alert));
            }
        }
        if self.fault.is_some() && self.rolled_back.is_none() {
            self.look_for_rollback(site)?;
        }
        Ok(())
    }

    fn look_for_rollback(&mut self, site: &Site<'_>) -> Result<()> {
        let events = site.events()?;
        let Some(event) = events.iter().find(|event| event.kind == "rollback") else {
            return Ok(());
        };
        // `revision 2 was rolled back to 1: why`
        let revision = event.message.split(' ').nth(1);
        let revision = revision.and_then(|number| number.parse().ok()).unwrap_or(0);
        self.mark(&event.message);
        let at_s = self.now_s();
        self.rolled_back = Some(RolledBack {
            at_s,
            revision,
            why: event.message.clone(),
        });
        self.ended_s = Some(at_s);
        Ok(())
    }

    fn take(&mut self, status: Status) {
        let (now, at_s) = (Instant::now(), self.now_s());
        if let Some((last, when)) = &self.last {
            let (old, new) = (totals(last), totals(&status));
            if old.len() == new.len() {
                let pairs = || old.iter().zip(&new);
                let members = &status.vips[0].members;
                self.seconds.push(Second {
                    at_s,
                    seconds: now.duration_since(*when).as_secs_f64(),
                    new_flows: pairs()
                        .map(|(old, new)| new.0.saturating_sub(old.0))
                        .collect(),
                    bytes: pairs()
                        .map(|(old, new)| new.1.saturating_sub(old.1))
                        .collect(),
                    table: members.iter().map(|member| member.table_share).collect(),
                });
            }
        }
        self.last = Some((status, now));
    }

    /// Flows from the fault to its end that a backend got over an even share.
    pub fn misplaced(&self) -> u64 {
        let even = 1.0 / f64::from(BACKENDS);
        let over = self.during().map(|second| {
            let all: u64 = second.new_flows.iter().sum();
            let most = second.new_flows.iter().copied().max().unwrap_or(0);
            // Chance gives some backend a few more than its part in any second.
            let over = most as f64 - even * all as f64;
            if most as f64 > 1.5 * even * all as f64 {
                over
            } else {
                0.0
            }
        });
        over.sum::<f64>().round() as u64
    }

    /// Flows that all backends got since the beginning of what was made.
    pub fn flows_of_all(&self) -> u64 {
        self.during()
            .map(|second| second.new_flows.iter().sum::<u64>())
            .sum()
    }

    /// Flows that a backend got from the fault to its end.
    pub fn flows_of(&self, backend: &str) -> u64 {
        let place: Option<usize> = backend.rsplit('-').next().and_then(|n| n.parse().ok());
        let place = place.unwrap_or(0);
        self.during()
            .map(|second| second.new_flows.get(place).copied().unwrap_or(0))
            .sum()
    }

    fn during(&self) -> impl Iterator<Item = &Second> {
        // A second that ends half a second after the end has most of its flows before it.
        let end = self.ended_s.unwrap_or(f64::INFINITY) + 0.5;
        let seconds = self.seconds.iter();
        seconds.filter(move |second| second.at_s > 0.0 && second.at_s <= end)
    }
}

fn totals(status: &Status) -> Vec<(u64, u64)> {
    let members = status.vips.first().map_or(&[][..], |vip| &vip.members);
    members
        .iter()
        .map(|member| (member.totals.new_flows, member.totals.bytes))
        .collect()
}
