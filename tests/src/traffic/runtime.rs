//! A tokio runtime inside a namespace: it has one thread, so its tasks open sockets there.

use std::future::Future;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::namespace::Entry;

/// A running task, stopped when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Becomes true when the task must end.
pub(crate) type Stop = watch::Receiver<bool>;

/// Runs the future of `task`, which must end when `Stop` becomes true. Tasks that it has spawned end with it.
pub(crate) fn run_inside<F, Task>(ns: &Entry, name: &str, task: F) -> Result<Running>
where
    F: FnOnce(Stop) -> Task + Send + 'static,
    Task: Future<Output = ()>,
{
    let (stop, stopped) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .with_context(|| format!("create the runtime of {name}"))?;
    let thread = ns
        .spawn(name, move || runtime.block_on(task(stopped)))
        .with_context(|| format!("start the thread of {name}"))?;
    Ok(Running {
        stop,
        thread: Some(thread),
    })
}

impl Running {
    /// Stops the task and waits for its end. Propagates its panic.
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
            // A panic has been printed; a second one in drop would abort.
            let _ = thread.join();
        }
    }
}
