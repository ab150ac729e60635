//! A scripted controller, and bodies of its responses.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// HTTP status and body; none closes the connection without a response.
pub(crate) type Response = Option<(u16, Value)>;

/// Responses by request line. The last response of an entry is repeated.
pub(crate) type Script = Arc<Mutex<Vec<(String, VecDeque<Response>)>>>;

/// A scripted controller.
pub(crate) struct Controller {
    pub(crate) folder: TempDir,
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Controller {
    pub(crate) fn start(script: &[(&str, &[Response])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(Mutex::new(
            script
                .iter()
                .map(|(path, answers)| ((*path).to_owned(), answers.iter().cloned().collect()))
                .collect(),
        ));
        let log = Arc::clone(&requests);
        // The thread ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &script, &log);
            }
        });
        Self { folder, requests }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        command(&self.socket(), arguments).output().unwrap()
    }

    /// The requests so far: method and path, and body.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) fn serve(mut stream: UnixStream, script: &Script, log: &Mutex<Vec<(String, Value)>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    log.lock().unwrap().push((path.clone(), body));
    let mut script = script.lock().unwrap();
    let entry = script.iter_mut().find(|(known, _)| *known == path);
    let answer = match entry {
        Some((_, answers)) if answers.len() > 1 => answers.pop_front().unwrap(),
        Some((_, answers)) => answers[0].clone(),
        None => Some((404, error("not_found", &format!("no {path}")))),
    };
    if let Some((status, body)) = answer {
        let body = body.to_string();
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
        // The command may have ended.
        let _ = stream.write_all((head + &body).as_bytes());
    }
}

pub(crate) fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.env("EVENKEEL_SOCKET", socket).args(arguments);
    command
}

pub(crate) fn error(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message, "plan": null })
}

pub(crate) fn ok(body: &Value) -> Response {
    Some((200, body.clone()))
}

pub(crate) fn plan(verdict: &str) -> Value {
    let guard = match verdict {
        "refused" => "refused",
        _ => "passed",
    };
    let side = |share: f64| {
        json!({
            "weight": 100, "state": "up", "eligible": true, "intended_share": share,
            "table_share": share
        })
    };
    json!({
        "base": 7, "verdict": verdict, "other": [], "warnings": [],
        "vips": [{
            "vip": "api", "action": "changed", "ring_size": 65537, "slots_moved": 32768,
            "new_flows_per_s": 10.0, "peak_new_flows_per_s": 20.0, "settings": [],
            "limits": null,
            "bound": null,
            "members": [{
                "backend": "api-1", "address": "10.0.1.11", "before": side(1.0), "after": side(0.5),
                "predicted_new_flows_per_s": 10.0, "capacity": null
            }],
            "guards": [{
                "guard": "max_moved", "verdict": guard, "detail": "50 % of the ring would move"
            }]
        }]
    })
}

pub(crate) fn revision(state: &Value) -> Value {
    let mut revision = json!({
        "number": 8, "parent": 7, "at": "2026-11-22T19:00:00Z", "who": "root (1)",
        "how": "apply FILE", "why": null, "forced": [], "digest": "00"
    });
    let fields = revision.as_object_mut().unwrap();
    fields.extend(state.as_object().unwrap().clone());
    revision
}

pub(crate) fn baking() -> Value {
    json!({ "state": "baking", "until": "2026-11-22T19:00:30Z" })
}

pub(crate) fn applied_as(state: &Value) -> Response {
    ok(&json!({ "revision": revision(state), "plan": plan("allowed") }))
}

pub(crate) fn progress(state: &Value) -> Response {
    ok(&json!({
        "revision": revision(state), "remaining_s": 3.0, "notes": ["2 of 2 backends are healthy"]
    }))
}

pub(crate) fn file(controller: &Controller) -> String {
    let path = controller.folder.path().join("new.toml");
    fs::write(&path, "[node]\n").unwrap();
    path.display().to_string()
}
