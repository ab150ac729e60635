//! The lab: hosts, links, servers and traffic in network namespaces of one machine, for tests of the
//! balancer with real packets.
//!
//! A [`topology::Lab`] is a set of namespaces joined by a switch: clients, balancer nodes and backends,
//! IPv4 and IPv6. Backends run [`nginx::Nginx`] and [`traffic::echo`] servers; a [`node::Node`]
//! configures a [`balancer::Balancer`]. The loads of [`traffic`] report failures and which backend
//! replied, and [`stats`] finds corrupted packets.
//!
//! Three rules hold everywhere:
//!
//! - **Nothing is left behind.** Everything that is created has a guard. Processes die with the harness
//!   ([`process`]), and the next harness removes what a killed one left ([`leftovers`]).
//! - **Labs are isolated.** Names carry the identity of the run ([`run`]) and addresses are inside
//!   namespaces, so labs with the same addresses run in parallel.
//! - **No fixed sleeps.** Waiting is polling with a deadline ([`deadline`]), and the error names the
//!   condition.
//!
//! The interfaces of the root namespace are never touched. Everything here needs root.

pub mod alertmanager;
pub mod announcer;
pub mod balancer;
pub mod bench;
pub mod bpffs;
pub mod bytecode;
pub mod configuration;
pub mod deadline;
pub mod demo;
pub mod directory;
pub mod dns;
pub mod etcd;
pub mod fleet;
pub mod host;
pub mod interrupt;
pub mod leftovers;
pub mod link;
pub mod namespace;
pub mod nginx;
pub mod node;
pub mod operator;
pub mod outage;
pub mod packet;
pub mod pass_program;
pub mod process;
pub mod prometheus;
pub mod random;
pub mod router;
pub mod run;
pub mod service;
pub mod skip;
pub mod stats;
pub mod table;
pub mod tool;
pub mod topology;
pub mod traffic;
pub mod xdp_program;
