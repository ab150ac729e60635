//! `[api]`, `[change]`, `[metrics]` and `[alerts]`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::Secret;
use crate::config::kind;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

table! {
    /// The API's socket.
    Api as TypedApi, "api";
    keys {
        /// Unix socket of the API, which the command line uses.
        socket: PathBuf, [default PathBuf::from("/run/evenkeel/api.sock")], kind::socket_path(), Restart;
        /// A group whose members may use the socket, besides root. They can change everything that
        /// root can.
        group: String, [optional "none"], kind::text("name of a group"), Restart;
    }
}

table! {
    /// How changes are applied.
    #[derive(Copy)]
    ChangeSettings as TypedChangeSettings, "change";
    keys {
        /// How long a change is watched after it was applied, unless the request says otherwise.
        /// The change is rolled back when, in this time, a backend goes down, a new backend never
        /// passes its checks, a VIP runs out of backends, drops rise, or shares are off. `"0s"`
        /// turns this off.
        bake: Duration, [default seconds(30)], kind::duration(Duration::ZERO..=seconds(3600)), Live;
        /// How many revisions are kept; older ones are removed. The active one and the newest good
        /// one before it are always kept.
        keep_revisions: u32, [default 200], kind::integer(2..=100_000), Live;
    }
}

table! {
    /// The metrics endpoint.
    Metrics as TypedMetrics, "metrics";
    keys {
        /// Where Prometheus scrapes the metrics.
        listen: SocketAddr, [default SocketAddr::from((Ipv4Addr::LOCALHOST, 9477))],
            kind::socket_address(), Live;
    }
}

table! {
    /// Where alerts are sent, besides the log and the metrics.
    Alerts as TypedAlerts, "alerts", with Default;
    input {
        /// A file with a secret of at least 16 characters. Requests to webhooks are then signed
        /// with it (HMAC-SHA-256).
        webhook_secret_file: PathBuf, [optional "none"], kind::path(), Live;
    }
    keys {
        /// Alertmanagers (API version 2).
        alertmanager: String, [list "`[]`"], kind::url(), Live;
        /// Receivers of alerts as JSON; `docs/monitoring.md` describes the document.
        webhook: String, [list "`[]`"], kind::url(), Live;
        /// How often firing alerts are sent again to Alertmanagers. They resolve an alert that they
        /// did not get for four times this.
        resend: Duration, [default seconds(60)], kind::duration(seconds(5)..=seconds(600)), Live;
        /// How long an alert may fire without being acknowledged before it is escalated: info,
        /// warning, critical. `"0s"`: never.
        escalate_after: Option<Duration>, [default Some(seconds(600))],
            kind::duration_or_never(seconds(24 * 3600)), Live;
    }
    resolved {
        /// What requests to webhooks are signed with.
        webhook_secret: Option<Secret>;
    }
}
