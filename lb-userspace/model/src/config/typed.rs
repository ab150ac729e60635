//! The file as it was typed: tables of values with their places. Each value is right by itself;
//! `resolve` checks whether they fit together.

use toml::{Spanned, de::DeTable};

use super::{
    keys::Table,
    model::{
        TypedAlerts, TypedAnnounce, TypedAnnouncePeer, TypedApi, TypedBackend, TypedBound,
        TypedChangeSettings, TypedFleet, TypedGuard, TypedHealth, TypedLimit, TypedMetrics,
        TypedNode, TypedOverride, TypedScaling, TypedSkew, TypedSourceLimit, TypedSources,
        TypedVip, TypedVipAnnounce,
    },
    problem::Problems,
    reader::Reader,
};

pub(super) struct File {
    pub(super) node: Option<TypedNode>,
    pub(super) api: TypedApi,
    pub(super) change: TypedChangeSettings,
    pub(super) metrics: TypedMetrics,
    pub(super) alerts: TypedAlerts,
    pub(super) announce: Option<AnnounceTables>,
    pub(super) fleet: Option<TypedFleet>,
    pub(super) sources: TypedSources,
    pub(super) vips: Vec<VipTables>,
}

pub(super) struct AnnounceTables {
    pub(super) announce: TypedAnnounce,
    pub(super) peers: Vec<TypedAnnouncePeer>,
    /// Whether there is a key `peer`, right or wrong.
    pub(super) has_peers: bool,
}

/// A VIP with the tables below it.
pub(super) struct VipTables {
    pub(super) vip: TypedVip,
    pub(super) health: Option<TypedHealth>,
    pub(super) guard: TypedGuard,
    pub(super) limit: LimitTables,
    pub(super) bound: Option<TypedBound>,
    pub(super) scaling: TypedScaling,
    pub(super) skew: TypedSkew,
    pub(super) announce: TypedVipAnnounce,
    pub(super) overrides: Vec<TypedOverride>,
    pub(super) backends: Vec<TypedBackend>,
    /// Whether there is a key `backend`, right or wrong.
    pub(super) has_backends: bool,
}

/// The limits of a VIP: those of the VIP, and those of its sources.
#[derive(Default)]
pub(super) struct LimitTables {
    pub(super) vip: TypedLimit,
    pub(super) source: TypedSourceLimit,
}

pub(super) fn read(document: &Spanned<DeTable<'_>>, problems: &Problems) -> File {
    let mut root = Reader::new(document.get_ref(), problems);
    if !root.has("node") {
        root.missing("node", "a table `[node]` with `interfaces` and `hash_seed`");
    }
    let file = File {
        node: root.table("node", TypedNode::PATH).map(read_node),
        api: root.read("api").unwrap_or_default(),
        change: root.read("change").unwrap_or_default(),
        metrics: root.read("metrics").unwrap_or_default(),
        alerts: root.read("alerts").unwrap_or_default(),
        announce: root
            .table("announce", TypedAnnounce::PATH)
            .map(read_announce),
        fleet: root.read("fleet"),
        sources: root.read("sources").unwrap_or_default(),
        vips: root
            .tables("vip", TypedVip::PATH)
            .into_iter()
            .map(read_vip)
            .collect(),
    };
    root.finish();
    file
}

fn read_node(node: Reader<'_, '_>) -> TypedNode {
    if !node.has("hash_seed") && !node.has("hash_seed_file") {
        let help = "the secret of the node group: 32 hex digits (`openssl rand -hex 16`), the same \
                    on all nodes; or `hash_seed_file`, a file with them";
        node.missing("hash_seed", help);
    }
    node.read_table()
}

fn read_announce(mut announce: Reader<'_, '_>) -> AnnounceTables {
    let tables = AnnounceTables {
        announce: TypedAnnounce::read(&mut announce),
        has_peers: announce.has("peer"),
        peers: announce
            .tables("peer", TypedAnnouncePeer::PATH)
            .into_iter()
            .map(Reader::read_table)
            .collect(),
    };
    announce.finish();
    tables
}

fn read_vip(mut vip: Reader<'_, '_>) -> VipTables {
    let tables = VipTables {
        vip: TypedVip::read(&mut vip),
        health: vip.read("health"),
        guard: vip.read("guard").unwrap_or_default(),
        limit: vip
            .table("limit", TypedLimit::PATH)
            .map(read_limit)
            .unwrap_or_default(),
        bound: vip.read("bound"),
        scaling: vip.read("scaling").unwrap_or_default(),
        skew: vip.read("skew").unwrap_or_default(),
        announce: vip.read("announce").unwrap_or_default(),
        overrides: vip
            .tables("override", TypedOverride::PATH)
            .into_iter()
            .map(Reader::read_table)
            .collect(),
        has_backends: vip.has("backend"),
        backends: vip
            .tables("backend", TypedBackend::PATH)
            .into_iter()
            .map(Reader::read_table)
            .collect(),
    };
    vip.finish();
    tables
}

fn read_limit(mut limit: Reader<'_, '_>) -> LimitTables {
    let tables = LimitTables {
        vip: TypedLimit::read(&mut limit),
        source: limit.read("source").unwrap_or_default(),
    };
    limit.finish();
    tables
}
