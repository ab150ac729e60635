//! `evenkeel run`: starts the parts, handles signals, and waits for the actor to stop.

use std::{future::Future, sync::Arc, thread};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing::{error, info, warn};

use lb_dataplane::Pins;

use super::{Engine, EngineError, Options, Reloaded, start};
use crate::{
    caller::Caller, fleet, health::probe, http, membership, metrics, node::FileState,
    reconciler::system,
};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// The start failed (what was pinned before stays as it was), or the actor failed.
pub async fn run(options: Options) -> Result<()> {
    // First of all, so that no signal kills the process during the start.
    let mut reload = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    if let Err(error) = probe::adopt_orphans() {
        warn!(%error, "processes that commands of health checks leave behind are not ended");
    }
    let files = system::raise_file_limit().context("raise the limit of open files")?;
    let pins = Pins::at(&options.bpffs);
    let started = start::start(options, files).await?;
    let engine = started.engine.clone();
    tokio::spawn(http::serve(
        started.listener,
        engine.clone(),
        http::Limits::of(files.1),
    ));
    tokio::spawn(metrics::run(engine.sources()));
    let followed = started.actor.changes.membership.watch();
    tokio::spawn(membership::run(engine.clone(), followed));
    fleet::start(&engine, &started.actor.changes.running.config, &pins);
    let stop = Arc::clone(&started.inbox.stop);
    let reload_due = Arc::clone(&started.actor.reload_due);
    info!("ready");
    notify_manager("READY=1\n");
    let mut stopped = run_on_thread("engine", started.actor.run(started.inbox))?;
    let ended = loop {
        tokio::select! {
            result = &mut stopped => break Some(result),
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = reload.recv() => spawn_reload(engine.clone()),
            () = reload_due.notified() => spawn_reload(engine.clone()),
        }
    };
    notify_manager("STOPPING=1\n");
    stop.notify_one();
    fleet::stop(&engine).await;
    let result = match ended {
        Some(result) => result,
        None => stopped.await,
    };
    if result.map_err(|_| anyhow!("the engine's thread panicked"))?? {
        info!("stopped; the data path stays pinned and keeps forwarding");
    } else {
        error!("stopped; the data path is not pinned: forwarding ends");
    }
    Ok(())
}

/// Polls a future on a thread of its own. Its timers and the tasks that it spawns stay on the current
/// runtime, which therefore is not delayed when the future blocks.
///
/// The receiver gets the future's output, or an error if the thread panicked.
pub(crate) fn run_on_thread<T: Send + 'static>(
    name: &str,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<oneshot::Receiver<T>> {
    let runtime = Handle::current();
    let (done, output) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // The receiver is gone if the main thread panicked.
            let _ = done.send(runtime.block_on(future));
        })
        .with_context(|| format!("start thread {name}"))?;
    Ok(output)
}

/// Nobody waits for a reload: its result is logged.
fn spawn_reload(engine: Engine) {
    tokio::spawn(async move {
        notify_manager(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\n",
            system::monotonic_us()
        ));
        match engine.reload(true, Caller::itself("SIGHUP")).await {
            Ok(reloaded) => log_reload(&reloaded),
            // The engine has logged why.
            Err(EngineError::InvalidConfig(_) | EngineError::Refused { .. }) => {
                error!("reload failed; nothing changed");
            }
            Err(error) => error!(%error, "reload failed; nothing changed"),
        }
        notify_manager("READY=1\n");
    });
}

fn log_reload(reloaded: &Reloaded) {
    if let Some(change) = &reloaded.waits_for {
        let (revision, left_s) = (change.revision.number, change.remaining_s.ceil());
        info!(
            revision,
            left_s, "reload waits until this revision is settled"
        );
        return;
    }
    let revision = reloaded.applied.as_ref().and_then(|a| a.revision.as_ref());
    match (revision, &reloaded.file.state) {
        (Some(revision), _) => info!(revision = revision.number, "configuration reloaded"),
        (None, FileState::Overridden) => info!(
            "configuration reloaded: the file was not edited since it was applied; the changes made since \
             stay active (`evenkeel diff --file` shows them)"
        ),
        (None, _) => info!("configuration reloaded: no changes"),
    }
}

/// Tells the service manager, if it asked for it, that the actor makes progress.
pub(super) fn ping_watchdog() {
    if system::wants_watchdog() {
        notify_manager("WATCHDOG=1\n");
    }
}

fn notify_manager(message: &str) {
    if let Err(error) = system::notify(message) {
        warn!(%error, "can't notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_blocked_thread_does_not_delay_the_runtime() {
        let blocked = async { thread::sleep(Duration::from_millis(500)) };
        let mut output = run_on_thread("test", blocked).unwrap();
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut ticked = 0;
        loop {
            tokio::select! {
                biased;
                done = &mut output => break done.unwrap(),
                _ = ticks.tick() => ticked += 1,
            }
        }
        assert!(ticked > 20, "{ticked} ticks");
    }

    #[tokio::test]
    async fn tasks_and_timers_of_the_thread_run_on_the_runtime() {
        let work = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let task = tokio::spawn(async { thread::current().id() });
            // Blocks the thread: only the runtime can finish the task.
            while !task.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            task.await.unwrap()
        };
        let id = run_on_thread("test", work).unwrap().await.unwrap();
        assert_eq!(id, thread::current().id());
    }

    #[tokio::test]
    async fn a_panic_of_the_thread_is_an_error() {
        let output = run_on_thread("test", async { panic!("on purpose") }).unwrap();
        assert!(output.await.is_err());
    }
}
