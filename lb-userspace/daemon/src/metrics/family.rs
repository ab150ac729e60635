//! All metrics: name, labels, and what is normal. The pages in `docs/` and the files in `deploy/` are checked against
//! this list.

/// What a number does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A metric, for all its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it is, and what is normal.
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
    STATUS_TIME Gauge "evenkeel_status_timestamp_seconds" [] "When the controller last looked at the data path, seconds since 1970. Normal: less than 3 s ago."
    ADOPTED Gauge "evenkeel_data_path_adopted" [] "1 if the controller found a running data path when it started, 0 if it loaded a new one. Normal: 1 after a restart or an upgrade."
    PROGRAM_ID Gauge "evenkeel_program_id" [] "Kernel's number of our XDP program. Changes when the program is replaced (upgrade)."
    INTERFACE_INFO Gauge "evenkeel_interface_info" ["interface" "mode"] "How XDP runs on an interface: native, generic or none. Always 1. Normal: native."
    INTERFACE_OK Gauge "evenkeel_interface_as_loaded" ["interface"] "1 if our program runs on the interface. Normal: 1; at 0 somebody detached or replaced it."
    PACKETS Counter "evenkeel_packets_total" ["fate" "reason"] "Packets by what became of them. Normal: nearly all FORWARDED or NO_VIP; docs/operations.md says it of each reason."
    REVISION Gauge "evenkeel_revision" [] "Number of the running revision. Grows by 1 with each change."
    REVISION_TIME Gauge "evenkeel_revision_timestamp_seconds" [] "When the running revision was accepted, seconds since 1970."
    REVISION_PENDING Gauge "evenkeel_revision_pending" [] "1 while the running revision is being applied, bakes or waits to be confirmed. Normal: 0."
    CHANGES Counter "evenkeel_changes_total" ["result"] "Changes by what became of them: applied, unchanged, refused, rolled_back, failed. Normal: failed and rolled_back stay as they are."
    RING_BUILDS Counter "evenkeel_ring_builds_total" [] "Rings built. Normal: one for each VIP that a change or a health change touches."
    RING_BUILD_SECONDS Counter "evenkeel_ring_build_seconds_total" [] "Time spent to build rings. Normal: some milliseconds each."
    HEALTH_SWAPS Counter "evenkeel_health_swaps_total" [] "Backends that came up or went down, and were put into the rings or taken out."
    HEALTH_SWAP_SECONDS Counter "evenkeel_health_swap_seconds_total" [] "Time from the end of the check that decided it to the swapped ring, all together. Normal: less than 20 ms each."
    HEALTH_SWAP_SLOWEST Gauge "evenkeel_health_swap_slowest_seconds" [] "The longest of these times since the start. Normal: less than 0.02; more when the machine has no processor time to give."
    MAP_ENTRIES Gauge "evenkeel_map_entries" ["map"] "Entries in use of a table in the kernel. Normal: well below evenkeel_map_max_entries."
    MAP_MAX_ENTRIES Gauge "evenkeel_map_max_entries" ["map"] "Entries that a table in the kernel can have."
    MAP_BYTES Gauge "evenkeel_map_memory_bytes" ["map"] "Memory that a table in the kernel takes. Normal: does not change while the program is loaded."
    ALERTS Gauge "evenkeel_alerts_firing" ["kind" "severity"] "Alerts that are on. Normal: none."
    ALERTS_REFUSED Counter "evenkeel_alerts_refused_total" [] "Alerts that were not raised because there were too many. Normal: 0."
    NOTIFICATIONS Counter "evenkeel_alert_notifications_total" ["receiver" "result"] "Requests to receivers of alerts: sent or failed. Normal: failed stays as it is."
    SUPERSEDED Counter "evenkeel_alert_notifications_superseded_total" ["receiver"] "States of alerts that a receiver was never told because a newer one came first. Normal: 0; grows while a receiver does not answer."
    CPU_SECONDS Counter "process_cpu_seconds_total" [] "Processor time of the controller. Normal: a few hundredths of a second each second; packets cost it nothing."
    MEMORY Gauge "process_resident_memory_bytes" [] "Memory of the controller. Normal: does not grow for ever."
    OPEN_FDS Gauge "process_open_fds" [] "Open files of the controller. Normal: does not grow for ever."

    VIP_INFO Gauge "evenkeel_vip_info" ["address" "forward" "port" "protocol" "vip"] "What a VIP is. Always 1."
    VIP_PACKETS Counter "evenkeel_vip_packets_total" ["vip"] "Packets sent to members of the VIP."
    VIP_BYTES Counter "evenkeel_vip_bytes_total" ["vip"] "Bytes of these, whole frames as they came in."
    VIP_NEW_FLOWS Counter "evenkeel_vip_new_flows_total" ["vip"] "New flows: TCP packets with SYN and without ACK, first packets of tracked UDP flows."
    VIP_RATE Gauge "evenkeel_vip_new_flows_per_second" ["vip"] "New flows a second over the last ten seconds."
    VIP_PEAK Gauge "evenkeel_vip_peak_new_flows_per_second" ["vip"] "The highest number of new flows a second, over ten seconds each, in the last hour."
    VIP_CAPACITY Gauge "evenkeel_vip_eligible_capacity_new_flows_per_second" ["vip"] "What the eligible backends can take together. Missing when the capacity of one is not configured."
    VIP_UTILISATION Gauge "evenkeel_vip_utilisation_ratio" ["vip"] "New flows a second over the eligible capacity. Normal: about evenkeel_vip_target_utilisation_ratio; at 1 nothing is left."
    VIP_TARGET Gauge "evenkeel_vip_target_utilisation_ratio" ["vip"] "Utilisation that is wanted: vip.scaling.target_utilisation."
    VIP_HEADROOM Gauge "evenkeel_vip_headroom_new_flows_per_second" ["vip"] "New flows a second that could still come if the largest eligible backend failed. Normal: above 0; below, its failure would be too much for the others."
    VIP_WANTED Gauge "evenkeel_vip_wanted_backends" ["vip"] "Backends of the present mean capacity that would bring the utilisation to its target. Normal: evenkeel_vip_eligible_backends or less. For autoscalers."
    VIP_ELIGIBLE Gauge "evenkeel_vip_eligible_backends" ["vip"] "Backends that can get new flows. Normal: all that are configured."
    VIP_BACKENDS Gauge "evenkeel_vip_backends" ["state" "vip"] "Backends by state: up, down, draining, disabled, leaving. Normal: all up."
    VIP_PANIC Gauge "evenkeel_vip_panic" ["vip"] "1 while too few backends are healthy and traffic is spread over all. Normal: 0."
    VIP_SLOTS Gauge "evenkeel_vip_ring_slots" ["vip"] "Slots of the VIP's ring."
    VIP_TRANSITION Gauge "evenkeel_vip_ring_slots_in_transition" ["vip"] "Slots whose member changed less than node.transition_ttl ago. Normal: 0, except after a change."
    VIP_SETTLING Gauge "evenkeel_vip_ring_slots_settling" ["vip"] "Slots whose transition ended and whose flows still have entries. Normal: 0, except after a change."
    VIP_TRACKED Gauge "evenkeel_vip_tracked_flows" ["vip"] "Flows of the VIP in the tracking table. Normal: 0 for TCP that has not changed lately; all flows for UDP and nat."
    VIP_HITS Counter "evenkeel_vip_tracking_hits_total" ["vip"] "Lookups in the tracking table that found the flow. Normal: stays as it is for TCP that has not changed lately."
    VIP_MISSES Counter "evenkeel_vip_tracking_misses_total" ["vip"] "Lookups in the tracking table that did not find the flow. Normal: stays as it is for TCP that has not changed lately."
    VIP_INSERTS Counter "evenkeel_vip_tracking_inserts_total" ["vip"] "Entries written to the tracking table. Normal: stays as it is for TCP that has not changed lately."
    VIP_FULL Counter "evenkeel_vip_tracking_full_total" ["vip"] "Flows that found no place in the tracking table. Normal: 0; else raise node.track_flows."
    VIP_NO_MEMBER Counter "evenkeel_vip_no_member_packets_total" ["vip"] "Packets dropped because no member could take them. Normal: 0."
    VIP_NAT_SESSIONS Counter "evenkeel_vip_nat_sessions_total" ["vip"] "Sessions of nat that were begun."
    VIP_NAT_NO_PORT Counter "evenkeel_vip_nat_no_port_flows_total" ["vip"] "New flows dropped because no port of nat was free. Normal: 0; else add addresses to node.nat_source."
    VIP_LIMITED Counter "evenkeel_vip_limited_packets_total" ["vip"] "Packets dropped by a rate limit. Stays 0: this version has no rate limits."

    MEMBER_PACKETS Counter "evenkeel_member_packets_total" ["backend" "vip"] "Packets sent to the member. Normal: about in proportion to its share of new flows."
    MEMBER_BYTES Counter "evenkeel_member_bytes_total" ["backend" "vip"] "Bytes of these, whole frames as they came in."
    MEMBER_NEW_FLOWS Counter "evenkeel_member_new_flows_total" ["backend" "vip"] "New flows. Normal: in proportion to evenkeel_member_table_share_ratio."
    MEMBER_RESETS Counter "evenkeel_member_resets_total" ["backend" "vip"] "Clients' packets with RST. Normal: few."
    MEMBER_KEPT Counter "evenkeel_member_kept_packets_total" ["backend" "vip"] "Packets of flows that stay here although the ring names another member now. Normal: stays as it is, except after a change."
    MEMBER_ICMP Counter "evenkeel_member_icmp_errors_total" ["backend" "vip"] "ICMP errors about the member's flows. Normal: few."
    MEMBER_REPLY_PACKETS Counter "evenkeel_member_reply_packets_total" ["backend" "vip"] "Packets that came back (forward = nat)."
    MEMBER_REPLY_BYTES Counter "evenkeel_member_reply_bytes_total" ["backend" "vip"] "Bytes of these."
    MEMBER_STATE Gauge "evenkeel_member_state" ["backend" "vip"] "State of the member: 0 down, 1 up, 2 draining, 3 disabled, 4 leaving. Normal: 1."
    MEMBER_ELIGIBLE Gauge "evenkeel_member_eligible" ["backend" "vip"] "1 if the member can get new flows. Normal: 1."
    MEMBER_WEIGHT Gauge "evenkeel_member_weight" ["backend" "vip"] "The configured weight."
    MEMBER_EFFECTIVE Gauge "evenkeel_member_effective_weight" ["backend" "vip"] "The weight in force: less than the configured one during a slow start."
    MEMBER_INTENDED Gauge "evenkeel_member_intended_share_ratio" ["backend" "vip"] "Share that the member should have: its weight over the sum of the eligible weights."
    MEMBER_TABLE Gauge "evenkeel_member_table_share_ratio" ["backend" "vip"] "Share of the ring that the member has in the kernel. Normal: the intended share, to one slot."
    MEMBER_OBSERVED Gauge "evenkeel_member_observed_share_ratio" ["backend" "vip"] "Share of the VIP's new flows in the last minute. Missing when there were none. Normal: near the table share."
    MEMBER_CAPACITY Gauge "evenkeel_member_capacity_new_flows_per_second" ["backend" "vip"] "New flows a second that the member can take. Missing when not configured."
    MEMBER_RATE Gauge "evenkeel_member_new_flows_per_second" ["backend" "vip"] "New flows a second over the last ten seconds."
    MEMBER_TRACKED Gauge "evenkeel_member_tracked_flows" ["backend" "vip"] "Flows of the member in the tracking table. Normal: 0 for TCP that has not changed lately."
    MEMBER_HEALTHY Gauge "evenkeel_member_healthy" ["backend" "vip"] "1 if the checks say that the member is healthy. Missing when it is not checked. Normal: 1."
    MEMBER_LATENCY Gauge "evenkeel_member_check_duration_seconds" ["backend" "vip"] "How long the newest check took. Missing when there was none. Normal: well below vip.health.timeout."
    MEMBER_DAMPED Gauge "evenkeel_member_damped" ["backend" "vip"] "1 while the member is held down because it went up and down too often. Normal: 0."
    MEMBER_WAY Gauge "evenkeel_member_next_hop_known" ["backend" "vip"] "1 if frames can be sent to the member. Normal: 1."
}
