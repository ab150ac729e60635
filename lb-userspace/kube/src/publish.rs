//! What is written to Services: the status, finalizers and events.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{core::v1::Service, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    in_time,
    service::{DOMAIN, FINALIZER, ServiceKey},
    words,
};

/// Writes to Services. A Service that has changed since it was read is not written; its change comes by the watch.
pub struct Publisher {
    client: Client,
    instance: String,
    said: BTreeMap<ServiceKey, String>,
}

impl Publisher {
    /// Writes as this instance.
    #[must_use]
    pub fn new(client: &Client, instance: String) -> Self {
        Self {
            client: client.clone(),
            instance,
            said: BTreeMap::new(),
        }
    }

    fn api(&self, key: &ServiceKey) -> Api<Service> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Sets the addresses of a Service's status.
    pub async fn addresses(&self, service: &Service, addresses: &[IpAddr]) {
        let ingress = (addresses.iter())
            .map(|address| json!({ "ip": address.to_string(), "ipMode": "VIP" }))
            .collect::<Vec<_>>();
        let status = json!({ "loadBalancer": { "ingress": ingress } });
        self.patch_status(service, &status).await;
    }

    /// Sets a condition, and writes an event if it is news. Returns whether there was something to write.
    pub async fn condition(&mut self, service: &Service, problem: Option<&str>) -> bool {
        let type_ = format!("{DOMAIN}/Programmed");
        let status = service.status.as_ref();
        let known = status.and_then(|status| status.conditions.clone());
        let mut conditions = known.unwrap_or_default();
        let message = problem.unwrap_or("The VIPs are in the configuration");
        let (state, reason) = match problem {
            None => ("True", "Configured"),
            Some(_) => ("False", "NotConfigured"),
        };
        let place = conditions.iter().position(|it| it.type_ == type_);
        let known = place.map(|place| conditions.remove(place));
        if known
            .as_ref()
            .is_some_and(|it| it.status == state && it.message == message)
        {
            return false;
        }
        let since = known.filter(|it| it.status == state);
        conditions.push(Condition {
            type_,
            status: state.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: service.metadata.generation,
            last_transition_time: since.map_or_else(
                || Time(jiff::Timestamp::now()),
                |it| it.last_transition_time,
            ),
        });
        self.patch_status(service, &json!({ "conditions": conditions }))
            .await;
        let key = ServiceKey::of(service);
        if self.said.get(&key).map(String::as_str) != Some(message) {
            self.said.insert(key, message.to_owned());
            self.event(service, problem.is_some(), reason, message)
                .await;
        }
        true
    }

    /// Writes an event. One that can't be written is in the log.
    pub async fn event(&self, service: &Service, is_warning: bool, reason: &str, note: &str) {
        let key = ServiceKey::of(service);
        if is_warning {
            tracing::warn!(service = %key, "{note}");
        } else {
            tracing::info!(service = %key, "{note}");
        }
        let now = jiff::Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                // Unique: names of Services are shorter than those of events may be.
                name: Some(format!("{}.{:x}", key.name, now.as_nanosecond())),
                namespace: Some(key.namespace.clone()),
                ..Default::default()
            },
            type_: Some(if is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(note.chars().take(1000).collect()),
            action: Some("Configure".to_owned()),
            event_time: Some(MicroTime(now)),
            regarding: Some(service.object_ref(&())),
            reporting_controller: Some("evenkeel-kube".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Default::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let how = PostParams::default();
        if let Err(error) = in_time(api.create(&how, &event)).await {
            tracing::warn!(service = %key, "cannot write an event: {}", words(&error));
        }
    }

    /// Adds our finalizer, or removes it. Returns whether that was done.
    pub async fn finalizer(&self, service: &Service, add: bool) -> bool {
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|name| name != FINALIZER);
        if add {
            finalizers.push(FINALIZER.to_owned());
        }
        let key = ServiceKey::of(service);
        let patch = Patch::Merge(json!({
            "metadata": {
                "finalizers": finalizers,
                "resourceVersion": service.resource_version(),
            },
        }));
        let (api, how) = (self.api(&key), PatchParams::default());
        let patched = in_time(api.patch(&key.name, &how, &patch)).await;
        is_done(&key, "finalizer", patched.map(drop))
    }

    async fn patch_status(&self, service: &Service, status: &Value) -> bool {
        let key = ServiceKey::of(service);
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": service.resource_version() },
            "status": status,
        }));
        let (api, how) = (self.api(&key), PatchParams::default());
        let patched = in_time(api.patch_status(&key.name, &how, &patch)).await;
        is_done(&key, "status", patched.map(drop))
    }
}

fn is_done(key: &ServiceKey, what: &str, result: Result<(), kube::Error>) -> bool {
    match result {
        Ok(()) => true,
        // Gone, or changed meanwhile: the watch has the news.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => false,
        Err(error) => {
            tracing::warn!(service = %key, "cannot write the {what}: {}", words(&error));
            false
        }
    }
}
