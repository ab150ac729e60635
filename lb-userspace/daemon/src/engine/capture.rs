//! Packet capture: owns the program for a capture while it is in the links, and ends captures whose client
//! is gone.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lb_dataplane::{CaptureLoader, CaptureProgram};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::{
    Engine, EngineError, EngineResult,
    actor::Actor,
    command::{Command, Reply, send},
    data_path::DataPath,
};
use crate::{
    caller::Caller,
    capture::{Criteria, Guard, RING_BYTES, Reader, Terms},
    events::Entry,
    reconciler::VipReport,
};

/// Chunks of a response that wait for the client.
const CHUNKS: usize = 8;

/// Time for a client to get the rest of its capture when the controller stops.
const LAST_READING: Duration = Duration::from_secs(2);

/// Something that lives as long as the client is interested in the capture.
pub(super) type Interest = Arc<()>;

/// What the program is loaded with.
#[derive(Debug)]
pub(super) struct Prepared {
    loader: CaptureLoader,
    snap: u32,
    title: String,
}

/// What the reader needs of a capture that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    reports: watch::Receiver<Arc<[VipReport]>>,
    stop: watch::Receiver<Option<String>>,
}

pub(super) enum CaptureCommand {
    Prepare(Box<Criteria>, Caller, Interest, Reply<Prepared>),
    /// With the loaded program.
    Begin(Box<CaptureProgram>, Reply<Begun>),
    End(Reply<()>),
    /// Has the capture's client end it.
    Stop(Caller, Reply<()>),
}

impl Actor {
    pub(super) fn handle_capture(&mut self, command: CaptureCommand) {
        let (capture, data_path) = (&mut self.capture, &mut self.data_path);
        match command {
            CaptureCommand::Prepare(criteria, caller, interest, reply) => {
                let prepared = capture.prepare(data_path, *criteria, &caller, &interest);
                send(reply, prepared);
            }
            CaptureCommand::Begin(program, reply) => {
                let begun = capture.begin(data_path, *program);
                if let Ok((_, who)) = &begun {
                    let words = format!("packet capture by {who} began");
                    self.note(Entry::new("capture", words));
                }
                self.follow_program();
                send(reply, begun.map(|(begun, _)| begun));
            }
            CaptureCommand::End(reply) => send(reply, self.end_capture()),
            CaptureCommand::Stop(caller, reply) => {
                send(reply, capture.stop(&format!("by {caller}")));
            }
        }
    }

    /// Puts the balancer's program back after a capture.
    pub(super) fn end_capture(&mut self) -> EngineResult<()> {
        let ended = self.capture.end(&mut self.data_path);
        if let Ok(Some(who)) = &ended {
            let words = format!("packet capture by {who} ended");
            self.note(Entry::new("capture", words));
        }
        self.follow_program();
        ended.map(drop)
    }

    /// Publishes which program belongs into the links, and which is there.
    fn follow_program(&mut self) {
        if let Ok(id) = self.data_path.dataplane.program_id() {
            self.observer.program_id = id;
        }
        self.drift_check.read_links(&self.data_path);
        self.publish();
    }
}

#[derive(Debug, Default)]
pub(super) struct CaptureControl {
    current: Option<Current>,
}

/// The capture that has begun, or is about to.
#[derive(Debug)]
struct Current {
    who: String,
    since: Timestamp,
    criteria: Criteria,
    interest: Weak<()>,
    /// None until the program is in the links.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    guard: Option<Guard>,
    reports: watch::Sender<Arc<[VipReport]>>,
    stop: watch::Sender<Option<String>>,
}

impl CaptureControl {
    /// Checks the names and reserves the capture for its client.
    pub(super) fn prepare(
        &mut self,
        data_path: &mut DataPath,
        criteria: Criteria,
        caller: &Caller,
        interest: &Interest,
    ) -> EngineResult<Prepared> {
        let of_the_past = |current: &mut Current| {
            current.running.is_none() && current.interest.strong_count() == 0
        };
        self.current.take_if(of_the_past);
        if let Some(Current { who, since, .. }) = &self.current {
            return Err(EngineError::Conflict(format!(
                "{who} has been capturing packets since {since:.0}: only one capture runs at a time; wait, or \
                 end it with `evenkeel capture --stop`"
            )));
        }
        criteria.check_names(&data_path.reconciler.report())?;
        let loader = data_path.dataplane.capture_loader();
        let loader =
            loader.ok_or_else(|| EngineError::Failed("the data path is not pinned".into()))?;
        let prepared = Prepared {
            loader,
            snap: criteria.rest.snap,
            title: format!(
                "evenkeel capture on {} by {caller}",
                crate::reconciler::system::host_name()
            ),
        };
        self.current = Some(Current {
            who: caller.to_string(),
            since: super::now(),
            criteria,
            interest: Arc::downgrade(interest),
            running: None,
        });
        Ok(prepared)
    }

    /// Puts the loaded program into the links. Returns also who captures.
    pub(super) fn begin(
        &mut self,
        data_path: &mut DataPath,
        program: CaptureProgram,
    ) -> EngineResult<(Begun, String)> {
        let current = self.current.as_mut();
        let current = current.filter(|current| current.interest.strong_count() > 0);
        let Some(current) = current else {
            return Err(EngineError::Conflict("the client is gone".into()));
        };
        let failed = |error: String| EngineError::Failed(format!("can't capture packets: {error}"));
        let started = start(data_path, program, &current.criteria).map_err(failed);
        let (running, begun) = match started {
            Ok(started) => started,
            Err(error) => {
                self.current = None;
                return Err(error);
            }
        };
        current.running = Some(running);
        info!(who = current.who, "packet capture began");
        Ok((begun, current.who.clone()))
    }

    /// Has the client's capture end.
    pub(super) fn stop(&self, why: &str) -> EngineResult<()> {
        let current = self.current.as_ref();
        let running = current.and_then(|current| current.running.as_ref());
        let stopped = running.is_some_and(|running| running.stop.send(Some(why.into())).is_ok());
        let nothing = || EngineError::NotFound("no packet capture is running".into());
        stopped.then_some(()).ok_or_else(nothing)
    }

    /// Ends the capture when the controller stops, and gives its client a moment to get the rest.
    pub(super) fn finish(&mut self, data_path: &mut DataPath) {
        let Some(Current {
            running: Some(running),
            interest,
            ..
        }) = &mut self.current
        else {
            return;
        };
        // First, so that the reader finds all records.
        match data_path.dataplane.end_capture() {
            Ok(()) => running.guard.take().into_iter().for_each(Guard::dismiss),
            // The guard tries again when this process has ended.
            Err(error) => error!(%error, "can't put the ordinary program back"),
        }
        running
            .stop
            .send_replace(Some("the controller is stopping".into()));
        let start = Instant::now();
        while interest.strong_count() > 0 && start.elapsed() < LAST_READING {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Puts the balancer's program back. Returns who captured, if anybody did.
    pub(super) fn end(&mut self, data_path: &mut DataPath) -> EngineResult<Option<String>> {
        let Some(Current { who, running, .. }) = &mut self.current else {
            return Ok(None);
        };
        if running.is_some()
            && let Err(error) = data_path.dataplane.end_capture()
        {
            error!(%error, "can't put the ordinary program back; trying again");
            return Err(EngineError::Failed(error.to_string()));
        }
        let (who, running) = (who.clone(), running.take());
        self.current = None;
        if let Some(guard) = running.and_then(|running| running.guard) {
            guard.dismiss();
        }
        info!(who, "packet capture ended");
        Ok(Some(who))
    }

    /// Renews the deadline of the program, with a filter for the present configuration. Returns whether the
    /// capture must be ended.
    pub(super) fn tick(&mut self, data_path: &mut DataPath) -> bool {
        let report = data_path.reconciler.report();
        let Some(current) = &mut self.current else {
            return false;
        };
        let Some(running) = &mut current.running else {
            return false;
        };
        if current.interest.strong_count() == 0 {
            return true;
        }
        running.reports.send_if_modified(|known| {
            let is_new = !Arc::ptr_eq(known, &report);
            known.clone_from(&report);
            is_new
        });
        if let Err(error) = record(data_path, &current.criteria, &report) {
            warn!(%error, "can't renew the deadline of the capture");
        }
        if !running.guard.as_mut().is_some_and(Guard::is_running) {
            warn!("the guard of the packet capture has ended; starting another");
            running.guard = guard(data_path);
        }
        false
    }
}

fn start(
    data_path: &mut DataPath,
    program: CaptureProgram,
    criteria: &Criteria,
) -> Result<(Running, Begun), String> {
    let report = data_path.reconciler.report();
    data_path
        .dataplane
        .begin_capture(program)
        .map_err(|error| error.to_string())?;
    // Only now does the program have an effect that must be undone.
    let guard = guard(data_path);
    let recorded = record(data_path, criteria, &report).map_err(|error| error.to_string());
    if guard.is_none() || recorded.is_err() {
        // The first error is the one to report.
        let _ = data_path.dataplane.end_capture();
        if let Some(guard) = guard {
            guard.dismiss();
        }
        return Err(recorded
            .err()
            .unwrap_or_else(|| "can't start its guard".into()));
    }
    let (reports, new_reports) = watch::channel(report);
    let (stop, stopped) = watch::channel(None);
    let running = Running {
        guard,
        reports,
        stop,
    };
    let begun = Begun {
        reports: new_reports,
        stop: stopped,
    };
    Ok((running, begun))
}

fn record(
    data_path: &DataPath,
    criteria: &Criteria,
    report: &[VipReport],
) -> lb_dataplane::Result<()> {
    let dataplane = &data_path.dataplane;
    let Some(program) = dataplane.capture() else {
        return Ok(());
    };
    program.record(&criteria.filter(report), dataplane.now_s()?)
}

/// Starts the guard; none if that fails.
fn guard(data_path: &DataPath) -> Option<Guard> {
    let dataplane = &data_path.dataplane;
    dataplane.program_id().ok().and_then(|id| {
        let guard = Guard::start(dataplane.bpffs()?, id);
        guard
            .inspect_err(|error| error!(%error, "can't start the guard of the packet capture"))
            .ok()
    })
}

/// The response to a capture, in chunks. The capture ends when it is dropped.
#[derive(Debug)]
pub struct CaptureStream {
    chunks: mpsc::Receiver<Vec<u8>>,
    _interest: Interest,
}

impl CaptureStream {
    /// Waits for the next chunk. None at the end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.chunks.recv().await
    }
}

impl Engine {
    /// Captures packets.
    ///
    /// # Errors
    ///
    /// A name does not exist, another capture is running, or the program can't be loaded or attached.
    pub async fn capture(&self, criteria: Criteria, caller: Caller) -> EngineResult<CaptureStream> {
        let interest = Interest::default();
        let (for_s, count) = (criteria.for_s, criteria.count);
        let theirs = Arc::clone(&interest);
        let Prepared {
            loader,
            snap,
            title,
        } = self
            .request(|reply| {
                Command::Capture(CaptureCommand::Prepare(
                    Box::new(criteria),
                    caller,
                    theirs,
                    reply,
                ))
            })
            .await?;
        // Verification takes a moment; nobody has to wait for it.
        let loaded = tokio::task::spawn_blocking(move || loader.load(RING_BYTES)).await;
        let loaded = loaded.map_err(|error| EngineError::Failed(error.to_string()))?;
        let (program, records) = loaded.map_err(|error| EngineError::Failed(error.to_string()))?;
        let begun = self
            .request(|reply| Command::Capture(CaptureCommand::Begin(Box::new(program), reply)))
            .await?;
        let (out, chunks) = mpsc::channel(CHUNKS);
        let reader = Reader {
            records,
            terms: Terms {
                for_s,
                count,
                snap,
                title,
            },
            reports: begun.reports,
            stop: begun.stop,
            out,
        };
        let (commands, theirs) = (self.commands.clone(), Arc::clone(&interest));
        std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let summary = reader.run(|| end(&commands));
                info!(summary, "packet capture read");
                drop(theirs);
            })
            .map_err(|error| EngineError::Failed(format!("start a thread: {error}")))?;
        Ok(CaptureStream {
            chunks,
            _interest: interest,
        })
    }

    /// Ends the running capture as if its time were over.
    ///
    /// # Errors
    ///
    /// No capture is running.
    pub async fn stop_capture(&self, caller: Caller) -> EngineResult<()> {
        self.request(|reply| Command::Capture(CaptureCommand::Stop(caller, reply)))
            .await
    }
}

/// Has the actor end the capture. A controller that stops does so by itself.
fn end(commands: &mpsc::Sender<Command>) -> Result<(), String> {
    let (reply, ended) = tokio::sync::oneshot::channel();
    let command = Command::Capture(CaptureCommand::End(reply));
    if commands.blocking_send(command).is_err() {
        return Ok(());
    }
    match ended.blocking_recv() {
        Ok(Err(error)) => Err(error.to_string()),
        _ => Ok(()),
    }
}
