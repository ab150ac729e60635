//! A small API server of Kubernetes for tests: objects of any kind, lists, watches, merge patches, finalizers and
//! optimistic locking. It validates nothing, sets no defaults, and fails when it is told to.

mod objects;
mod rules;
mod server;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

pub use objects::{Objects, Place};
use rules::Rules;
use serde_json::Value;
use tokio::net::TcpListener;

/// How the server fails.
#[derive(Debug, Default)]
pub struct Faults {
    /// Every so many requests, one is answered with 500; 0: none.
    pub fail_every: AtomicU32,
    /// All requests are answered with 503.
    pub is_down: AtomicBool,
    /// Watches end at once, and are answered with 410 (too old) when they begin.
    pub forgets: AtomicBool,
    requests: AtomicU32,
}

impl Faults {
    /// Counts a request.
    fn count(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A running server.
#[derive(Clone)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    /// Its objects.
    pub objects: Arc<Objects>,
    /// Its faults.
    pub faults: Arc<Faults>,
    rules: Arc<Rules>,
    denied: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts a server on this listener, in a thread of its own that lives as long as the process. It allows what the
    /// roles of `manifest` (YAML) allow.
    ///
    /// # Panics
    ///
    /// If the listener can't be used.
    #[must_use]
    pub fn start(listener: std::net::TcpListener, manifest: &str) -> Self {
        listener
            .set_nonblocking(true)
            .expect("set the listener non-blocking");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            objects: Arc::default(),
            faults: Arc::default(),
            rules: Arc::new(Rules::read(manifest)),
            denied: Arc::default(),
        };
        let running = server.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                axum::serve(listener, server::router(running))
                    .await
                    .expect("serve");
            });
        });
        server
    }

    /// A kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"Config","current-context":"test","clusters":[{{"name":"test","cluster":{{"server":"http://{}"}}}}],"contexts":[{{"name":"test","context":{{"cluster":"test","user":"test"}}}}],"users":[{{"name":"test","user":{{}}}}]}}"#,
            self.address
        )
    }

    /// Answers nothing but errors, or works again.
    pub fn set_down(&self, is_down: bool) {
        self.faults.is_down.store(is_down, Ordering::Relaxed);
        self.objects.wake();
    }

    /// Requests that no role allows.
    #[must_use]
    pub fn denied(&self) -> Vec<String> {
        let denied = self.denied.lock();
        denied.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates or replaces an object; see [`Objects::put`].
    pub fn put(&self, place: &Place, object: Value) {
        self.objects.put(place, object);
    }
}
