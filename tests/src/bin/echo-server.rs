//! An echo server in a process of its own: a process has a limit of files, and with client and server in one,
//! each connection takes two.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

/// Reply to each line or datagram with a name and the same text
#[derive(Parser)]
#[command(name = "echo-server")]
struct Arguments {
    /// Name to reply with
    #[arg(long)]
    name: String,
    /// Address and port, TCP and UDP
    #[arg(long)]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let Arguments { name, listen } = Arguments::parse();
    match lab::traffic::echo::run(name, listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
