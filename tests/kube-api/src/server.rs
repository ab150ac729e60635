//! The HTTP side.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{PoisonError, atomic::Ordering},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde_json::{Value, json};

use crate::{
    Server,
    objects::{Place, Refusal},
    rules::Asked,
};

type Parameters = HashMap<String, String>;

pub(crate) fn router(server: Server) -> Router {
    Router::new().fallback(answer).with_state(server)
}

/// What a path is of.
struct Target {
    group: String,
    place: Place,
    is_status: bool,
}

/// `/api/v1/…` or `/apis/GROUP/VERSION/…`, then `[namespaces/NAMESPACE/]RESOURCE[/NAME[/status]]`.
fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_matches('/').split('/').peekable();
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    let mut namespace = "";
    if parts.peek() == Some(&"namespaces") {
        namespace = parts.nth(1)?;
    }
    Some(Target {
        group: group.to_owned(),
        place: Place::new(parts.next()?, namespace, parts.next().unwrap_or_default()),
        is_status: parts.next() == Some("status"),
    })
}

impl Target {
    fn verb(&self, method: &Method, parameters: &Parameters) -> &'static str {
        match *method {
            Method::GET if !self.place.name.is_empty() => "get",
            Method::GET if parameters.contains_key("watch") => "watch",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "delete",
        }
    }

    /// Whether a role allows it.
    fn is_allowed(&self, server: &Server, verb: &str) -> bool {
        let mut resource = self.place.resource.clone();
        if self.is_status {
            resource += "/status";
        }
        let asked = Asked {
            verb,
            group: &self.group,
            resource: &resource,
            namespace: &self.place.namespace,
        };
        let is_allowed = server.rules.allow(&asked);
        if !is_allowed {
            let mut denied = server.denied.lock().unwrap_or_else(PoisonError::into_inner);
            denied.push(format!("{asked:?}"));
        }
        is_allowed
    }
}

async fn answer(
    State(server): State<Server>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    let faults = &server.faults;
    let every = faults.fail_every.load(Ordering::Relaxed);
    if faults.is_down.load(Ordering::Relaxed) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
    }
    if every > 0 && faults.count().is_multiple_of(every) {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    let (parts, body) = request.into_parts();
    let Some(target) = target(parts.uri.path()) else {
        return failure(StatusCode::NOT_FOUND, "NotFound");
    };
    if !target.is_allowed(&server, target.verb(&parts.method, &parameters)) {
        return failure(StatusCode::FORBIDDEN, "Forbidden");
    }
    let Target {
        place, is_status, ..
    } = target;
    if parts.method == Method::GET {
        return read(server, &place, &parameters);
    }
    let body = axum::body::to_bytes(body, 4 << 20)
        .await
        .unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    write(&server, &parts.method, place, is_status, body)
}

fn read(server: Server, place: &Place, parameters: &Parameters) -> Response {
    let Place {
        resource,
        namespace,
        name,
    } = place;
    if !name.is_empty() {
        return match server.objects.get(place) {
            Some(object) => Json(object).into_response(),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        };
    }
    if parameters.contains_key("watch") {
        let version = parameters.get("resourceVersion");
        let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
        return watch(server, resource.clone(), version);
    }
    let (items, version) = server.objects.list_at(resource, namespace);
    let list = json!({
        "kind": "List", "apiVersion": "v1",
        "metadata": { "resourceVersion": version.to_string() },
        "items": items,
    });
    Json(list).into_response()
}

fn watch(server: Server, resource: String, version: u64) -> Response {
    let forgets = |server: &Server| {
        let faults = &server.faults;
        faults.forgets.load(Ordering::Relaxed) || faults.is_down.load(Ordering::Relaxed)
    };
    if forgets(&server) {
        return failure(StatusCode::GONE, "Expired");
    }
    let wakes = server.objects.wakes();
    let lines = stream::unfold(
        (server, wakes, version),
        move |(server, mut wakes, version)| {
            let resource = resource.clone();
            async move {
                loop {
                    wakes.borrow_and_update();
                    if forgets(&server) {
                        return None;
                    }
                    let changes = server.objects.since(&resource, version);
                    if let Some(last) = changes.last() {
                        let last = last.version;
                        let text: String = (changes.iter())
                            .map(|it| {
                                format!("{}\n", json!({ "type": it.kind, "object": it.object }))
                            })
                            .collect();
                        let line = Ok::<_, Infallible>(Bytes::from(text));
                        return Some((line, (server, wakes, last)));
                    }
                    wakes.changed().await.ok()?;
                }
            }
        },
    );
    Response::new(Body::from_stream(lines))
}

fn write(
    server: &Server,
    method: &Method,
    mut place: Place,
    is_status: bool,
    body: Value,
) -> Response {
    let objects = &server.objects;
    if place.name.is_empty() {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        name.clone_into(&mut place.name);
    }
    let version = body["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    let version = version.as_deref();
    let done = match *method {
        Method::POST => objects.create(&place, body),
        Method::PUT => objects.change(&place, version, |object| {
            let uid = object["metadata"]["uid"].clone();
            object.clone_from(&body);
            object["metadata"]["uid"] = uid;
        }),
        // As the real one: a status is only changed by its own path, the rest only by the other.
        Method::PATCH => objects.change(&place, version, |object| {
            let status = object["status"].clone();
            let whole = object.clone();
            merge(object, &body);
            if is_status {
                let patched = object["status"].clone();
                *object = whole;
                object["status"] = patched;
            } else {
                object["status"] = status;
            }
        }),
        Method::DELETE => {
            objects.delete(&place);
            Ok(json!({ "kind": "Status", "status": "Success" }))
        }
        _ => return failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    };
    match done {
        Ok(object) => Json(object).into_response(),
        Err(Refusal::NotFound) => failure(StatusCode::NOT_FOUND, "NotFound"),
        Err(Refusal::Exists) => failure(StatusCode::CONFLICT, "AlreadyExists"),
        Err(Refusal::Conflict) => failure(StatusCode::CONFLICT, "Conflict"),
    }
}

/// A JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(object) = target.as_object_mut() {
                object.remove(key);
            }
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn failure(code: StatusCode, reason: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16(),
    });
    (code, Json(status)).into_response()
}
