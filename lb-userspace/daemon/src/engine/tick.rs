//! What the actor does every second.

use tracing::{error, info, warn};

use super::{actor::Actor, run::ping_watchdog, trial::Observed};
use crate::{
    clock,
    reconciler::{ReconcilerError, load_options},
};
use lb_dataplane::{MOST_SPARE_IMAGES, SPARE_IMAGES};

impl Actor {
    /// Follows the system clock. When it was set, all deadlines keep their distance.
    fn follow_clock(&mut self) {
        let Some(by) = clock::follow() else { return };
        warn!(
            seconds = by.as_secs_f64(),
            "the system clock was set: deadlines and silences move with it"
        );
        self.changes.move_trial(by);
        self.publisher.clock_was_set(by);
        self.shares.changes.move_by(by);
        self.observer.move_by(by);
        self.recorder.traffic().lock().move_by(by);
    }

    /// Runs every second.
    pub(super) fn tick(&mut self) {
        self.follow_clock();
        self.maintain_maps();
        if self.data_path.routes.is_stale() {
            self.routes_changed();
        }
        self.tick_health();
        self.tick_votes();
        self.prepare_rings();
        self.tick_membership();
        if self.capture.tick(&mut self.data_path) {
            // It has logged why that failed, if it did.
            let _ = self.end_capture();
        }
        self.tick_drift_check();
        self.count();
        self.tick_shares();
        self.tick_comparison();
        self.tick_trial();
        self.publish_with_alerts();
        ping_watchdog();
    }

    fn maintain_maps(&mut self) {
        let (reconciler, dataplane) = (
            &mut self.data_path.reconciler,
            &mut self.data_path.dataplane,
        );
        let before = reconciler.member_count();
        let ticked = dataplane.now_s().map_err(ReconcilerError::from);
        let ticked = ticked.and_then(|now_s| {
            dataplane.beat(now_s)?;
            reconciler.tick(dataplane, now_s)
        });
        match ticked {
            Ok(tick) => {
                self.observer.sessions = tick.sessions.established;
                if tick.slots_settled + tick.slots_cleaned + tick.members_gone > 0 {
                    info!(
                        settled = tick.slots_settled,
                        cleaned = tick.slots_cleaned,
                        members_gone = tick.members_gone,
                        "transitions ended"
                    );
                }
            }
            Err(error) => error!(%error, "can't maintain the maps"),
        }
        if reconciler.member_count() != before {
            self.follow_backends([]);
            self.follow_targets();
        }
    }

    /// Prepares ring images, so that the next change need not wait for a grace period: one per VIP,
    /// because a server that fails may be a backend of all of them.
    fn prepare_rings(&mut self) {
        let vips = self.changes.running.config.vips.len();
        let wanted = vips.clamp(SPARE_IMAGES, MOST_SPARE_IMAGES);
        if let Err(error) = self.data_path.dataplane.rings.reserve(wanted) {
            error!(%error, "can't prepare a ring for the next change");
        }
    }

    fn tick_drift_check(&mut self) {
        let (data_path, config) = (&mut self.data_path, &self.changes.running.config);
        let suspects = |vip: &str| self.shares.has_unexplained_finding(vip);
        let checked = self.drift_check.tick(data_path, config, suspects);
        for (vip, shares) in checked.rings {
            self.shares.set_actual_shares(vip, shares);
        }
        if checked.entries {
            self.observer.maps = data_path.dataplane.map_sizes(&load_options(config));
        }
        if checked.attached {
            self.follow_probe_interfaces();
        }
        checked.notes.into_iter().for_each(|note| self.note(note));
    }

    fn tick_shares(&mut self) {
        let report = self.data_path.reconciler.report();
        let notes = self.shares.tick(
            &mut self.data_path.dataplane,
            &self.changes.running.config,
            &report,
            &self.recorder.traffic(),
        );
        notes.into_iter().for_each(|note| self.note(note));
    }

    fn tick_trial(&mut self) {
        let observed = Observed {
            report: &self.data_path.reconciler.report(),
            drops_per_s: self.observer.drops_per_s(),
            drops_last_s: self.observer.drops_last_s(),
            shares: &self.shares,
            traffic: &self.recorder.traffic(),
        };
        self.changes.tick_trial(&mut self.data_path, &observed);
        self.follow_changes();
        self.changes.compare_file();
        if self.changes.take_due_reload() {
            self.reload_due.notify_one();
        }
    }
}
