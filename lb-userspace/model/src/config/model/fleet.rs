//! `[fleet]`: the group of nodes that share one desired configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::config::kind;

const SECOND: Duration = Duration::from_secs(1);

table! {
    /// The fleet that this node belongs to.
    Fleet as TypedFleet, "fleet";
    keys {
        /// The name of the fleet, the same on all its nodes. Fleets of different names share an etcd
        /// cluster without seeing each other.
        name: String, [default "main".to_owned()], kind::name(), Restart;
        /// The name of this node; unique in the fleet.
        node: String, [required "a name of this node that no other node has: `node = \"lb-1\"`"],
            kind::name(), Restart;
        /// What this node shares with others and fails with them, such as a rack. A rollout never
        /// changes nodes of two racks in one wave.
        rack: String, [optional "nodes without one count as one rack"], kind::name(), Restart;
        /// Where the other nodes can reach this node to ask for the past of connections: an address of the
        /// node and a port. `cert_file` is used there, too: it needs `node` as a DNS name, and both usages,
        /// client and server.
        exchange: SocketAddr, [optional "connections may break when a router sends them to another node"],
            kind::socket_address(), Restart;
        /// The members of the etcd cluster, each by its client URL.
        endpoints: String,
            [list required "the client URLs of etcd: `endpoints = [\"https://10.0.0.1:2379\"]`"],
            kind::endpoint(), Restart;
        /// Certificates (PEM) of the authorities that sign the certificates of etcd.
        ca_file: PathBuf, [required "the authority of etcd's certificates: `ca_file = \"/etc/evenkeel/etcd-ca.pem\"`"],
            kind::absolute_path(), Restart;
        /// The client certificate of this node (PEM). Read again at each connection.
        cert_file: PathBuf, [required "the client certificate of this node: `cert_file = \"/etc/evenkeel/etcd.pem\"`"],
            kind::absolute_path(), Restart;
        /// The private key of `cert_file` (PEM). Read again at each connection.
        key_file: PathBuf, [required "the private key of this node: `key_file = \"/etc/evenkeel/etcd-key.pem\"`"],
            kind::absolute_path(), Restart;
        /// How long a change of a rollout stays on this node without the fleet: if etcd or the other
        /// nodes are away for longer, the node rolls back what the fleet has not confirmed. A node uses
        /// the smaller of its own value and that of the node where the rollout was begun.
        confirm: Duration, [default 60 * SECOND],
            kind::whole_seconds(10 * SECOND..=Duration::from_secs(3600)), Restart;
    }
}
