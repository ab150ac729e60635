//! Changes that failed, and when they are tried again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{plan::Outcome, service::ServiceKey};

/// A change that failed is tried again after this time, doubled each time up to the longest.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// The same for the fleet as a whole.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A change of a Service's VIPs that failed.
struct Failure {
    reason: String,
    attempts: u32,
    retry_at: Instant,
    /// What failed; something else is tried at once.
    vips: Outcome,
}

/// What has failed.
#[derive(Default)]
pub(crate) struct Failures {
    services: BTreeMap<ServiceKey, Failure>,
    /// Failures in a row that no Service is the cause of, and the end of the pause after the last.
    pause: Option<(u32, Instant)>,
    /// How many Services may change at once: fewer after a failure of unknown cause, to find it.
    at_once: Option<usize>,
    /// Whether Services that failed have their turn, before others.
    is_turn_of_failed: bool,
}

fn after(attempts: u32, longest: Duration) -> Instant {
    let wait = RETRY.saturating_mul(1 << (attempts - 1).min(12));
    Instant::now() + wait.min(longest)
}

impl Failures {
    /// Takes note of a change that failed. Those are charged that the reason names, by their VIPs.
    pub(crate) fn add(&mut self, services: &[(ServiceKey, Outcome)], cluster: &str, reason: &str) {
        let is_named = |key: &ServiceKey| reason.contains(&format!("{}.", key.prefix(cluster)));
        let mut charged: Vec<_> = services.iter().filter(|(key, _)| is_named(key)).collect();
        if charged.is_empty() && services.len() == 1 {
            charged = services.iter().collect();
        }
        if charged.is_empty() {
            let attempts = self.pause.map_or(0, |(attempts, _)| attempts) + 1;
            self.pause = Some((attempts, after(attempts, LONGEST_PAUSE)));
            self.at_once = Some((services.len() / 2).max(1));
        }
        for (key, vips) in charged {
            let attempts = self.services.get(key).map_or(0, |it| it.attempts) + 1;
            let failure = Failure {
                reason: reason.to_owned(),
                attempts,
                retry_at: after(attempts, LONGEST_RETRY),
                vips: vips.clone(),
            };
            self.services.insert(key.clone(), failure);
        }
    }

    /// Takes note of a change that was made.
    pub(crate) fn succeeded(&mut self, services: &[(ServiceKey, Outcome)]) {
        for (key, _) in services {
            self.services.remove(key);
        }
        (self.pause, self.at_once) = (None, None);
    }

    /// Forgets Services that need no change.
    pub(crate) fn keep(&mut self, needs: impl Fn(&ServiceKey) -> bool) {
        self.services.retain(|key, _| needs(key));
    }

    /// Why the last change of a Service failed.
    pub(crate) fn reason(&self, key: &ServiceKey) -> Option<&str> {
        Some(self.services.get(key)?.reason.as_str())
    }

    /// Those of `services` that may be changed now, together.
    pub(crate) fn choose(
        &mut self,
        services: &[ServiceKey],
        wanted: impl Fn(&ServiceKey) -> Option<Outcome>,
    ) -> Vec<ServiceKey> {
        let now = Instant::now();
        if self.pause.is_some_and(|(_, until)| until > now) {
            return Vec::new();
        }
        let (failed, clean): (Vec<_>, Vec<_>) =
            (services.iter()).partition(|key| self.services.contains_key(*key));
        let due = failed.into_iter().filter_map(|key| {
            let failure = self.services.get(key)?;
            let is_other = wanted(key).is_some_and(|wanted| wanted != failure.vips);
            (is_other || failure.retry_at <= now).then_some((failure.retry_at, key))
        });
        // One that failed is tried alone, in turn with the others.
        let due = due.min_by_key(|(at, _)| *at).map(|(_, key)| key.clone());
        self.is_turn_of_failed = !self.is_turn_of_failed;
        match due {
            Some(due) if self.is_turn_of_failed || clean.is_empty() => vec![due],
            _ => {
                let most = self.at_once.unwrap_or(usize::MAX);
                clean.into_iter().take(most).cloned().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn keys(names: &[&str]) -> Vec<ServiceKey> {
        names.iter().map(|name| key(name)).collect()
    }

    fn batch(names: &[&str]) -> Vec<(ServiceKey, Outcome)> {
        let outcome = |name: &&str| (key(name), Outcome::Nothing);
        names.iter().map(outcome).collect()
    }

    fn same(_: &ServiceKey) -> Option<Outcome> {
        Some(Outcome::Nothing)
    }

    #[test]
    fn the_one_that_a_reason_names_waits_and_the_others_go_on() {
        let mut failures = Failures::default();
        failures.add(&batch(&["a", "b", "c"]), "k8s", "VIP k8s.shop.b.tcp-80: no");
        let all = keys(&["a", "b", "c"]);
        assert_eq!(failures.choose(&all, same), keys(&["a", "c"]));
        assert_eq!(failures.choose(&keys(&["b"]), same), []);
        assert_eq!(
            failures.reason(&key("b")),
            Some("VIP k8s.shop.b.tcp-80: no")
        );
        // Something else is tried at once, alone, and in turn with the others.
        let other = |_: &ServiceKey| Some(Outcome::Vips(Vec::new()));
        let mut chosen = [failures.choose(&all, other), failures.choose(&all, other)];
        chosen.sort();
        assert_eq!(chosen, [keys(&["a", "c"]), keys(&["b"])]);
        failures.keep(|key| key.name != "b");
        assert_eq!(failures.reason(&key("b")), None);
    }

    #[test]
    fn a_failure_of_unknown_cause_pauses_all_and_halves_the_next_batch() {
        let mut failures = Failures::default();
        let all = keys(&["a", "b", "c", "d"]);
        failures.add(
            &batch(&["a", "b", "c", "d"]),
            "k8s",
            "node lb-1 was changed",
        );
        assert_eq!(failures.choose(&all, same), []);
        assert_eq!(failures.reason(&key("a")), None);
        let over = |failures: &mut Failures| {
            let (attempts, _) = failures.pause.unwrap();
            failures.pause = Some((attempts, Instant::now()));
        };
        over(&mut failures);
        assert_eq!(failures.choose(&all, same), keys(&["a", "b"]));
        failures.add(&batch(&["a", "b"]), "k8s", "again");
        over(&mut failures);
        assert_eq!(failures.choose(&all, same), keys(&["a"]));
        // Alone, it is the cause.
        failures.add(&batch(&["a"]), "k8s", "again");
        assert_eq!(failures.reason(&key("a")), Some("again"));
        failures.succeeded(&batch(&["b"]));
        assert_eq!(failures.choose(&all, same), keys(&["b", "c", "d"]));
    }
}
