//! The API conforms to its OpenAPI document: Schemathesis generates valid and invalid requests from the
//! document and checks the replies.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::spawn;

use anyhow::{Context, Result, bail};
use lab::skip::skip;

use crate::site::{Site, build, can_run};

/// Version that is installed from PyPI.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// Checks of every reply.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,response_headers_conformance,unsupported_method";

/// Installs Schemathesis into the target folder unless it is installed.
fn install() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let folder = target.canonicalize()?.join("schemathesis");
    let stamp = folder.join("installed");
    let program = folder.join("bin/schemathesis");
    // Its scripts contain the folder, so it is installed again if the folder was moved.
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

/// Forwards TCP connections to the socket. Returns the address to connect to.
fn forward(socket: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = socket.to_owned();
    spawn(move || {
        for client in listener.incoming() {
            // If this fails, Schemathesis reports a missing reply.
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
            // Either side may close at any time.
            let _ = copy(&mut &*client, &mut &*server);
            let _ = server.shutdown(Shutdown::Write);
        });
        let _ = copy(&mut &*server, &mut &*client);
        let _ = client.shutdown(Shutdown::Both);
    });
}

#[test]
fn the_api_conforms_to_its_document() {
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
        // Without an end in the request, a capture goes on.
        .args(["--exclude-path", "/v1/capture"])
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
    // The node must still forward after all requests.
    site.assert_settled("at the end");
    flows.assert_intact("at the end");
    drop(flows);
    site.check_health();
}
