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
mod sources;
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
pub(super) use sources::TypedSources;
pub use sources::{MAX_DNS_SERVERS, Sources};
pub use values::{BoundFactor, CaFile, Factor, Fraction, HashSeed, Prefix, Secret, StatusSet};
pub use vip::{Backend, Guard, Override, Scaling, Vip};
pub(super) use vip::{TypedBackend, TypedGuard, TypedOverride, TypedScaling, TypedVip};
pub use words::{
    Affinity, AnnounceVia, BackendState, Forward, OnExcess, Protocol, Track, Via, XdpMode,
};
pub(super) use words::{Kind, Word};

/// The configuration of a node. Backends of VIPs with `backends_from` are not in its text: they are added
/// by [`crate::membership::admit`].
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
    pub sources: Sources,
    /// In the order of the file.
    pub vips: Vec<Vip>,
}

impl Config {
    /// Whether both have the same text in other words: what sources name does not count.
    #[must_use]
    pub fn is_written_as(&self, other: &Self) -> bool {
        let Self {
            node,
            api,
            change,
            metrics,
            alerts,
            announce,
            fleet,
            sources,
            vips,
        } = self;
        (node, api, change, metrics) == (&other.node, &other.api, &other.change, &other.metrics)
            && (alerts, announce, fleet) == (&other.alerts, &other.announce, &other.fleet)
            && *sources == other.sources
            && same_vips(vips, &other.vips)
    }
}

/// Whether VIPs are written in the same way, whatever their sources name.
#[must_use]
pub fn same_vips(vips: &[Vip], others: &[Vip]) -> bool {
    let is_same = |(vip, other): (&Vip, &Vip)| {
        vip == other
            || vip.backends_from.is_some()
                && Vip {
                    backends: other.backends.clone(),
                    ..vip.clone()
                } == *other
    };
    vips.len() == others.len() && vips.iter().zip(others).all(is_same)
}
