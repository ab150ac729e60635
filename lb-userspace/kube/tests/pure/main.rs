//! What Services get, without an API server.
#![expect(clippy::unwrap_used, reason = "tests panic: the backtrace says where")]

mod endpoints;
mod pools;
mod restarts;
mod services;
mod tables;

use std::sync::Arc;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use lb_kube::{
    plan::Settings,
    service::{Forward, Wanted, read},
};
use serde_json::{Value, json};

const CLASS: &str = "evenkeel.example/evenkeel";

fn settings(pools: &[&str]) -> Settings {
    Settings {
        class: CLASS.to_owned(),
        cluster: "k8s".to_owned(),
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
        forward: Forward::Nat,
    }
}

/// A Service with a TCP port 80, changed by `change`.
fn service(name: &str, change: impl FnOnce(&mut Value)) -> Arc<Service> {
    let mut object = json!({
        "metadata": { "namespace": "default", "name": name, "annotations": {} },
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": CLASS,
            "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        },
    });
    change(&mut object);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn annotated(name: &str, annotation: &str, value: &str) -> Arc<Service> {
    service(name, |object| {
        object["metadata"]["annotations"][format!("evenkeel.example/{annotation}")] = json!(value);
    })
}

fn wanted(service: &Service) -> Wanted {
    read(service, Forward::Nat).unwrap()
}

fn slice(family: &str, endpoints: &Value) -> Arc<EndpointSlice> {
    let object = json!({
        "metadata": { "name": "s" },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    });
    Arc::new(serde_json::from_value(object).unwrap())
}
