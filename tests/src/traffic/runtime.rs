//! A tokio runtime inside a namespace: one thread, so whatever its tasks open is opened there.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::namespace::Entry;

/// A running task and how to stop it.
#[derive(Debug)]
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Becomes true when the task is to end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Runs what `task` makes until it is done; it is told when to stop. What it has spawned ends with it.
pub(crate) fn run_inside<F, Task>(ns: &Entry, name: &str, task: F) -> Result<Running>
where
    F: FnOnce(Stop) -> Task + Send + 'static,
    Task: Future<Output = ()>,
{
    let (stop, stopped) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| format!("runtime of {name}"))?;
    let thread = ns
        .spawn(name, move || runtime.block_on(task(stopped)))
        .with_context(|| format!("thread of {name}"))?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

impl Running {
    /// Tells the task to stop and waits until it has. A panic in it goes on here.
    pub(crate) fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; a second one while dropping would abort.
            let _ = thread.join();
        }
    }
}
