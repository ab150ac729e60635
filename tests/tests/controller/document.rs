//! The API is as its OpenAPI document says: Schemathesis makes requests from the document, good ones
//! and bad ones, and judges the answers.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::spawn;

use anyhow::{Context, Result, bail};
use lab::skip::skip;

use crate::site::{Site, build, can_run};

/// The version that is installed, from PyPI.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// What must hold of every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,response_headers_conformance,unsupported_method";

/// Installs Schemathesis into the target folder, unless it is there.
fn install() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let folder = target.canonicalize()?.join("schemathesis");
    let stamp = folder.join("installed");
    let program = folder.join("bin/schemathesis");
    // Its scripts name the folder: one that was moved is installed anew.
    let installed = format!("{SCHEMATHESIS} in {}", folder.display());
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == installed) {
        return Ok(program);
    }
    call(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
    ]);
    call(pip.arg(SCHEMATHESIS))?;
    std::fs::write(stamp, installed)?;
    Ok(program)
}

fn call(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}", said.lines().last().unwrap_or_default());
    }
    Ok(output)
}

/// Whoever connects to the address that this gives is connected to the socket.
fn forward(socket: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket.to_owned();
    spawn(move || {
        for client in listener.incoming() {
            // One that fails is an answer that does not come, and that is found.
            if let (Ok(client), Ok(server)) = (client, UnixStream::connect(&socket)) {
                spawn(move || join(&client, &server));
            }
        }
    });
    address
}

fn join(client: &TcpStream, server: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Either may go whenever it likes.
            let _ = copy(&mut &*client, &mut &*server);
            let _ = server.shutdown(Shutdown::Write);
        });
        let _ = copy(&mut &*server, &mut &*client);
        let _ = client.shutdown(Shutdown::Both);
    });
}

#[test]
fn the_api_is_as_its_document_says() {
    if !can_run("document") {
        return;
    }
    let program = match install() {
        Ok(program) => program,
        Err(why) => return skip("controller document", &format!("{why:#}")),
    };
    let lab = build();
    let mut site = Site::start(&lab, |_| {});
    let flows = site.open(20);
    let address = forward(site.operator.socket());
    let mut command = Command::new(program);
    command
        .args(["run", &format!("http://{address}/v1/openapi.json")])
        .args(["--checks", CHECKS, "--max-examples", "25"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-time", "60"])
        .args([
            "--continue-on-failure",
            "--request-timeout",
            "30",
            "--no-color",
        ])
        .args(["--suppress-health-check", "all", "--warnings", "off"])
        .current_dir(lab.balancers[0].directory());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
    assert!(said.contains("passed"), "{said}");
    // What it did was done to a node that balances.
    site.assert_settled("at the end");
    flows.assert_whole("at the end");
    drop(flows);
    site.check_health();
}
