//! The objects, and what has happened to them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Where an object is: resource (`services`), namespace (empty if it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The resource, as in paths.
    pub resource: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Place {
    /// A place.
    #[must_use]
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        let [resource, namespace, name] = [resource, namespace, name].map(str::to_owned);
        Self {
            resource,
            namespace,
            name,
        }
    }
}

/// Something that has happened to an object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: String,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    version: u64,
    changes: Vec<Change>,
}

/// All objects.
pub struct Objects {
    state: Mutex<State>,
    counter: watch::Sender<u64>,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            counter: watch::channel(0).0,
        }
    }
}

/// Why an object is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    Exists,
    /// The object has another version than the writer thinks.
    Conflict,
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all watches.
    pub(crate) fn wake(&self) {
        self.counter.send_modify(|count| *count += 1);
    }

    pub(crate) fn wakes(&self) -> watch::Receiver<u64> {
        self.counter.subscribe()
    }

    /// Creates or replaces an object, whatever its version. Returns it as it is stored.
    pub fn put(&self, place: &Place, object: Value) -> Value {
        let stored = self.lock().store(place, object);
        self.wake();
        stored
    }

    /// An object.
    #[must_use]
    pub fn get(&self, place: &Place) -> Option<Value> {
        self.lock().objects.get(place).cloned()
    }

    /// All objects of a resource, in this namespace if one is given.
    #[must_use]
    pub fn list(&self, resource: &str, namespace: &str) -> Vec<Value> {
        self.list_at(resource, namespace).0
    }

    /// The same, with the version that they have.
    pub(crate) fn list_at(&self, resource: &str, namespace: &str) -> (Vec<Value>, u64) {
        let state = self.lock();
        let objects = (state.objects.iter())
            .filter(|(place, _)| place.resource == resource)
            .filter(|(place, _)| namespace.is_empty() || place.namespace == namespace)
            .map(|(_, object)| object.clone());
        (objects.collect(), state.version)
    }

    /// What has happened to a resource since this version.
    pub(crate) fn since(&self, resource: &str, version: u64) -> Vec<Change> {
        let state = self.lock();
        let first = state
            .changes
            .partition_point(|change| change.version <= version);
        let changes = state.changes[first..].iter();
        let of_resource = changes.filter(|change| change.resource == resource);
        of_resource.cloned().collect()
    }

    pub(crate) fn create(&self, place: &Place, object: Value) -> Result<Value, Refusal> {
        let mut state = self.lock();
        if state.objects.contains_key(place) {
            return Err(Refusal::Exists);
        }
        let stored = state.store(place, object);
        drop(state);
        self.wake();
        Ok(stored)
    }

    /// Changes an object, unless `version` says that the writer knows another one.
    pub(crate) fn change(
        &self,
        place: &Place,
        version: Option<&str>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        let mut state = self.lock();
        let mut object = state.objects.get(place).cloned().ok_or(Refusal::NotFound)?;
        let known = object["metadata"]["resourceVersion"].as_str();
        if version.is_some() && version != known {
            return Err(Refusal::Conflict);
        }
        change(&mut object);
        let stored = state.store(place, object);
        drop(state);
        self.wake();
        Ok(stored)
    }

    /// Deletes an object; one with finalizers when these are gone.
    pub fn delete(&self, place: &Place) {
        let mut state = self.lock();
        let Some(mut object) = state.objects.get(place).cloned() else {
            return;
        };
        object["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
        state.store(place, object);
        drop(state);
        self.wake();
    }

    /// Loses an object, as a server that was restored from an old backup.
    pub fn lose(&self, place: &Place) {
        let mut state = self.lock();
        state.remove(place);
        drop(state);
        self.wake();
    }
}

impl State {
    fn store(&mut self, place: &Place, mut object: Value) -> Value {
        self.version += 1;
        let version = self.version;
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(place.name);
        if !place.namespace.is_empty() {
            metadata["namespace"] = json!(place.namespace);
        }
        metadata["resourceVersion"] = json!(version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("00000000-0000-0000-0000-{version:012}"));
            metadata["creationTimestamp"] = json!(Timestamp::now().to_string());
        }
        let holds = metadata["finalizers"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
        if !metadata["deletionTimestamp"].is_null() && !holds {
            self.objects.insert(place.clone(), object.clone());
            self.remove(place);
            return object;
        }
        let known = self.objects.insert(place.clone(), object.clone());
        self.changes.push(Change {
            version,
            resource: place.resource.clone(),
            kind: if known.is_some() { "MODIFIED" } else { "ADDED" },
            object: object.clone(),
        });
        object
    }

    fn remove(&mut self, place: &Place) {
        let Some(object) = self.objects.remove(place) else {
            return;
        };
        self.version += 1;
        self.changes.push(Change {
            version: self.version,
            resource: place.resource.clone(),
            kind: "DELETED",
            object,
        });
    }
}
