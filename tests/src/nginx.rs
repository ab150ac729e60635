//! nginx on a backend.
//!
//! Every reply has the backend's name in the header `X-Backend`. Pages: `/` (the name), `/healthz`,
//! `/1k` and `/1m` (files of 1 KiB and 1 MiB), and `/upload`, which discards any body.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::Daemon;
use crate::tool;

const START_LIMIT: Duration = Duration::from_secs(10);

/// An nginx on a host. Killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    daemon: Daemon,
}

impl Nginx {
    /// Starts nginx on these addresses (`0.0.0.0` and `[::]` for all of the host) and waits until all accept
    /// connections.
    pub fn start(host: &Host, listen: &[SocketAddr]) -> Result<Self> {
        let prefix = prefix(host, listen);
        write_files(&prefix, &host.name, listen)
            .with_context(|| format!("write the files of nginx in {}", prefix.display()))?;
        let mut command = tool::command("nginx")?;
        command
            .arg("-p")
            .arg(&prefix)
            .args(["-e", "stderr", "-c", "nginx.conf"]);
        let name = format!("nginx on {}", host.name);
        let mut daemon = Daemon::start(&name, &host.ns.entry(), command, &prefix.join("log"))?;
        daemon.wait_ready(START_LIMIT, || {
            Ok(host
                .ns
                .enter(|| listen.iter().all(|address| can_connect(*address))))
        })?;
        Ok(Self { daemon })
    }

    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// Returns the folder of an instance. Instances on one host differ in their addresses.
fn prefix(host: &Host, listen: &[SocketAddr]) -> PathBuf {
    let mut name = "nginx".to_owned();
    for address in listen {
        let _ = write!(name, "-{}", address.to_string().replace(['[', ']'], ""));
    }
    host.directory().join(name)
}

fn can_connect(mut address: SocketAddr) -> bool {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

fn write_files(prefix: &Path, name: &str, listen: &[SocketAddr]) -> std::io::Result<()> {
    let pages = prefix.join("pages");
    std::fs::create_dir_all(&pages)?;
    std::fs::write(prefix.join("nginx.conf"), configuration(name, listen))?;
    std::fs::write(pages.join("1k"), pattern(1 << 10))?;
    std::fs::write(pages.join("1m"), pattern(1 << 20))
}

/// Returns bytes in which a swapped or shifted part is detected.
fn pattern(length: u32) -> Vec<u8> {
    (0..length)
        .map(|i| b'a' + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)
        .collect()
}

fn configuration(name: &str, listen: &[SocketAddr]) -> String {
    let mut listens = String::new();
    for address in listen {
        let only = if address.is_ipv6() {
            " ipv6only=on"
        } else {
            ""
        };
        let _ = writeln!(listens, "    listen {address}{only} backlog=4096;");
    }
    // One process in the foreground, without children that could outlive it.
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type application/octet-stream;
  keepalive_timeout 75s;
  keepalive_requests 1000000;
  client_body_temp_path temp;
  proxy_temp_path temp;
  fastcgi_temp_path temp;
  uwsgi_temp_path temp;
  scgi_temp_path temp;
  server {{
{listens}    root pages;
    add_header X-Backend {name} always;
    location = / {{ default_type text/plain; return 200 \"{name}\\n\"; }}
    location = /healthz {{ default_type text/plain; return 200 \"ok\\n\"; }}
    # Discards a body of any length.
    location = /upload {{ client_max_body_size 0; lingering_time 1h; lingering_timeout 1m; return 200 \"ok\\n\"; }}
  }}
}}
"
    )
}
