//! Pipes that are closed: standard output and error, and the connection to the controller.

use std::{
    fs,
    io::PipeWriter,
    net::Shutdown,
    os::unix::net::UnixListener,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    controller::{Controller, applied_as, baking, command, file, ok, plan, progress},
    err,
};

#[test]
fn a_closed_pipe_is_not_an_error() {
    let events: Vec<Value> = (0..1000)
        .map(|id| {
            json!({
                "id": id, "at": "2026-11-22T19:00:00Z", "kind": "health", "vip": null,
                "backend": null, "message": "x".repeat(500)
            })
        })
        .collect();
    let controller = Controller::start(&[("GET /v1/events", &[ok(&json!(events))])]);
    let mut child = command(&controller.socket(), &["events"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As `head` does.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

/// A pipe without a reader.
fn closed_pipe() -> PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn a_closed_pipe_does_not_change_the_exit_code() {
    let rolled_back = json!({
        "state": "rolled_back", "reason": "api-1 went down", "undone_at": "2026-11-22T19:00:12Z"
    });
    let controller = Controller::start(&[
        ("POST /v1/plan", &[ok(&plan("refused"))]),
        ("POST /v1/apply", &[applied_as(&baking())]),
        ("GET /v1/revisions/8/progress", &[progress(&rolled_back)]),
    ]);
    let file = file(&controller);
    let folder = controller.folder.path().to_str().unwrap();
    for (arguments, code) in [
        (&["plan", &file][..], 3),
        (&["plan", &file, "--json"], 3),
        (&["apply", &file], 4),
        (&["check", &file, "--json"], 1),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (
            &["decap", "--status", "--interface", "lo", "--bpffs", folder],
            1,
        ),
    ] {
        let mut command = command(&controller.socket(), arguments);
        let output = command.stdout(closed_pipe()).output().unwrap();
        let said = (output.status.code(), err(&output));
        assert_eq!(said, (Some(code), String::new()), "{arguments:?}");
    }
}

#[test]
fn following_events_ends_when_the_pipe_is_closed() {
    let event = json!({
        "id": 1, "at": "2026-11-22T19:00:00Z", "kind": "health", "vip": null, "backend": null,
        "message": "api-1 is up"
    });
    let controller = Controller::start(&[("GET /v1/events", &[ok(&json!([event]))])]);
    let mut command = command(&controller.socket(), &["events", "--follow"]);
    let output = command.stdout(closed_pipe()).output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_closed_standard_error_does_not_change_the_exit_code() {
    let controller = Controller::start(&[]);
    for (arguments, code) in [(&[][..], 64), (&["status"], 1)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command
            .args(arguments)
            .env("EVENKEEL_SOCKET", controller.socket());
        let output = command.stderr(closed_pipe()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

/// A broken pipe to the controller is not a closed standard output.
#[test]
fn a_connection_that_breaks_during_the_request_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, large) = (folder.path().join("api.sock"), folder.path().join("large"));
    // More than the socket buffers hold: the write blocks until the pipe breaks.
    fs::write(&large, "#".repeat(3 << 20)).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        // Kept open: closing it with unread data would reset the connection instead.
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
            open.push(stream);
        }
    });
    let large = large.display().to_string();
    // Repeated, as the error may be seen by the read or by the write.
    for arguments in [["apply", &large], ["plan", &large]].repeat(10) {
        let output = command(&socket, &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(err(&output).contains("closed the connection"), "{output:?}");
    }
}

#[test]
fn a_connection_that_is_closed_at_once_is_an_error_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("api.sock"), folder.path().join("file"));
    fs::write(&file, "[node]\n").unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let file = file.display().to_string();
    for arguments in [
        &["apply", &file][..],
        &["plan", &file],
        &["rollback"],
        &["confirm"],
        &["backend", "weight", "api-1", "50"],
        &["vip", "remove", "api"],
        &["status", "--json"],
    ] {
        let output = command(&socket, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(err(&output).contains("closed the connection"), "{output:?}");
    }
}
