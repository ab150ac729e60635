//! The connection with etcd: the known keys and the lease.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tracing::{info, warn};

use super::{LEASE_S, Shared};

/// Everything is read again after this time: a watch can lose a deletion when etcd is compacted.
const RELIST: Duration = Duration::from_secs(60);

/// Period of the lease's renewal and of the question whether etcd is still the same.
const PULSE: Duration = Duration::from_secs(3);

/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Lists the keys and watches them, for ever.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut was_away = false;
    loop {
        match follow(&shared, &mut was_away).await {
            // Listed again at once.
            Ok(()) => {}
            Err(error) => {
                if !was_away {
                    warn!(
                        error,
                        "etcd is unreachable: keeping the active configuration"
                    );
                }
                was_away = true;
                *shared.error() = Some(error);
                shared.changed.notify_one();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Returns when the keys are to be listed again; an error if etcd does not answer.
async fn follow(shared: &Shared, was_away: &mut bool) -> Result<(), String> {
    let revision = shared.list().await?;
    *shared.error() = None;
    if std::mem::take(was_away) {
        info!("etcd answers again");
    }
    let mut watch = shared.client.watch(revision + 1).await?;
    let again = tokio::time::sleep(RELIST);
    tokio::pin!(again);
    loop {
        tokio::select! {
            next = watch.next() => {
                let (revision, changes) = match next {
                    Ok(next) => next,
                    Err(error) => {
                        info!(error, "the watch of etcd has ended; its keys are listed again");
                        tokio::time::sleep(PAUSE / 10).await;
                        return Ok(());
                    }
                };
                let mut keys = shared.keys();
                keys.change(changes);
                keys.known_to(revision);
                drop(keys);
                shared.changed.notify_one();
            }
            () = shared.relist.notified() => {
                // Conflicts come in bursts, when nodes write at the same time.
                tokio::time::sleep(PAUSE / 10).await;
                return Ok(());
            }
            () = &mut again => return Ok(()),
        }
    }
}

/// Keeps the lease alive, and asks for a key: that proves a quorum, and shows whether the watch still
/// brings all changes, and whether etcd was restored from an older snapshot.
pub(super) async fn pulse(shared: Arc<Shared>) {
    let mut period = tokio::time::interval(PULSE);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut missed, mut has_failed) = (None, false);
    loop {
        period.tick().await;
        if let Err(error) = renew(&shared).await {
            *shared.error() = Some(error);
            has_failed = true;
            tokio::time::sleep(PAUSE).await;
            period.reset_immediately();
            continue;
        }
        if std::mem::take(&mut has_failed) {
            *shared.error() = None;
        }
        let newest = shared.keys().newest();
        let Ok((revision, kv)) = shared.client.get("rollout").await else {
            continue;
        };
        let modified = kv.map_or(0, |kv| kv.modified);
        let keys = shared.keys();
        let known = keys.get("rollout").map_or(0, |kv| kv.modified);
        drop(keys);
        // An etcd that was restored.
        let is_other = revision < newest;
        // A change that the watch has not brought since the last question.
        let is_late = modified > known && missed == Some(modified);
        missed = (modified > known).then_some(modified);
        if is_other || is_late {
            shared.relist.notify_one();
        }
        shared.changed.notify_one();
    }
}

async fn renew(shared: &Shared) -> Result<(), String> {
    let lease = shared.lease();
    if lease != 0 && shared.client.keep_alive(lease).await? {
        return Ok(());
    }
    shared.lease.store(0, Ordering::Relaxed);
    let lease = shared.client.grant(LEASE_S).await?;
    shared.lease.store(lease, Ordering::Relaxed);
    shared.changed.notify_one();
    Ok(())
}
