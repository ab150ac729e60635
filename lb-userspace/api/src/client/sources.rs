//! Requests about sources of members.

use hyper::{Method, body::Bytes};

use super::{Client, Result, Segment};
use crate::{SetSourceRequest, SourceStatus};

impl Client {
    /// `GET /v1/sources`.
    pub async fn sources(&self) -> Result<Vec<SourceStatus>> {
        self.get("/v1/sources").await
    }

    /// `GET /v1/sources/{name}`: those of this name, of the form `dns:NAME`, or `NAME` for `api:NAME`.
    pub async fn source(&self, name: &str) -> Result<Vec<SourceStatus>> {
        self.get(&format!("/v1/sources/{}", Segment(name))).await
    }

    /// `PUT /v1/sources/{name}`: sets the members of `api:NAME`.
    pub async fn set_source(&self, name: &str, request: &SetSourceRequest) -> Result<SourceStatus> {
        let path = format!("/v1/sources/{}", Segment(name));
        let body = serde_json::to_vec(request).map_err(|error| self.interrupted(&path, error))?;
        self.send(Method::PUT, &path, Bytes::from(body)).await
    }
}
