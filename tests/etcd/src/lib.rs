//! Starts and breaks real etcd clusters for tests.
//!
//! A crate of its own, because the lab, which has another one inside of its namespaces, depends on lb-daemon.

mod certificates;

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use certificates::{Certificates, Pair};

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of members.
    pub members: usize,
    /// Address that all members listen at, on ports of their own.
    pub address: IpAddr,
    /// Whether clients need TLS with a certificate of the cluster's authority.
    pub tls: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            members: 3,
            address: Ipv4Addr::LOCALHOST.into(),
            tls: false,
        }
    }
}

/// A member of a cluster, as its command line names it.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: String,
    /// Folder of its data.
    pub data: &'a Path,
    /// URL for clients.
    pub client: String,
    /// URL for other members.
    pub peer: String,
    /// Names and peers' URLs of all members: `a=http://…,b=http://…`.
    pub all: String,
    /// Tells clusters apart that use the same addresses.
    pub token: String,
    /// If any, clients need TLS with a certificate of this authority.
    pub tls: Option<&'a Certificates>,
}

impl Member<'_> {
    /// The flags that `etcd` and `etcdctl snapshot restore` share.
    fn identity(&self) -> Vec<String> {
        vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data.display()),
            format!("--initial-cluster={}", self.all),
            format!("--initial-cluster-token={}", self.token),
            format!("--initial-advertise-peer-urls={}", self.peer),
        ]
    }

    /// The arguments of `etcd`.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = self.identity();
        arguments.extend([
            format!("--listen-client-urls={}", self.client),
            format!("--advertise-client-urls={}", self.client),
            format!("--listen-peer-urls={}", self.peer),
            format!("--quota-backend-bytes={QUOTA}"),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ]);
        if let Some(Certificates {
            ca,
            server: (certificate, key),
            ..
        }) = self.tls
        {
            arguments.extend([
                "--client-cert-auth".to_owned(),
                format!("--trusted-ca-file={}", ca.display()),
                format!("--cert-file={}", certificate.display()),
                format!("--key-file={}", key.display()),
            ]);
        }
        arguments
    }
}

/// A running cluster. Dropping it kills its members.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    folder: tempfile::TempDir,
    /// Client and peer port of each member.
    ports: Vec<(u16, u16)>,
    processes: Vec<Option<Child>>,
    certificates: Certificates,
    /// Part of the peers' token: another one after each restore, so that old members are strangers.
    generation: u32,
}

/// Size of the database at which etcd takes no more writes.
const QUOTA: usize = 32 << 20;

/// Whether `etcd` and `etcdctl` are installed; otherwise the reason for a skipped test.
///
/// # Errors
/// The reason.
pub fn installed() -> Result<(), String> {
    for tool in ["etcd", "etcdctl"] {
        let found = Command::new(tool)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Err(format!(
                "{tool} is not installed: `cargo xtask setup` installs it"
            ));
        }
    }
    Ok(())
}

impl Cluster {
    /// Starts a cluster, and waits until it has a leader.
    ///
    /// # Panics
    /// If it does not start within 60 seconds.
    #[must_use]
    pub fn start(options: Options) -> Self {
        // In memory, if possible: etcd waits for the disk at each write.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = folder.expect("make a folder for etcd");
        let ports = free_ports(&options);
        let certificates = Certificates::new(folder.path(), options.address);
        let mut cluster = Self {
            processes: options.members_none(),
            options,
            folder,
            ports,
            certificates,
            generation: 0,
        };
        cluster.start_all();
        cluster
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// The URLs for clients.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.len())
            .map(|member| self.endpoint(member))
            .collect()
    }

    /// The URL of a member for clients.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!(
            "{scheme}://{}:{}",
            self.options.address, self.ports[member].0
        )
    }

    /// Files for clients, and to be refused with.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Kills a member (SIGKILL).
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.processes[member].take() {
            // It may be frozen or dead.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a killed member with the data that it has.
    pub fn restart(&mut self, member: usize) {
        self.spawn(member, true);
    }

    /// Stops a member from running, but not from having open connections (SIGSTOP).
    pub fn freeze(&self, member: usize) {
        self.signal(member, libc::SIGSTOP);
    }

    /// Lets a frozen member run again.
    pub fn thaw(&self, member: usize) {
        self.signal(member, libc::SIGCONT);
    }

    /// Index of the member that leads.
    ///
    /// # Panics
    /// If none does within 30 seconds.
    #[must_use]
    pub fn leader(&self) -> usize {
        wait("a leader of etcd", || {
            (0..self.len())
                .filter(|member| self.processes[*member].is_some())
                .find(|member| self.leads(*member))
        })
    }

    fn leads(&self, member: usize) -> bool {
        let fields = self.status(member);
        // endpoint, id, version, size, is leader, …
        fields.is_some_and(|fields| fields.split(", ").nth(4) == Some("true"))
    }

    fn status(&self, member: usize) -> Option<String> {
        let endpoint = self.endpoint(member);
        self.etcdctl_at(&[endpoint], &["endpoint", "status", "-w", "simple"])
            .ok()
    }

    /// Compacts the history up to now.
    ///
    /// # Panics
    /// If etcd refuses.
    pub fn compact(&self) {
        let listed = self.etcdctl(&["get", "none", "-w", "json"]);
        let revision = listed.split("\"revision\":").nth(1).expect("a revision");
        let digits = revision.split(|c: char| !c.is_ascii_digit()).next();
        self.etcdctl(&["compaction", digits.expect("a number"), "--physical"]);
    }

    /// Entries of the raft log so far: all writes, also of leases.
    ///
    /// # Panics
    /// If etcd does not answer.
    #[must_use]
    pub fn writes(&self) -> u64 {
        let status = self.etcdctl_at(&[self.endpoint(0)], &["endpoint", "status", "-w", "json"]);
        let status = status.expect("the status of etcd");
        let index = status.split("\"raftIndex\":").nth(1).expect("a raft index");
        let digits = index.split(|c: char| !c.is_ascii_digit()).next();
        digits
            .and_then(|digits| digits.parse().ok())
            .expect("a number")
    }

    /// Saves a snapshot.
    ///
    /// # Panics
    /// If etcd refuses.
    pub fn save(&self, to: &Path) {
        let _ = fs::remove_file(to);
        let path = to.to_str().expect("a path in UTF-8");
        let saved = self.etcdctl_at(&[self.endpoint(0)], &["snapshot", "save", path]);
        saved.expect("save a snapshot of etcd");
    }

    /// Kills all members and starts them with the data of a snapshot; without one, with none.
    ///
    /// # Panics
    /// If etcd refuses.
    pub fn restore(&mut self, from: Option<&Path>) {
        for member in 0..self.len() {
            self.kill(member);
            let _ = fs::remove_dir_all(self.data(member));
        }
        self.generation += 1;
        let Some(from) = from else {
            self.start_all();
            return;
        };
        for member in 0..self.len() {
            let path = from.to_str().expect("a path in UTF-8").to_owned();
            let mut words = vec!["snapshot".to_owned(), "restore".to_owned(), path];
            words.extend(self.member(member, &self.data(member)).identity());
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let restored = self.etcdctl_at(&[self.endpoint(0)], &words);
            restored.expect("restore a snapshot of etcd");
        }
        for member in 0..self.len() {
            self.spawn(member, true);
        }
        let _ = self.leader();
    }

    /// Writes until etcd is out of space: it answers, and takes no writes.
    ///
    /// # Panics
    ///
    /// If it takes twice as much.
    pub fn fill(&self) {
        let value = "x".repeat(1 << 20);
        let is_full = (0..(2 * QUOTA) >> 20).any(|key| {
            let mut put = self.command(&self.endpoints(), &["put", &format!("fill/{key}")]);
            let put = put.stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = put.stderr(Stdio::null()).spawn().expect("etcdctl runs");
            let mut input = child.stdin.take().expect("it is a pipe");
            // It ends early if etcd refuses it.
            let _ = input.write_all(value.as_bytes());
            drop(input);
            !child.wait().expect("etcdctl ends").success()
        });
        assert!(is_full, "etcd has more room than its quota");
    }

    /// Makes room, and ends the alarm.
    pub fn make_room(&self) {
        self.etcdctl(&["del", "--prefix", "fill/"]);
        self.compact();
        self.etcdctl(&["defrag"]);
        self.etcdctl(&["alarm", "disarm"]);
    }

    /// Runs `etcdctl` with the cluster's endpoints, and returns what it prints.
    ///
    /// # Panics
    /// If it fails.
    fn etcdctl(&self, words: &[&str]) -> String {
        let output = self.etcdctl_at(&self.endpoints(), words);
        output.unwrap_or_else(|error| panic!("etcdctl {words:?}: {error}"))
    }

    fn etcdctl_at(&self, endpoints: &[String], words: &[&str]) -> Result<String, String> {
        let output = self.command(endpoints, words).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, endpoints: &[String], words: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--dial-timeout=2s", "--command-timeout=5s"]);
        command.arg(format!("--endpoints={}", endpoints.join(",")));
        if self.options.tls {
            let Certificates {
                ca,
                client: (certificate, key),
                ..
            } = &self.certificates;
            command.arg(format!("--cacert={}", ca.display()));
            command.arg(format!("--cert={}", certificate.display()));
            command.arg(format!("--key={}", key.display()));
        }
        command.args(words);
        command
    }

    fn start_all(&mut self) {
        for member in 0..self.len() {
            self.spawn(member, false);
        }
        let _ = self.leader();
    }

    fn spawn(&mut self, member: usize, exists: bool) {
        let state = if exists { "existing" } else { "new" };
        let log = self.folder.path().join(format!("{member}.log"));
        let log = File::options().create(true).append(true).open(log);
        let log = log.expect("open the log of etcd");
        let mut command = Command::new("etcd");
        command
            .args(self.member(member, &self.data(member)).arguments())
            .arg(format!("--initial-cluster-state={state}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: prctl is safe to call between fork and exec, and has no pointers here.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed leaves no etcd behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            })
        };
        self.processes[member] = Some(command.spawn().expect("start etcd"));
    }

    fn member<'a>(&'a self, member: usize, data: &'a Path) -> Member<'a> {
        let all = (0..self.len()).map(|i| format!("m{i}={}", self.peer(i)));
        Member {
            name: format!("m{member}"),
            data,
            client: self.endpoint(member),
            peer: self.peer(member),
            all: all.collect::<Vec<_>>().join(","),
            token: format!("t{}", self.generation),
            tls: self.options.tls.then_some(&self.certificates),
        }
    }

    fn peer(&self, member: usize) -> String {
        format!("http://{}:{}", self.options.address, self.ports[member].1)
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("m{member}"))
    }

    fn signal(&self, member: usize, signal: i32) {
        if let Some(process) = &self.processes[member] {
            let id = i32::try_from(process.id()).expect("process ids are small");
            // SAFETY: sends a signal to a child that was not waited for, so the id is its own.
            unsafe { libc::kill(id, signal) };
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..self.len() {
            self.kill(member);
        }
    }
}

impl Options {
    fn members_none(&self) -> Vec<Option<Child>> {
        (0..self.members).map(|_| None).collect()
    }
}

/// Ports that nobody uses now.
fn free_ports(options: &Options) -> Vec<(u16, u16)> {
    let listen = || TcpListener::bind((options.address, 0)).expect("a free port");
    let listeners: Vec<_> = (0..options.members).map(|_| (listen(), listen())).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    listeners.iter().map(|(a, b)| (port(a), port(b))).collect()
}

/// Waits until something is there.
///
/// # Panics
/// If it is not within 60 seconds.
fn wait<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "no {what} within 60 s"
        );
        thread::sleep(Duration::from_millis(50));
    }
}
