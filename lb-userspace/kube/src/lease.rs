//! Which instance leads: the one that holds a Lease of the API server, as in client-go's `leaderelection`.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};

use crate::in_time;

/// Name of the Lease.
const NAME: &str = "evenkeel-kube";
/// How long a Lease is held without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on that can't renew its Lease.
const DEADLINE: Duration = Duration::from_secs(10);

/// This instance's part in the election.
pub struct Election {
    api: Api<Lease>,
    identity: String,
    /// When this instance renewed it last.
    renewed: Option<Instant>,
    /// The Lease as it was last seen, and since when it is like that. Clocks of hosts are not compared.
    seen: Option<(Option<String>, Option<MicroTime>, Instant)>,
}

impl Election {
    /// Takes part as `identity`.
    #[must_use]
    pub fn new(client: &Client, namespace: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            identity,
            renewed: None,
            seen: None,
        }
    }

    /// Whether this instance leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.renewed
            .is_some_and(|renewed| renewed.elapsed() < DEADLINE)
    }

    /// Takes the Lease if nobody holds it, or renews it. To be called every few seconds.
    ///
    /// # Errors
    ///
    /// Those of the API server; a leader stays one for a while.
    pub async fn run(&mut self) -> Result<(), kube::Error> {
        in_time(self.take()).await
    }

    async fn take(&mut self) -> Result<(), kube::Error> {
        let begun = Instant::now();
        let taken = match self.api.get_opt(NAME).await? {
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        ..Default::default()
                    },
                    spec: Some(self.spec(None)),
                };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(lease) if self.may_take(&lease) => {
                let spec = self.spec(lease.spec.as_ref());
                let lease = Lease {
                    spec: Some(spec),
                    ..lease
                };
                // With the version that was read: somebody else's is not overwritten.
                self.api.replace(NAME, &PostParams::default(), &lease).await
            }
            Some(_) => {
                self.renewed = None;
                return Ok(());
            }
        };
        match taken {
            Ok(_) => self.renewed = Some(begun),
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => self.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives the Lease back, so that another instance leads at once.
    ///
    /// # Errors
    ///
    /// Those of the API server: the others wait until the Lease is over.
    pub async fn release(&self) -> Result<(), kube::Error> {
        in_time(self.give_back()).await
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec
            .holder_identity
            .take_if(|it| *it == self.identity)
            .is_some()
        {
            self.api
                .replace(NAME, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }

    fn may_take(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        let now = Instant::now();
        let is_same = self
            .seen
            .as_ref()
            .is_some_and(|(seen, renewed, _)| (seen, renewed) == (&holder, &spec.renew_time));
        if !is_same {
            self.seen = Some((holder.clone(), spec.renew_time, now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, _, since)| *since);
        let is_over = now - since >= DURATION;
        holder.is_none_or(|holder| holder == self.identity) || is_over
    }

    fn spec(&self, previous: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = previous.cloned().unwrap_or_default();
        let is_ours = before.holder_identity.as_ref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: before
                .acquire_time
                .filter(|_| is_ours)
                .or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
            ..Default::default()
        }
    }
}
