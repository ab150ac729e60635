//! The lab: real hosts, links, servers and traffic on one machine, for everything about a balancer
//! that can only be believed when it was seen.
//!
//! A [`topology::Lab`] is a set of network namespaces joined by a switch: clients, balancer nodes and
//! backends, IPv4 and IPv6. On it stand [`nginx::Nginx`], [`traffic::echo`] servers and the
//! [`balancer::Balancer`], which a [`node::Node`] configures; against it run the loads of [`traffic`], which report what failed and who
//! answered. [`stats`] says whether anything was corrupted on the way.
//!
//! Three rules hold everywhere:
//!
//! - **Nothing is left behind.** Whatever is made has a guard. Processes die with the harness
//!   ([`process`]); what a killed harness leaves is removed by the next one ([`leftovers`]).
//! - **Labs do not meet.** Names carry the identity of the run ([`run`]), addresses live in namespaces,
//!   so that labs run in parallel with the same addresses.
//! - **Nobody sleeps for luck.** Waiting is polling with a deadline ([`deadline`]), and the error says what
//!   was waited for.
//!
//! The root namespace's interfaces are never touched. Everything here needs root.

pub mod alertmanager;
pub mod balancer;
pub mod bench;
pub mod bpffs;
pub mod bytecode;
pub mod configuration;
pub mod deadline;
pub mod demo;
pub mod directory;
pub mod host;
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
pub mod run;
pub mod service;
pub mod skip;
pub mod stats;
pub mod table;
pub mod tool;
pub mod topology;
pub mod traffic;
pub mod xdp_program;
