//! All metrics: name, labels and help. The pages in `docs/` and the files in `deploy/` are checked
//! against this list.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A metric with all its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// Meaning and expected value.
    pub help: &'static str,
}

macro_rules! families {
    ($($variant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal)*) => {
        $(
            #[doc = $help]
            pub(super) const $variant: &Family = &Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All metrics, in the order of the page.
        pub const FAMILIES: &[&Family] = &[$($variant),*];
    };
}

families! {
    BUILD_INFO Gauge "evenkeel_build_info" ["version"] "Version of the controller. Always 1."
    START_TIME Gauge "evenkeel_start_time_seconds" [] "When the controller started, seconds since 1970."
    STATUS_TIME Gauge "evenkeel_status_timestamp_seconds" [] "Time of the newest published state, seconds since 1970. Expected: less than 3 s ago."
    ADOPTED Gauge "evenkeel_data_path_adopted" [] "1 if the controller adopted a running data path when it started, 0 if it loaded a new one. Expected: 1 after a restart or an upgrade."
    PROGRAM_ID Gauge "evenkeel_program_id" [] "Kernel id of the XDP program. Changes when the program is replaced (upgrade, packet capture)."
    INTERFACE_INFO Gauge "evenkeel_interface_info" ["interface" "mode"] "How XDP runs on an interface: native, generic or none. Always 1. Expected: native."
    INTERFACE_OK Gauge "evenkeel_interface_as_loaded" ["interface"] "1 if the XDP program of this controller runs on the interface. Expected: 1; 0 if it was detached or replaced."
    PACKETS Counter "evenkeel_packets_total" ["fate" "reason"] "Packets by fate and reason. Expected: nearly all FORWARDED or NO_VIP; docs/operations.md explains each reason."
    REVISION Gauge "evenkeel_revision" [] "Number of the running revision. Incremented by each change."
    REVISION_TIME Gauge "evenkeel_revision_timestamp_seconds" [] "When the running revision was accepted, seconds since 1970."
    REVISION_PENDING Gauge "evenkeel_revision_pending" [] "1 while the running revision is being applied, bakes or waits to be confirmed. Expected: 0."
    CONFIG_FILE Gauge "evenkeel_config_file" ["state"] "1 for the state of the configuration file: active (means the same as the running revision), overridden (applied, and changed by commands or a rollback since), edited (not applied yet) or invalid. Expected: active."
    CHANGES Counter "evenkeel_changes_total" ["result"] "Changes by result: applied, unchanged, refused, invalid, rolled_back, failed. Expected: invalid, failed and rolled_back stay constant."
    RING_BUILDS Counter "evenkeel_ring_builds_total" [] "Rings built. Expected: one for each VIP that a change or a health change touches."
    RING_BUILD_SECONDS Counter "evenkeel_ring_build_seconds_total" [] "Time spent building rings. Expected: a few milliseconds each."
    HEALTH_SWAPS Counter "evenkeel_health_swaps_total" [] "Health changes of backends that were applied to the rings."
    HEALTH_SWAP_SECONDS Counter "evenkeel_health_swap_seconds_total" [] "Sum of the times from the end of the deciding check to the swapped ring. Expected: less than 20 ms each."
    HEALTH_SWAP_SLOWEST Gauge "evenkeel_health_swap_slowest_seconds" [] "The longest of these times since the start. Expected: less than 0.02; more on an overloaded machine."
    MAP_ENTRIES Gauge "evenkeel_map_entries" ["map"] "Used entries of a BPF map. Expected: well below evenkeel_map_max_entries."
    MAP_MAX_ENTRIES Gauge "evenkeel_map_max_entries" ["map"] "Maximum number of entries of a BPF map."
    MAP_BYTES Gauge "evenkeel_map_memory_bytes" ["map"] "Memory of a BPF map. Expected: constant while the program is loaded."
    FLEET_INFO Gauge "evenkeel_fleet_info" ["fleet" "node"] "Name of the fleet, and of this node in it. Always 1; missing outside of a fleet, like all metrics of the fleet."
    FLEET_CONNECTED Gauge "evenkeel_fleet_connected" [] "1 if etcd answers. Expected: 1."
    FLEET_CONTACT Gauge "evenkeel_fleet_contact_age_seconds" [] "Seconds since etcd last answered. Missing if it never did. Expected: below 10."
    FLEET_LEADER Gauge "evenkeel_fleet_leader" [] "1 if this node drives rollouts. Expected: 1 on one node of the fleet."
    FLEET_HEAD Gauge "evenkeel_fleet_head_revision" [] "The confirmed fleet revision, as last read from etcd. Expected: the same on all nodes."
    FLEET_CONFIRMED Gauge "evenkeel_fleet_confirmed_revision" [] "The fleet revision that this node confirmed last. Expected: evenkeel_fleet_head_revision."
    FLEET_STATE Gauge "evenkeel_fleet_state" ["state"] "1 for the state of this node: not_joined, in_sync, on_trial, behind, differs, refused. Expected: in_sync."
    FLEET_NODES Gauge "evenkeel_fleet_nodes" ["state"] "Joined nodes by state, as this node sees them: in_sync, on_trial, behind, differs, refused, away. Expected: all in_sync."
    FLEET_PEER Gauge "evenkeel_fleet_peer_connected" ["node"] "1 if another node tells this one the past of connections. Missing without fleet.exchange. Expected: 1 for all nodes."
    FLEET_DOWN Gauge "evenkeel_fleet_backends_down" [] "Backends that more than half of the nodes see down. Missing without fleet.exchange. Expected: 0."
    FLEET_DISAGREE Gauge "evenkeel_fleet_backends_disputed" [] "Backends that nodes have seen differently for more than some seconds. Missing without fleet.exchange. Expected: 0."
    FLEET_SUSPECT Gauge "evenkeel_fleet_node_suspect" ["node"] "1 for a node that alone sees more than a quarter of its backends down. Expected: no series."
    FLEET_FLOWS Counter "evenkeel_fleet_flows_total" ["event"] "Flows exchanged with other nodes: told (to them), taken (from them), without_room (the tracking table was full). Expected: without_room stays 0."
    FLEET_ROLLOUT Gauge "evenkeel_fleet_rollout" ["state"] "1 for the state of the newest rollout: written, preflight, wave, awaiting_confirm, confirmed, failed, undone. Expected: confirmed."
    ALERTS Gauge "evenkeel_alerts_firing" ["kind" "severity"] "Firing alerts. Expected: none."
    ALERTS_REFUSED Counter "evenkeel_alerts_refused_total" [] "Alerts that were not raised because too many were firing. Expected: 0."
    NOTIFICATIONS Counter "evenkeel_alert_notifications_total" ["receiver" "result"] "Requests to alert receivers by result: sent or failed. Expected: failed stays constant."
    SUPERSEDED Counter "evenkeel_alert_notifications_superseded_total" ["receiver"] "Alert states that were never sent to a receiver because a newer one came first. Expected: 0; grows while a receiver does not respond."
    ANNOUNCER_UP Gauge "evenkeel_announcer_up" [] "1 if `evenkeel announce` answers. Missing without [announce]. Expected: 1; the other metrics of announcing are missing while it is 0."
    ANNOUNCE_DRAIN Gauge "evenkeel_announce_drain" ["state"] "1 for whether the node is drained: no, draining or drained. Expected: no."
    ANNOUNCE_ADDRESS Gauge "evenkeel_announce_address" ["address" "state"] "1 for what is announced of an address: announced, worse (than other nodes) or withheld. Expected: announced, except on a drained node."
    ANNOUNCE_ADDRESS_AGE Gauge "evenkeel_announce_address_state_age_seconds" ["address"] "Time since the last change of that state."
    ANNOUNCE_UNMET Gauge "evenkeel_announce_unmet_addresses" ["condition"] "Addresses by conditions that are not met; forwards: a proof fails. Expected: 0."
    ANNOUNCE_SESSION Gauge "evenkeel_announce_session_up" ["peer"] "1 if the BGP session with a peer is established. Expected: 1."
    ANNOUNCE_SESSION_AGE Gauge "evenkeel_announce_session_state_age_seconds" ["peer"] "Time since the last change of the state of the session."
    ANNOUNCE_FLAPS Counter "evenkeel_announce_session_flaps_total" ["peer"] "Sessions that ended other than by the end of `evenkeel announce`, since it started. Expected: constant."
    ANNOUNCE_ROUTES Gauge "evenkeel_announce_session_routes" ["peer"] "Routes that were sent to a peer and not withdrawn. Expected: the number of addresses."
    ANNOUNCE_TABLE Gauge "evenkeel_announce_table_in_sync" [] "1 if the routing table has the announced addresses. Missing without via = kernel. Expected: 1."
    SOURCE_UP Gauge "evenkeel_source_up" ["source" "vip"] "1 if the last question to the source of the VIP's backends was answered, and the answer was adopted. Missing without backends_from, as the others below. Expected: 1."
    SOURCE_MEMBERS Gauge "evenkeel_source_members" ["source" "vip"] "Backends that the source named last, without those that are leaving. Expected: what is registered there."
    SOURCE_AGE Gauge "evenkeel_source_age_seconds" ["source" "vip"] "Seconds since the last answer of the source, or since its backends were set. Missing before the first. Expected: below sources.interval_max, except of api: sources."
    SOURCE_FAILED Counter "evenkeel_source_failed_total" ["source" "vip"] "Questions to the source without an answer, since the controller started. Expected: constant."
    SOURCE_REFUSED Counter "evenkeel_source_refused_total" ["source" "vip"] "Answers of the source that were refused because of a backend that can't be one, since the controller started. Expected: constant."
    CPU_SECONDS Counter "process_cpu_seconds_total" [] "CPU time of the controller. Expected: a few hundredths of a second per second, independent of the packet rate."
    MEMORY Gauge "process_resident_memory_bytes" [] "Memory of the controller. Expected: does not keep growing."
    OPEN_FDS Gauge "process_open_fds" [] "Open files of the controller. Expected: does not keep growing."

    VIP_INFO Gauge "evenkeel_vip_info" ["address" "forward" "port" "protocol" "vip"] "Address, port, protocol and forwarding mode of a VIP. Always 1."
    VIP_PACKETS Counter "evenkeel_vip_packets_total" ["vip"] "Packets sent to members of the VIP."
    VIP_BYTES Counter "evenkeel_vip_bytes_total" ["vip"] "Bytes of these packets: whole frames as received."
    VIP_NEW_FLOWS Counter "evenkeel_vip_new_flows_total" ["vip"] "New flows: TCP packets with SYN and without ACK, first packets of tracked UDP flows."
    VIP_RATE Gauge "evenkeel_vip_new_flows_per_second" ["vip"] "New flows per second over the last ten seconds."
    VIP_PEAK Gauge "evenkeel_vip_peak_new_flows_per_second" ["vip"] "Peak rate of new flows per second, over ten seconds each, in the last hour."
    VIP_CAPACITY Gauge "evenkeel_vip_eligible_capacity_new_flows_per_second" ["vip"] "Total capacity of the eligible backends. Missing when the capacity of one is not configured."
    VIP_UTILISATION Gauge "evenkeel_vip_utilisation_ratio" ["vip"] "New flows per second over the eligible capacity. Expected: about evenkeel_vip_target_utilisation_ratio; at 1 the capacity is exhausted."
    VIP_TARGET Gauge "evenkeel_vip_target_utilisation_ratio" ["vip"] "Target utilisation: vip.scaling.target_utilisation."
    VIP_HEADROOM Gauge "evenkeel_vip_headroom_new_flows_per_second" ["vip"] "New flows per second that could be added if the largest eligible backend failed. Expected: above 0; below, the others could not take its load."
    VIP_WANTED Gauge "evenkeel_vip_wanted_backends" ["vip"] "Backends of the current mean capacity that would bring the utilisation to its target. Expected: evenkeel_vip_eligible_backends or less. For autoscalers."
    VIP_ELIGIBLE Gauge "evenkeel_vip_eligible_backends" ["vip"] "Backends that can get new flows. Expected: all that are configured."
    VIP_BACKENDS Gauge "evenkeel_vip_backends" ["state" "vip"] "Backends by state: up, down, draining, disabled, leaving. Expected: all up."
    VIP_PANIC Gauge "evenkeel_vip_panic" ["vip"] "1 in panic mode: too few backends are healthy and traffic is spread over all of them. Expected: 0."
    VIP_SLOTS Gauge "evenkeel_vip_ring_slots" ["vip"] "Slots of the VIP's ring."
    VIP_TRANSITION Gauge "evenkeel_vip_ring_slots_in_transition" ["vip"] "Slots whose backend changed less than node.transition_ttl ago. Expected: 0, except after a change."
    VIP_SETTLING Gauge "evenkeel_vip_ring_slots_settling" ["vip"] "Slots whose transition has ended, but that still have tracked flows. Expected: 0, except after a change."
    VIP_TRACKED Gauge "evenkeel_vip_tracked_flows" ["vip"] "Flows of the VIP in the tracking table. Expected: 0 for TCP without recent changes; all flows for UDP and nat."
    VIP_HITS Counter "evenkeel_vip_tracking_hits_total" ["vip"] "Lookups in the tracking table that found the flow. Expected: constant for TCP without recent changes."
    VIP_MISSES Counter "evenkeel_vip_tracking_misses_total" ["vip"] "Lookups in the tracking table that did not find the flow. Expected: constant for TCP without recent changes."
    VIP_INSERTS Counter "evenkeel_vip_tracking_inserts_total" ["vip"] "Entries added to the tracking table. Expected: constant for TCP without recent changes."
    VIP_FULL Counter "evenkeel_vip_tracking_full_total" ["vip"] "Packets of flows that found no room in the tracking table, or lost their entry too early. Expected: 0; otherwise raise node.track_flows."
    VIP_NO_MEMBER Counter "evenkeel_vip_no_member_packets_total" ["vip"] "Packets dropped because no backend was eligible. Expected: 0."
    VIP_NAT_SESSIONS Counter "evenkeel_vip_nat_sessions_total" ["vip"] "Created nat sessions."
    VIP_NAT_REUSED Counter "evenkeel_vip_nat_reused_ports_total" ["vip"] "nat sessions that took the port of a connection that was over, because all ports that were tried had sessions. The backend accepts it in TIME-WAIT."
    VIP_NAT_NO_PORT Counter "evenkeel_vip_nat_no_port_flows_total" ["vip"] "New flows dropped because no nat port was free that their client may use. Expected: 0; otherwise extend node.nat_ports or add backends, or raise node.nat_source_share if few of the ports are in use."

    VIP_LIMITED Counter "evenkeel_vip_limited_packets_total" ["limit" "vip"] "Packets over a limit, dropped or only counted: source_new_flows, source_packets, new_flows, packets. Missing without limits. Expected: 0, except in an attack or a spike."
    VIP_DENIED Counter "evenkeel_vip_denied_packets_total" ["vip"] "Packets dropped because their source is denied. Missing without limits."
    VIP_EXEMPTED Counter "evenkeel_vip_limit_exempted_packets_total" ["vip"] "Packets of exempt sources that would have been over a limit. Missing without limits."
    VIP_FIRST_SYNS Counter "evenkeel_vip_first_syns_dropped_total" ["vip"] "First SYNs over a limit that were dropped, with on_excess = second_syn. Missing without limits."
    VIP_SECOND_SYNS Counter "evenkeel_vip_second_syns_total" ["vip"] "Repeated SYNs over a limit that passed, with on_excess = second_syn. Missing without limits. Expected in an attack: as many as clients really connect."
    VIP_EVICTED Counter "evenkeel_vip_limit_sources_evicted_total" ["vip"] "Busy sources that were forgotten because too many were busy at once; they began again with a full burst. Missing without limits. Expected: 0."
    VIP_BOUND_FACTOR Gauge "evenkeel_vip_bound_factor" ["vip"] "The multiple of its share of new flows that no backend exceeds: vip.bound.factor. Missing when not configured."
    VIP_UNPLACED Counter "evenkeel_vip_bound_unplaced_flows_total" ["reason" "vip"] "New flows that stayed with a full backend: all_full (so were all candidates) or no_room (in the tracking table). Missing without a bound. Expected: 0; otherwise add backends, or raise node.track_flows."
    BACKEND_SPILLED Counter "evenkeel_member_spilled_flows_total" ["backend" "vip"] "New flows that the ring assigned to the backend and that went to another one because it was full. Missing without a bound. Expected: constant while the clients are even."
    BACKEND_RECEIVED Counter "evenkeel_member_received_flows_total" ["backend" "vip"] "New flows that came to the backend because another one was full. Missing without a bound. Expected: constant while the clients are even."

    MEMBER_PACKETS Counter "evenkeel_member_packets_total" ["backend" "vip"] "Packets sent to the backend. Expected: roughly in proportion to its share of new flows."
    MEMBER_BYTES Counter "evenkeel_member_bytes_total" ["backend" "vip"] "Bytes of these packets: whole frames as received."
    MEMBER_NEW_FLOWS Counter "evenkeel_member_new_flows_total" ["backend" "vip"] "New flows. Expected: in proportion to evenkeel_member_table_share_ratio."
    MEMBER_RESETS Counter "evenkeel_member_resets_total" ["backend" "vip"] "Packets of clients with RST. Expected: few."
    MEMBER_KEPT Counter "evenkeel_member_kept_packets_total" ["backend" "vip"] "Packets of tracked flows that stay on this backend although the ring names another one now. Expected: constant, except after a change, or if a bound spills flows."
    MEMBER_ICMP Counter "evenkeel_member_icmp_errors_total" ["backend" "vip"] "ICMP errors about the backend's flows. Expected: few."
    MEMBER_REPLY_PACKETS Counter "evenkeel_member_reply_packets_total" ["backend" "vip"] "Reply packets (forward = nat)."
    MEMBER_REPLY_BYTES Counter "evenkeel_member_reply_bytes_total" ["backend" "vip"] "Bytes of these packets."
    MEMBER_STATE Gauge "evenkeel_member_state" ["backend" "vip"] "State of the backend: 0 down, 1 up, 2 draining, 3 disabled, 4 leaving. Expected: 1."
    MEMBER_ELIGIBLE Gauge "evenkeel_member_eligible" ["backend" "vip"] "1 if the backend can get new flows. Expected: 1."
    MEMBER_WEIGHT Gauge "evenkeel_member_weight" ["backend" "vip"] "Configured weight."
    MEMBER_EFFECTIVE Gauge "evenkeel_member_effective_weight" ["backend" "vip"] "Effective weight: less than the configured one during slow start."
    MEMBER_INTENDED Gauge "evenkeel_member_intended_share_ratio" ["backend" "vip"] "Intended share: weight over the sum of the eligible weights."
    MEMBER_TABLE Gauge "evenkeel_member_table_share_ratio" ["backend" "vip"] "Share of the slots of the kernel's ring. Expected: the intended share, to one slot."
    MEMBER_OBSERVED Gauge "evenkeel_member_observed_share_ratio" ["backend" "vip"] "Share of the VIP's new flows in the last minute. Missing when there were none. Expected: near the table share."
    MEMBER_CAPACITY Gauge "evenkeel_member_capacity_new_flows_per_second" ["backend" "vip"] "Capacity in new flows per second. Missing when not configured."
    MEMBER_RATE Gauge "evenkeel_member_new_flows_per_second" ["backend" "vip"] "New flows per second over the last ten seconds."
    MEMBER_TRACKED Gauge "evenkeel_member_tracked_flows" ["backend" "vip"] "Flows of the backend in the tracking table. Expected: 0 for TCP without recent changes."
    MEMBER_PORTS_IN_USE Gauge "evenkeel_member_nat_ports_in_use" ["backend" "vip"] "Ports with an established nat session to the backend whose connection is not over, including those of other VIPs that share the ports. Missing without nat. Expected: below 0.8 of evenkeel_member_nat_ports."
    MEMBER_PORTS Gauge "evenkeel_member_nat_ports" ["backend" "vip"] "Ports for nat sessions with the backend: node.nat_ports of one source address. Missing without nat."
    MEMBER_HEALTHY Gauge "evenkeel_member_healthy" ["backend" "vip"] "1 if the health checks succeed. Missing without health checks. Expected: 1."
    MEMBER_LATENCY Gauge "evenkeel_member_check_duration_seconds" ["backend" "vip"] "Duration of the newest check. Missing before the first. Expected: well below vip.health.timeout."
    MEMBER_DAMPED Gauge "evenkeel_member_damped" ["backend" "vip"] "1 while the backend is held down because of flapping. Expected: 0."
    MEMBER_ROUTE Gauge "evenkeel_member_next_hop_known" ["backend" "vip"] "1 if the next hop of the backend is known. Expected: 1."
}
