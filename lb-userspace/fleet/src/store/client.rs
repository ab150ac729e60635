//! The client of etcd: one connection per endpoint, and fail-over between them.
//!
//! A balancer of a gRPC library keeps choosing an endpoint that is dead or frozen. Here a request goes to
//! the endpoint that answered last. If it does not answer in time, the next one is asked, so requests
//! must be repeatable: reads are, and writes are either whole values or have conditions.

use std::{
    future::Future,
    sync::Mutex,
    time::{Duration, Instant},
};

use prost::Message;
use tonic::{Code, Status, transport::Channel};

use super::{
    Committed, Condition, Kv, Listing, Txn, Watch, Write,
    connection::{self, explain},
    proto::{self, Request},
    watch::relative,
};
use crate::handle::Tls;

/// Time for the first try of each endpoint: one that is frozen costs no more. An etcd that is slow gets
/// [`SLOW_TRY`] after that.
const FIRST_TRY: Duration = Duration::from_millis(300);
const SLOW_TRY: Duration = Duration::from_millis(1500);

/// A shorter try is none.
const LEAST_TRY: Duration = Duration::from_millis(100);

/// A request that no endpoint has answered after this time has failed.
const LIMIT: Duration = Duration::from_secs(4);

/// End of the state that is watched; texts come after it.
const TEXTS: &str = "texts/";

#[derive(Debug)]
pub(crate) struct Client {
    /// `/evenkeel/FLEET/`.
    prefix: String,
    endpoints: Vec<String>,
    tls: Option<Tls>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Index of the endpoint that is asked first.
    preferred: usize,
    channels: Vec<Option<Channel>>,
    /// Which of the channels have answered.
    proven: Vec<bool>,
    /// Start of the newest request that a quorum has answered.
    contact: Option<Instant>,
}

/// What `fleet doctor` shows of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointStatus {
    pub(crate) version: String,
    pub(crate) has_leader: bool,
    pub(crate) db_bytes: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) took: Duration,
}

impl Client {
    pub(crate) fn new(fleet: &str, endpoints: &[String], tls: Option<Tls>) -> Self {
        Self {
            prefix: format!("/evenkeel/{fleet}/"),
            endpoints: endpoints.to_vec(),
            tls,
            state: Mutex::new(State {
                preferred: 0,
                channels: vec![None; endpoints.len()],
                proven: vec![false; endpoints.len()],
                contact: None,
            }),
        }
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Start of the newest request that a quorum has answered.
    pub(crate) fn contact(&self) -> Option<Instant> {
        self.lock().contact
    }

    /// The keys of the fleet without its texts, as a quorum has them now.
    pub(crate) async fn list(&self) -> Result<Listing, String> {
        self.range("", TEXTS, false).await
    }

    /// The keys from `from` to `to` (not included).
    pub(crate) async fn range(
        &self,
        from: &str,
        to: &str,
        keys_only: bool,
    ) -> Result<Listing, String> {
        let request = proto::RangeRequest {
            key: self.full(from),
            range_end: self.full(to),
            keys_only,
        };
        let response: proto::RangeResponse =
            self.ask("/etcdserverpb.KV/Range", &request, true).await?;
        let header = response.header.unwrap_or_default();
        let kvs = response.kvs.into_iter();
        Ok(Listing {
            revision: header.revision,
            kvs: kvs.filter_map(|kv| relative(kv, &self.prefix)).collect(),
        })
    }

    /// One key, as a quorum has it now, and the current revision of etcd.
    pub(crate) async fn get(&self, key: &str) -> Result<(i64, Option<Kv>), String> {
        let request = proto::RangeRequest {
            key: self.full(key),
            ..proto::RangeRequest::default()
        };
        let response: proto::RangeResponse =
            self.ask("/etcdserverpb.KV/Range", &request, true).await?;
        let revision = response.header.map_or(0, |header| header.revision);
        let kv = response.kvs.into_iter().next();
        Ok((revision, kv.and_then(|kv| relative(kv, &self.prefix))))
    }

    /// Carries a transaction out. Leased keys get `lease`.
    pub(crate) async fn commit(&self, txn: &Txn, lease: i64) -> Result<Committed, String> {
        let request = proto::TxnRequest {
            compare: txn.conditions.iter().map(|c| self.compare(c)).collect(),
            success: txn
                .writes
                .iter()
                .map(|w| self.operation(w, lease))
                .collect(),
        };
        let response: proto::TxnResponse = self.ask("/etcdserverpb.KV/Txn", &request, true).await?;
        let revision = response.header.map_or(0, |header| header.revision);
        Ok(match response.succeeded {
            true => Committed::At(revision),
            false => Committed::Conflict,
        })
    }

    /// A new lease, with a time to live in seconds.
    pub(crate) async fn grant(&self, ttl_s: i64) -> Result<i64, String> {
        let request = proto::LeaseGrantRequest { ttl: ttl_s };
        let method = "/etcdserverpb.Lease/LeaseGrant";
        let response: proto::LeaseGrantResponse = self.ask(method, &request, true).await?;
        match response.error.as_str() {
            "" => Ok(response.id),
            error => Err(format!("etcd granted no lease: {error}")),
        }
    }

    /// Keeps a lease alive. Returns whether it still exists.
    pub(crate) async fn keep_alive(&self, id: i64) -> Result<bool, String> {
        let request = proto::LeaseKeepAliveRequest { id };
        let exchange = |channel| keep_alive_once(channel, request.clone());
        let response = self.try_endpoints(exchange, false).await?;
        Ok(response.ttl > 0)
    }

    /// Watches the keys of the fleet without its texts, from a revision of etcd on.
    pub(crate) async fn watch(&self, from_revision: i64) -> Result<Watch, String> {
        let create = proto::WatchCreateRequest {
            key: self.full(""),
            range_end: self.full(TEXTS),
            start_revision: from_revision,
        };
        let request = proto::WatchRequest {
            create_request: Some(create),
        };
        let method = "/etcdserverpb.Watch/Watch";
        let open = |channel| connection::streaming(channel, method, request.clone());
        let stream = self.try_endpoints(open, false).await?;
        Ok(Watch {
            stream,
            prefix: self.prefix.clone(),
        })
    }

    /// Asks one endpoint for its status.
    pub(crate) async fn status(&self, index: usize) -> Result<EndpointStatus, String> {
        let began = Instant::now();
        let asking = async {
            let channel = connection::connect(&self.endpoints[index], self.tls.as_ref()).await?;
            let method = "/etcdserverpb.Maintenance/Status";
            connection::unary::<_, proto::StatusResponse>(channel, method, proto::StatusRequest {})
                .await
                .map_err(|status| explain(&status))
        };
        let response = tokio::time::timeout(LIMIT, asking).await;
        let late = || format!("no answer within {} s", LIMIT.as_secs());
        let response = response.unwrap_or_else(|_| Err(late()))?;
        Ok(EndpointStatus {
            version: response.version,
            has_leader: response.leader != 0,
            db_bytes: response.db_size.try_into().unwrap_or(0),
            errors: response.errors,
            took: began.elapsed(),
        })
    }

    async fn ask<Q, A>(&self, method: &'static str, request: &Q, quorum: bool) -> Result<A, String>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let exchange = |channel| connection::unary(channel, method, request.clone());
        self.try_endpoints(exchange, quorum).await
    }

    /// Tries the endpoints in turn, the one that answered last first.
    async fn try_endpoints<A, F>(
        &self,
        exchange: impl Fn(Channel) -> F,
        quorum: bool,
    ) -> Result<A, String>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let began = Instant::now();
        let mut longest = FIRST_TRY;
        let first = self.lock().preferred;
        let mut error = None;
        while began.elapsed() < LIMIT && !self.endpoints.is_empty() {
            for offset in 0..self.endpoints.len() {
                let index = (first + offset) % self.endpoints.len();
                let sent = Instant::now();
                let patience = longest.min(LIMIT.saturating_sub(began.elapsed()));
                if patience < LEAST_TRY {
                    break;
                }
                let tried = tokio::time::timeout(patience, self.try_one(index, &exchange)).await;
                let at = |error: String| format!("{}: {error}", self.endpoints[index]);
                match tried {
                    Ok(Ok(answer)) => {
                        let mut state = self.lock();
                        state.preferred = index;
                        state.proven[index] = true;
                        if quorum {
                            state.contact = state.contact.max(Some(sent));
                        }
                        return Ok(answer);
                    }
                    Ok(Err((error, true))) => return Err(at(error)),
                    Ok(Err((what, false))) => error = Some(at(what)),
                    // Says less than what went wrong before.
                    Err(_) => {
                        let late = || at(format!("no answer within {} ms", patience.as_millis()));
                        error.get_or_insert_with(late);
                    }
                }
                let mut state = self.lock();
                state.channels[index] = None;
                state.proven[index] = false;
            }
            longest = SLOW_TRY;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.lock().preferred = (first + 1) % self.endpoints.len().max(1);
        Err(error.unwrap_or_else(|| "fleet.endpoints is empty".to_owned()))
    }

    /// Whether another try is pointless is returned with an error.
    async fn try_one<A, F>(
        &self,
        index: usize,
        exchange: &impl Fn(Channel) -> F,
    ) -> Result<A, (String, bool)>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let known = self.lock().channels[index].clone();
        let channel = match known {
            Some(channel) => channel,
            None => {
                let connecting = connection::connect(&self.endpoints[index], self.tls.as_ref());
                let connected = connecting.await;
                let channel = connected.map_err(|error| (self.suspect(index, error), false))?;
                self.lock().channels[index] = Some(channel.clone());
                channel
            }
        };
        exchange(channel).await.map_err(|status| {
            // Out of space, among others: the worker must not wait for what another try would not change.
            let is_final = matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::PermissionDenied
                    | Code::OutOfRange
                    | Code::ResourceExhausted
            );
            (self.suspect(index, explain(&status)), is_final)
        })
    }

    /// Adds what a closed connection may mean. With TLS 1.3 a client is refused after its handshake, and
    /// the alert is often lost.
    fn suspect(&self, index: usize, error: String) -> String {
        const CLOSED: [&str; 4] = ["broken pipe", "reset", "closed", "eof"];
        let lower = error.to_lowercase();
        let is_closed = CLOSED.iter().any(|word| lower.contains(word));
        if self.tls.is_none()
            || self.lock().proven[index]
            || !is_closed
            || error.contains("certificate")
        {
            return error;
        }
        format!("{error}; etcd may have refused this node's certificate (`fleet.cert_file`)")
    }

    fn compare(&self, condition: &Condition) -> proto::Compare {
        let (key, result, target, value) = match condition {
            Condition::Modified(key, at) => (key, 0, 2, proto::Target::ModRevision(*at)),
            Condition::Created(key, at) => (key, 0, 1, proto::Target::CreateRevision(*at)),
            Condition::Exists(key) => (key, 1, 1, proto::Target::CreateRevision(0)),
        };
        proto::Compare {
            result,
            target,
            key: self.full(key),
            value: Some(value),
        }
    }

    fn operation(&self, write: &Write, lease: i64) -> proto::RequestOp {
        let request = match write {
            Write::Put { key, value, leased } => Request::Put(proto::PutRequest {
                key: self.full(key),
                value: value.clone(),
                lease: if *leased { lease } else { 0 },
            }),
            Write::Delete(key) => Request::DeleteRange(proto::DeleteRangeRequest {
                key: self.full(key),
            }),
        };
        proto::RequestOp {
            request: Some(request),
        }
    }

    fn full(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock")
    }
}

async fn keep_alive_once(
    channel: Channel,
    request: proto::LeaseKeepAliveRequest,
) -> Result<proto::LeaseKeepAliveResponse, Status> {
    let method = "/etcdserverpb.Lease/LeaseKeepAlive";
    let mut answers = connection::streaming(channel, method, request).await?;
    let answer = answers.message().await?;
    answer.ok_or_else(|| Status::unavailable("etcd ended the stream"))
}
