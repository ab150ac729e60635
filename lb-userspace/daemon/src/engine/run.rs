//! `evenkeel run`: starts the parts, handles signals, and waits for the actor to stop.

use std::{sync::Arc, thread};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing::{error, info, warn};

use super::{
    Engine, Options,
    actor::{Actor, Inbox},
    start,
};
use crate::{http, metrics, reconciler::system};

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
    let started = start::start(options).await?;
    let engine = started.engine.clone();
    tokio::spawn(http::serve(started.listener, engine.clone()));
    tokio::spawn(metrics::run(engine.sources()));
    let stop = Arc::clone(&started.inbox.stop);
    info!("ready");
    notify_manager("READY=1\n");
    let mut stopped = spawn_actor(started.actor, started.inbox)?;
    let result = loop {
        tokio::select! {
            result = &mut stopped => break result,
            _ = terminate.recv() => stop.notify_one(),
            _ = interrupt.recv() => stop.notify_one(),
            _ = reload.recv() => spawn_reload(engine.clone()),
        }
    };
    notify_manager("STOPPING=1\n");
    if result.map_err(|_| anyhow!("the engine's thread panicked"))?? {
        info!("stopped; the data path stays pinned and keeps forwarding");
    } else {
        error!("stopped; the data path is not pinned: forwarding ends");
    }
    Ok(())
}

/// Runs the actor on a thread of its own. Timers and the tasks that it spawns stay on the current
/// runtime: whatever blocks the actor does not delay them.
///
/// The receiver gets the actor's result, or an error if the thread panicked.
fn spawn_actor(actor: Actor, inbox: Inbox) -> Result<oneshot::Receiver<Result<bool>>> {
    let runtime = Handle::current();
    let (done, stopped) = oneshot::channel();
    thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // The receiver is gone if the main thread panicked.
            let _ = done.send(runtime.block_on(actor.run(inbox)));
        })
        .context("start the engine's thread")?;
    Ok(stopped)
}

/// Nobody waits for a reload: its result is logged.
fn spawn_reload(engine: Engine) {
    tokio::spawn(async move {
        notify_manager(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\n",
            system::monotonic_us()
        ));
        match engine.reload().await {
            Ok(applied) => match applied.revision {
                Some(revision) => info!(revision = revision.number, "configuration reloaded"),
                None => info!("configuration reloaded: no changes"),
            },
            Err(error) => error!(%error, "reload failed; nothing changed"),
        }
        notify_manager("READY=1\n");
    });
}

pub(super) fn notify_manager(message: &str) {
    if let Err(error) = system::notify(message) {
        warn!(%error, "can't notify the service manager");
    }
}
