//! Record of a run: samples per second, alerts and rollbacks.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lb_api::{RevisionNumber, Status};

use super::site::{BACKENDS, Site};
use crate::alertmanager::Received;

/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(100);

/// The sample of one second.
#[derive(Clone, Debug, PartialEq)]
pub struct Second {
    /// Seconds since the fault.
    pub at_s: f64,
    /// Length of the sample.
    pub seconds: f64,
    /// New flows per backend.
    pub new_flows: Vec<u64>,
    /// Bytes per backend.
    pub bytes: Vec<u64>,
    /// Shares of the ring at the end.
    pub table: Vec<f64>,
}

impl Second {
    /// Returns the backends' shares of bytes or of new flows.
    pub fn shares(&self, bytes: bool) -> Vec<f64> {
        let what = if bytes { &self.bytes } else { &self.new_flows };
        let all: u64 = what.iter().sum();
        what.iter()
            .map(|&own| own as f64 / all.max(1) as f64)
            .collect()
    }
}

/// An event of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Seconds since the fault.
    pub at_s: f64,
    pub text: String,
}

/// A rollback.
#[derive(Clone, Debug, PartialEq)]
pub struct RolledBack {
    /// Seconds since the fault.
    pub at_s: f64,
    /// The revision that was rolled back.
    pub revision: RevisionNumber,
    pub why: String,
}

#[derive(Debug)]
pub struct Record {
    began: Instant,
    /// Time of the fault, if it has happened.
    fault: Option<Instant>,
    last: Option<(Status, Instant)>,
    pub seconds: Vec<Second>,
    pub marks: Vec<Mark>,
    /// Received alerts with seconds since the fault, each once.
    pub alerts: Vec<(f64, Received)>,
    pub rolled_back: Option<RolledBack>,
    /// Seconds until the alert or rollback.
    ended_s: Option<f64>,
}

impl Record {
    /// Creates an empty record.
    #[expect(
        clippy::new_without_default,
        reason = "it depends on the time of the call"
    )]
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            fault: None,
            last: None,
            seconds: Vec::new(),
            marks: Vec::new(),
            alerts: Vec::new(),
            rolled_back: None,
            ended_s: None,
        }
    }

    fn now_s(&self) -> f64 {
        let origin = self.fault.unwrap_or(self.began);
        origin.elapsed().as_secs_f64()
    }

    /// Marks the fault: from now on, seconds are counted from here.
    pub fn start_fault(&mut self, text: &str) {
        let before = self.began.elapsed().as_secs_f64();
        for second in &mut self.seconds {
            second.at_s -= before;
        }
        self.fault = Some(Instant::now());
        self.mark(text);
    }

    /// Waits until the bad change is in the ring, and counts seconds from then.
    pub fn wait_active(&mut self, site: &Site<'_>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            self.sample(site)?;
            let status = self.last.as_ref().map(|(status, _)| status);
            let first = status.and_then(|s| s.vips.first()?.members.first().map(|m| m.table_share));
            if first.is_some_and(|share| share > 0.5) || self.rolled_back.is_some() {
                let late = self.now_s();
                for second in &mut self.seconds {
                    second.at_s -= late;
                }
                self.fault = Some(Instant::now());
                self.mark("the change is active");
                return Ok(());
            }
            sleep(INTERVAL);
        }
        bail!("the bad change did not become active");
    }

    /// Records an event.
    pub fn mark(&mut self, text: &str) {
        let at_s = self.now_s();
        self.marks.push(Mark {
            at_s,
            text: text.to_owned(),
        });
    }

    /// Records until `is_enough` returns true, at most for `limit`.
    pub fn observe(
        &mut self,
        site: &Site<'_>,
        limit: Duration,
        is_enough: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while Instant::now() < end && !is_enough(self) {
            self.sample(site)?;
            sleep(INTERVAL);
        }
        Ok(())
    }

    /// Records until an alert arrives, and for the time `after` it.
    pub fn observe_until_alert(
        &mut self,
        site: &Site<'_>,
        limit: Duration,
        after: Duration,
    ) -> Result<()> {
        self.observe(site, limit, |now| !now.alerts.is_empty())?;
        self.ended_s = Some(self.now_s());
        self.observe(site, after, |_| false)
    }

    /// Fails if there is an alert.
    pub fn check_quiet(&self) -> Result<()> {
        match self.alerts.first() {
            None => Ok(()),
            Some((_, alert)) => bail!("unexpected alert: {alert:?}"),
        }
    }

    fn sample(&mut self, site: &Site<'_>) -> Result<()> {
        let status = site.status()?;
        let fresh = self
            .last
            .as_ref()
            .is_none_or(|(last, _)| totals(last) != totals(&status));
        if fresh {
            self.add_second(status);
        }
        for alert in site.alertmanager.alerts()? {
            let same = |known: &&(f64, Received)| known.1.labels.alert_id == alert.labels.alert_id;
            if self.alerts.iter().find(same).is_none() {
                let cause = alert.annotations.cause.clone().unwrap_or_default();
                let text = format!(
                    "Alertmanager received: {}; {cause}",
                    alert.annotations.summary
                );
                self.mark(&text);
                self.alerts.push((self.now_s(), alert));
            }
        }
        if self.fault.is_some() && self.rolled_back.is_none() {
            self.check_rollback(site)?;
        }
        Ok(())
    }

    fn check_rollback(&mut self, site: &Site<'_>) -> Result<()> {
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

    fn add_second(&mut self, status: Status) {
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

    /// Returns the flows beyond an even share that backends received until the alert or rollback.
    pub fn misplaced(&self) -> u64 {
        let even = 1.0 / f64::from(BACKENDS);
        let over = self.during().map(|second| {
            let all: u64 = second.new_flows.iter().sum();
            let most = second.new_flows.iter().copied().max().unwrap_or(0);
            // By chance, some backend receives a few more than its share in any second.
            let over = most as f64 - even * all as f64;
            if most as f64 > 1.5 * even * all as f64 {
                over
            } else {
                0.0
            }
        });
        over.sum::<f64>().round() as u64
    }

    /// Returns the flows of all backends between the fault and its end.
    pub fn flows_of_all(&self) -> u64 {
        self.during()
            .map(|second| second.new_flows.iter().sum::<u64>())
            .sum()
    }

    /// Returns the flows of a backend between the fault and its end.
    pub fn flows_of(&self, backend: &str) -> u64 {
        let place: Option<usize> = backend.rsplit('-').next().and_then(|n| n.parse().ok());
        let place = place.unwrap_or(0);
        self.during()
            .map(|second| second.new_flows.get(place).copied().unwrap_or(0))
            .sum()
    }

    fn during(&self) -> impl Iterator<Item = &Second> {
        // Most flows of a second that ends up to half a second after the end are before it.
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
