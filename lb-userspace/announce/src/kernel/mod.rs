//! Announces through the host's own routing daemon: routes in a kernel routing table.

mod table;
mod tun;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;

use self::{
    table::{Found, Table},
    tun::Tun,
};
use crate::routes::Routes;

/// How often the table is read back, and repaired if somebody changed it.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interval after an error.
const RETRY: Duration = Duration::from_secs(1);

/// Announces routes through BIRD, FRR or another routing daemon of this host: creates a TUN device, and
/// host routes on it in a routing table of its own. The daemon imports that table (BIRD: `learn`) and
/// announces its routes. No rule should refer to the table, so that it never routes packets itself.
///
/// The kernel removes the device, and with it the routes, when the process dies, however it dies.
#[derive(Debug)]
pub struct KernelRoutes {
    routes: watch::Sender<Arc<Routes>>,
    status: watch::Receiver<KernelStatus>,
    task: JoinHandle<()>,
}

/// State of the routes in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelStatus {
    /// Number of routes in the table.
    pub routes: usize,
    /// Whether the table has exactly the routes that were given last.
    pub in_sync: bool,
    /// Why not.
    pub last_error: Option<String>,
    /// Host routes in the table that somebody else made, and what they are: a routing daemon may announce
    /// them, whatever is announced here.
    pub foreign: Arc<BTreeMap<IpAddr, String>>,
    /// How many times a route was made again that somebody else had removed.
    pub restored: u64,
}

/// The device cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "routing table {0} is one of the kernel's own (local, main, default) or 0; use another one"
    )]
    Table(u32),
    #[error(
        "create the TUN device {device}: {kernel}; it needs CAP_NET_ADMIN, /dev/net/tun and an unused name of at most 15 bytes"
    )]
    Tun {
        device: String,
        #[source]
        kernel: io::Error,
    },
    #[error("connect to rtnetlink: {0}")]
    Connect(#[source] io::Error),
    #[error("set up the TUN device {device}: {kernel}")]
    SetUp {
        device: String,
        #[source]
        kernel: rtnetlink::Error,
    },
}

impl KernelRoutes {
    /// Creates the device; announces nothing yet. Must be called in a tokio runtime.
    pub async fn start(device: &str, table: u32) -> Result<Self, KernelError> {
        if table == 0 || (253..=255).contains(&table) {
            return Err(KernelError::Table(table));
        }
        let tun = Tun::create(device).map_err(|kernel| KernelError::Tun {
            device: device.to_owned(),
            kernel,
        })?;
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(KernelError::Connect)?;
        let connection = tokio::spawn(connection);
        let set_up = |kernel| KernelError::SetUp {
            device: device.to_owned(),
            kernel,
        };
        let ifindex = table::index_of(&handle, device).await.map_err(set_up)?;
        let table = Table {
            handle,
            ifindex,
            table,
        };
        table.set_up().await.map_err(set_up)?;
        let routes = watch::Sender::default();
        let (report, status) = watch::channel(KernelStatus::default());
        let wanted = routes.subscribe();
        let task = tokio::spawn(async move {
            let _tun = tun;
            run(table, wanted, report).await;
            connection.abort();
        });
        Ok(Self {
            routes,
            status,
            task,
        })
    }

    /// Replaces the routes. Attributes are not carried. Returns at once.
    pub fn announce(&self, routes: Arc<Routes>) {
        self.routes.send_replace(routes);
    }

    pub fn status(&self) -> KernelStatus {
        self.status.borrow().clone()
    }

    /// Returns a receiver that is notified of changes of the status.
    pub fn changed(&self) -> watch::Receiver<KernelStatus> {
        self.status.clone()
    }

    /// Removes the routes and the device. After `limit`, the kernel removes both at once.
    pub async fn withdraw_and_stop(mut self, limit: Duration) {
        self.announce(Arc::default());
        let mut status = self.status.clone();
        // If the task has ended, the device is gone.
        let _ = timeout(limit, status.wait_for(|it| it.routes == 0)).await;
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for KernelRoutes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    table: Table,
    mut routes: watch::Receiver<Arc<Routes>>,
    report: watch::Sender<KernelStatus>,
) {
    let mut installed = BTreeSet::new();
    loop {
        let wanted: BTreeSet<IpAddr> = routes.borrow_and_update().keys().copied().collect();
        let outcome = reconcile(&table, &wanted, &installed).await;
        let pause = if outcome.is_ok() { INTERVAL } else { RETRY };
        let before = report.borrow().clone();
        let new = match outcome {
            Ok(found) => {
                let new = status_of(&table, &wanted, &found, &before);
                installed = wanted.difference(&found.displaced).copied().collect();
                new
            }
            Err(error) => KernelStatus {
                in_sync: false,
                last_error: Some(format!("routes in table {}: {error}", table.table)),
                ..before.clone()
            },
        };
        if let Some(error) = new.last_error.as_ref().filter(|_| new != before) {
            warn!("{error}");
        }
        report.send_if_modified(|status| {
            let changed = *status != new;
            *status = new;
            changed
        });
        tokio::select! {
            changed = routes.changed() => if changed.is_err() {
                return;
            },
            () = sleep(pause) => {}
        }
    }
}

/// Most routes of others that are logged.
const MOST_LOGGED: usize = 1000;

fn status_of(
    table: &Table,
    wanted: &BTreeSet<IpAddr>,
    found: &Found,
    before: &KernelStatus,
) -> KernelStatus {
    let number = table.table;
    let made_again = found.removed.difference(&found.displaced);
    let restored = made_again
        .inspect(|address| {
            warn!(%address, table = number, "somebody removed its route; it is made again");
        })
        .count();
    // A daemon may export all of its routes into the table by mistake.
    for (address, route) in found.foreign.iter().take(MOST_LOGGED) {
        if before.foreign.get(address) != Some(route) {
            warn!(%address, table = number, route, "somebody else has a route to it");
        }
    }
    KernelStatus {
        routes: wanted.len() - found.displaced.len(),
        in_sync: found.displaced.is_empty(),
        last_error: found.displaced.first().map(|address| {
            let others = match found.displaced.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("table {number}: routes of somebody else are in the place of {address}{others}")
        }),
        foreign: found.foreign.clone(),
        restored: before.restored + restored as u64,
    }
}

/// Routes vanish when the device is set down, so it is set up again first.
async fn reconcile(
    table: &Table,
    wanted: &BTreeSet<IpAddr>,
    installed: &BTreeSet<IpAddr>,
) -> Result<Found, rtnetlink::Error> {
    table.set_up().await?;
    table.reconcile(wanted, installed).await
}
