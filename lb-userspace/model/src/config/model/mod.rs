//! The tables of the configuration: what each key is called, what it may be and what it means.
//!
//! A key is one row of a `table!` (see `keys`). The types hold resolved values: nothing is optional
//! that has a default.

mod announce;
mod bound;
mod communities;
mod fleet;
mod health;
mod limit;
mod node;
mod services;
mod skew;
mod values;
mod vip;
mod words;

pub use announce::{Announce, AnnouncePeer, VipAnnounce};
pub(super) use announce::{BGP_PORT, TypedAnnounce, TypedAnnouncePeer, TypedVipAnnounce};
pub use bound::Bound;
pub(super) use bound::TypedBound;
pub use communities::{Community, LargeCommunity};
pub use fleet::Fleet;
pub(super) use fleet::TypedFleet;
pub(super) use health::TypedHealth;
pub use health::{Health, HealthKind, HttpCheck};
pub use limit::{Limit, Rate, SourceLimit};
pub(super) use limit::{TypedLimit, TypedSourceLimit};
pub(super) use node::TypedNode;
pub use node::{DEFAULT_EXEC_USER, Node};
pub use services::{Alerts, Api, ChangeSettings, Metrics};
pub(super) use services::{TypedAlerts, TypedApi, TypedChangeSettings, TypedMetrics};
pub use skew::Skew;
pub(super) use skew::TypedSkew;
pub use values::{BoundFactor, CaFile, Factor, Fraction, HashSeed, Prefix, Secret, StatusSet};
pub use vip::{Backend, Guard, Scaling, Vip};
pub(super) use vip::{TypedBackend, TypedGuard, TypedScaling, TypedVip};
pub use words::{
    Affinity, AnnounceVia, BackendState, Forward, OnExcess, Protocol, Track, Via, XdpMode,
};
pub(super) use words::{Kind, Word};

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Config {
    pub node: Node,
    pub api: Api,
    pub change: ChangeSettings,
    pub metrics: Metrics,
    pub alerts: Alerts,
    /// `None`: VIPs are not announced.
    pub announce: Option<Announce>,
    /// `None`: the node belongs to no fleet.
    pub fleet: Option<Fleet>,
    /// In the order of the file.
    pub vips: Vec<Vip>,
}
