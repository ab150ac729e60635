//! The objects of the API server that matter here, kept up to date by watches. While the API server is away they
//! stay as they were.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc};

use futures_util::{StreamExt as _, future};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store},
        watcher,
    },
};
use lb_api::NewMember;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{
    members::{SERVICE_NAME, members},
    plan::{Settings, vip_name},
    service::{Family, ServiceKey, is_deleted, is_ours, read},
    text::source_name,
    words,
};

/// The watched objects.
pub struct Cluster {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    nodes: Store<Node>,
    changes: watch::Receiver<u64>,
}

impl Cluster {
    /// Begins to watch.
    #[must_use]
    pub fn watch(client: &Client) -> Self {
        let (counter, changes) = watch::channel(0);
        let by_service = watcher::Config::default().labels(SERVICE_NAME);
        Self {
            services: keep(client, watcher::Config::default(), &counter),
            slices: keep(client, by_service, &counter),
            nodes: keep(client, watcher::Config::default(), &counter),
            changes,
        }
    }

    /// Waits until all objects are known. Only one task may wait: the stores wake no others.
    pub async fn ready(&self) {
        // An error means that the watch has ended, which it does with the process.
        let _: Result<_, _> = self.services.wait_until_ready().await;
        let _: Result<_, _> = self.slices.wait_until_ready().await;
        let _: Result<_, _> = self.nodes.wait_until_ready().await;
    }

    /// A counter that grows when an object changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// All Services.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.services.state()
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        let reference = reflector::ObjectRef::new(&key.name).within(&key.namespace);
        self.services.get(&reference)
    }

    /// The backends of each VIP that our Services could have, as far as they are known, by the name of their source.
    #[must_use]
    pub fn members(&self, settings: &Settings) -> HashMap<String, Vec<NewMember>> {
        let mut slices: HashMap<ServiceKey, Vec<Arc<EndpointSlice>>> = HashMap::new();
        for slice in self.slices.state() {
            let Some(name) = slice.labels().get(SERVICE_NAME).cloned() else {
                continue;
            };
            let namespace = slice.namespace().unwrap_or_default();
            let key = ServiceKey { namespace, name };
            slices.entry(key).or_default().push(slice);
        }
        let nodes = self.nodes.state();
        let mut all = HashMap::new();
        for service in self.services.state() {
            if !is_ours(&service, &settings.class) || is_deleted(&service) {
                continue;
            }
            let key = ServiceKey::of(&service);
            // What is wrong with a Service is said by the leader.
            let (Ok(wanted), Some(slices)) = (read(&service, settings.forward), slices.get(&key))
            else {
                continue;
            };
            let prefix = key.prefix(&settings.cluster);
            for port in &wanted.ports {
                for family in [Family::V4, Family::V6] {
                    if !wanted.families.contains(&family) {
                        continue;
                    }
                    if let Some(members) = members(&wanted, port, family, slices, &nodes) {
                        let vip = vip_name(&prefix, port, family);
                        all.insert(source_name(&vip, wanted.forward), members);
                    }
                }
            }
        }
        all
    }
}

/// Keeps all objects of a kind.
fn keep<K>(client: &Client, config: watcher::Config, counter: &watch::Sender<u64>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash,
{
    let (reader, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
    let counter = counter.clone();
    let mut fails = false;
    tokio::spawn(events.for_each(move |event| {
        match &event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => counter.send_modify(|count| *count += 1),
            // One attempt after the other fails: this is said once.
            Err(error) if !fails => tracing::warn!(
                "cannot watch {}, the last known ones stay: {}",
                K::plural(&()),
                watch_error(error)
            ),
            Err(_) => {}
        }
        if fails && event.is_ok() {
            tracing::info!("watches {} again", K::plural(&()));
        }
        fails = event.is_err();
        future::ready(())
    }));
    reader
}

fn watch_error(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => words(error),
        other => other.to_string(),
    }
}
