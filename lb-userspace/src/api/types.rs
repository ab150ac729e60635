//! What is said over the API: requests, answers, errors.
//!
//! The server, the command line and the OpenAPI document are made from these types, so that they
//! can't disagree. Shares are numbers from 0 to 1; rates are per second; times are RFC 3339 in UTC.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Number of a revision; the first is 1.
pub type RevisionNumber = u64;

// --- changes ------------------------------------------------------------------------------------

/// What is to become of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A whole configuration.
    Config {
        /// The file's name, for messages; relative paths in it begin at its folder.
        file: String,
        /// The TOML text.
        text: String,
    },
    /// Edits of the running configuration, in this order; all or none.
    Edits {
        /// The edits.
        #[schema(min_items = 1)]
        edits: Vec<Edit>,
    },
    /// The configuration of an earlier revision.
    Revision {
        /// Its number; without it, the one before the last change.
        revision: Option<RevisionNumber>,
    },
}

/// An edit of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Adds a VIP with its backends.
    AddVip {
        /// Its keys, as in a `[[vip]]` table of the configuration.
        vip: VipSpec,
    },
    /// Removes a VIP with its backends.
    RemoveVip {
        /// Its name.
        vip: String,
    },
    /// Adds a backend to a VIP.
    AddBackend {
        /// Name of the VIP.
        vip: String,
        /// The backend.
        backend: BackendSpec,
    },
    /// Removes a backend from a VIP.
    RemoveBackend {
        /// Name of the VIP.
        vip: String,
        /// Name of the backend.
        backend: String,
    },
    /// Serve, drain or disable.
    SetState {
        /// Name of the VIP; without it, of every VIP that has the backend.
        vip: Option<String>,
        /// Name of the backend.
        backend: String,
        /// What is wanted.
        state: WantedState,
    },
    /// Another weight.
    SetWeight {
        /// Name of the VIP.
        vip: String,
        /// Name of the backend.
        backend: String,
        /// The weight.
        weight: u32,
    },
}

/// A VIP as it is added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; 0 for any.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l2`, `ipip` or `nat`.
    pub forward: String,
    /// Kind of health check with defaults, if it is to be checked: `tcp`, `http` and so on.
    pub health: Option<String>,
    /// Its backends; one at least.
    pub backends: Vec<BackendSpec>,
}

/// A backend as it is added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port, if it is not the VIP's.
    pub port: Option<u16>,
    /// Its weight, if it is not 100.
    pub weight: Option<u32>,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WantedState {
    /// Serve.
    Up,
    /// Keep its flows, get no new ones.
    Drain,
    /// Get nothing.
    Disabled,
}

/// A guard: what a change may not do unless it is forced by this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// A table share further from the intended one than rounding explains.
    ShareError,
    /// A member with weight and without slots.
    NoSlots,
    /// A share above `vip.guard.max_share`.
    MaxShare,
    /// More of the table moved than `vip.guard.max_moved`.
    MaxMoved,
    /// Fewer backends than `vip.guard.min_backends`.
    MinBackends,
    /// Eligible capacity under the peak of new flows, with headroom; or a member's part above its capacity.
    Capacity,
    /// Nobody left to serve the VIP.
    NothingLeft,
    /// The VIP is removed or replaced while it has traffic: its connections break.
    VipRemoved,
}

/// What to plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The change.
    pub change: Change,
    /// Guards that may be broken.
    #[serde(default)]
    pub force: Vec<Guard>,
}

/// What to apply, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The change.
    pub change: Change,
    /// Guards that may be broken.
    #[serde(default)]
    pub force: Vec<Guard>,
    /// Refuse unless this is the running revision: what the caller saw.
    pub base: Option<RevisionNumber>,
    /// Go back unless it is confirmed within this many seconds.
    pub confirm_s: Option<u32>,
    /// Watch for this many seconds, and go back when something is wrong; 0: don't. Without it,
    /// `change.bake` of the configuration.
    pub bake_s: Option<u32>,
    /// Why, for the history.
    pub why: Option<String>,
}

/// Which revision to confirm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// Its number; without it, the one that waits.
    pub revision: Option<RevisionNumber>,
}

/// Where to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision whose configuration is wanted; without it, the one before the last change.
    pub revision: Option<RevisionNumber>,
    /// Why, for the history.
    pub why: Option<String>,
}

// --- plans --------------------------------------------------------------------------------------

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The revision that it starts from.
    pub base: RevisionNumber,
    /// What would come of it.
    pub verdict: PlanVerdict,
    /// VIPs that change.
    pub vips: Vec<VipPlan>,
    /// Changes outside of VIPs, in words: `node.interfaces: ["eth0"] → ["eth0", "eth1"]`.
    pub other: Vec<String>,
}

/// What would come of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanVerdict {
    /// Nothing to do.
    Nothing,
    /// It may be applied.
    Allowed,
    /// A guard refuses.
    Refused,
}

/// What happens to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VipAction {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It goes and comes again; its connections break.
    Replaced,
    /// Its members, weights or settings change.
    Changed,
}

/// What a change would do to a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VipPlan {
    /// Its name.
    pub vip: String,
    /// What happens.
    pub action: VipAction,
    /// Its members, before and after.
    pub members: Vec<MemberPlan>,
    /// Slots of the ring.
    pub ring_size: u32,
    /// Slots that another member gets.
    pub slots_moved: u32,
    /// New flows a second that the VIP has now.
    pub new_flows_per_s: f64,
    /// The highest number of new flows a second in the last hour.
    pub peak_new_flows_per_s: f64,
    /// Settings that change, in words: `health.interval: 1s → 2s`.
    pub settings: Vec<String>,
    /// What the guards say.
    pub guards: Vec<GuardResult>,
}

/// What a change would do to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberPlan {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Before; none if it is new.
    pub before: Option<MemberSide>,
    /// After; none if it goes.
    pub after: Option<MemberSide>,
    /// New flows a second that it would get, of the VIP's peak.
    pub predicted_new_flows_per_s: f64,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
}

/// A member on one side of a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberSide {
    /// Its weight.
    pub weight: u32,
    /// What the operator wants of it.
    pub state: WantedState,
    /// Whether it can have slots: healthy, up, with weight.
    pub eligible: bool,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
}

/// What a guard says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuardResult {
    /// The guard.
    pub guard: Guard,
    /// Whether it lets the change pass.
    pub verdict: GuardVerdict,
    /// What it saw, and its limit: `backend b1 would have 62 % of the table; 40 % is allowed`.
    pub detail: String,
}

/// Whether a guard lets a change pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardVerdict {
    /// Nothing against it.
    Passed,
    /// It refuses.
    Refused,
    /// It would refuse, but is forced.
    Forced,
}

// --- revisions ----------------------------------------------------------------------------------

/// What became of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RevisionState {
    /// Being put into the kernel.
    Applying,
    /// In the kernel, and watched.
    Baking {
        /// Until then.
        until: Timestamp,
    },
    /// In the kernel, and waits to be confirmed.
    AwaitingConfirm {
        /// It is rolled back then.
        until: Timestamp,
    },
    /// Applied, for good.
    Applied,
    /// Undone.
    RolledBack {
        /// Why. Not `why` in JSON: a revision has that beside it.
        #[serde(rename = "reason")]
        why: String,
        /// When. Not `at` in JSON, for the same reason.
        #[serde(rename = "undone_at")]
        at: Timestamp,
    },
    /// It could not be put into the kernel; the old state came back.
    Failed {
        /// Why.
        #[serde(rename = "reason")]
        why: String,
    },
}

/// A revision, without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionInfo {
    /// Its number.
    pub number: RevisionNumber,
    /// The one that it changed.
    pub parent: Option<RevisionNumber>,
    /// When it was accepted.
    pub at: Timestamp,
    /// Who asked for it: user and process, as the kernel told.
    pub who: String,
    /// How: `start`, `reload`, `apply FILE`, `backend drain api-1`, `rollback to 3`.
    pub how: String,
    /// Why, if the caller said.
    pub why: Option<String>,
    /// Guards that were forced.
    pub forced: Vec<Guard>,
    /// What became of it.
    #[serde(flatten)]
    pub state: RevisionState,
    /// SHA-256 of the text, in hex.
    pub digest: String,
}

/// A revision with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// What is known of it.
    #[serde(flatten)]
    pub info: RevisionInfo,
    /// The configuration (TOML), with the hash seed taken out.
    pub text: String,
}

/// What came of an apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The new revision; none when there was nothing to do.
    pub revision: Option<RevisionInfo>,
    /// What it did.
    pub plan: Plan,
}

/// How a revision is doing: ask again until it is neither baking nor waiting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The revision.
    pub revision: RevisionInfo,
    /// Seconds until the bake or the time to confirm ends.
    pub remaining_s: f64,
    /// What is being watched and how it stands, in words.
    pub notes: Vec<String>,
}

/// The difference of two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The older side.
    pub from: RevisionNumber,
    /// The newer side.
    pub to: RevisionNumber,
    /// Unified diff of the texts, secrets taken out; empty when they are the same.
    pub unified: String,
}

// --- status -------------------------------------------------------------------------------------

/// Everything on one screen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When this was so.
    pub at: Timestamp,
    /// The node.
    pub node: NodeStatus,
    /// The running revision.
    pub revision: Option<RevisionInfo>,
    /// The VIPs, in the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// Alerts that are on.
    pub alerts: Vec<Alert>,
    /// Packets by what became of them (names as in `docs/operations.md`), since the maps were made.
    pub reasons: BTreeMap<String, u64>,
}

/// The node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Name of the host.
    pub host: String,
    /// Version of the controller.
    pub version: String,
    /// Process id of the controller.
    pub pid: u32,
    /// When the controller started.
    pub started_at: Timestamp,
    /// Whether it adopted a running data path.
    pub adopted: bool,
    /// Id of the XDP program.
    pub program_id: u32,
    /// The interfaces.
    pub interfaces: Vec<InterfaceStatus>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`; `none` when our program is not there.
    pub mode: String,
    /// Id of the program that runs there.
    pub program_id: Option<u32>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VipStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; 0 for any.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l2`, `ipip` or `nat`.
    pub forward: String,
    /// Whether too few are healthy and traffic is spread over all.
    pub panic: bool,
    /// The ring.
    pub ring: RingStatus,
    /// Rates of all members together.
    pub rates: Rates,
    /// The highest number of new flows a second, over ten seconds each, in the last hour.
    #[serde(default)]
    pub peak_new_flows_per_s: f64,
    /// What the rates mean for the size of the service; none while the capacity of an eligible backend is not configured.
    #[serde(default)]
    pub capacity: Option<CapacityStatus>,
    /// Entries of the tracking table.
    pub tracked_flows: u64,
    /// The members, in the order of the configuration; then those that leave.
    pub members: Vec<MemberStatus>,
}

/// How much of a VIP's capacity is used, and how many backends it should have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CapacityStatus {
    /// New flows a second that the eligible backends can take together.
    pub eligible_new_flows_per_s: f64,
    /// New flows a second now over that; above 1 it is exceeded.
    pub utilisation: f64,
    /// The wanted utilisation.
    pub target_utilisation: f64,
    /// New flows a second that could still come if the largest eligible backend failed; below 0, the others could not take what
    /// there is now.
    pub headroom_after_failure: f64,
    /// Backends that can get new flows.
    pub eligible_backends: u32,
    /// Backends of the present mean capacity that would bring the utilisation to its target.
    pub wanted_backends: u32,
}

/// The slots of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RingStatus {
    /// All.
    pub slots: u32,
    /// Those in transition.
    pub in_transition: u32,
    /// Those whose transition ended and whose flows still have entries.
    pub settling: u32,
}

/// Rates over the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Packets a second.
    pub packets_per_s: f64,
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// New flows a second.
    pub new_flows_per_s: f64,
}

/// The state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It serves.
    Up,
    /// Its checks fail, or have not yet succeeded.
    Down,
    /// It keeps its flows and gets no new ones.
    Draining,
    /// The operator wants it to get nothing.
    Disabled,
    /// It is not in the configuration any more, and keeps its flows until they end.
    Leaving,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemberStatus {
    /// Name of the backend.
    pub backend: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port; 0: that of the packet.
    pub port: u16,
    /// Its state.
    pub state: MemberState,
    /// The configured weight.
    pub weight: u32,
    /// The weight in force: less while it starts slowly.
    pub effective_weight: u32,
    /// New flows a second that it can take, if that is known.
    pub capacity: Option<u32>,
    /// What its checks say; none if it is not checked.
    pub health: Option<HealthStatus>,
    /// Whether frames can be sent to it; if not, why.
    pub next_hop: Option<String>,
    /// Counters since the controller first knew it; they never go backwards.
    pub totals: Totals,
    /// Rates over the last ten seconds.
    pub rates: Rates,
    /// Flows of it in the tracking table.
    pub tracked_flows: u64,
    /// Weight over the sum of the eligible weights.
    pub intended_share: f64,
    /// Slots over ring size.
    pub table_share: f64,
    /// New flows over those of the VIP, in the last minute; none when there were none.
    pub observed_share: Option<f64>,
}

/// Counters that never go backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// New flows.
    pub new_flows: u64,
}

/// What checks say about a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealthStatus {
    /// Whether it counts as healthy.
    pub healthy: bool,
    /// Since when.
    pub since: Timestamp,
    /// Whether the newest check succeeded; none before the first.
    pub last_ok: Option<bool>,
    /// What the newest check that failed met.
    pub last_error: Option<String>,
    /// How long the newest check took.
    pub latency_ms: Option<f64>,
    /// Whether it goes up and down so often that it is held down.
    pub damped: bool,
}

// --- explain ------------------------------------------------------------------------------------

/// A packet to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `tcp 198.51.100.7:40000 > 203.0.113.10:443`; IPv6 addresses in brackets.
    pub flow: String,
    /// Whether the packet opens the connection (TCP SYN).
    #[serde(default)]
    pub syn: bool,
}

/// What the data path would do with a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The flow, as it was understood.
    pub flow: String,
    /// The steps, in order.
    pub steps: Vec<ExplainStep>,
    /// What becomes of the packet: `tx`, `redirect`, `pass` or `drop`.
    pub verdict: String,
    /// The reason that is counted.
    pub reason: String,
    /// The VIP, if one has it.
    pub vip: Option<String>,
    /// The backend that gets it, if one does.
    pub backend: Option<String>,
}

/// A step of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainStep {
    /// What is looked at: `vip`, `hash`, `slot`, `transition`, `tracking`, `member`, `next hop`.
    pub step: String,
    /// What is found there, in words.
    pub finding: String,
}

// --- events and alerts --------------------------------------------------------------------------

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; they grow.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What kind: `revision`, `health`, `alert`, `rollback`, `start`, `upgrade`.
    pub kind: String,
    /// The VIP it is about, if it is about one.
    pub vip: Option<String>,
    /// The backend it is about, if it is about one.
    pub backend: Option<String>,
    /// What happened, in words.
    pub message: String,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must look now.
    Critical,
}

/// An alert that is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// What names it, for `alerts ack` and `alerts silence`; the same for the same cause.
    pub id: String,
    /// Kind: `share_skew`, `concentration`, `backend_down`, `few_backends`, `panic`, `capacity`,
    /// `data_path`, `generic_xdp`, `black_hole`, …
    pub kind: String,
    /// How bad.
    pub severity: Severity,
    /// The VIP it is about.
    pub vip: Option<String>,
    /// The backends it is about.
    pub backends: Vec<String>,
    /// One sentence: what is wrong.
    pub summary: String,
    /// The likeliest cause, with its evidence.
    pub cause: Option<String>,
    /// The revision that explains it, if one does.
    pub revision: Option<RevisionNumber>,
    /// Since when.
    pub since: Timestamp,
    /// Who has seen it.
    pub acknowledged_by: Option<String>,
    /// Not sent until then.
    pub silenced_until: Option<Timestamp>,
}

// --- errors -------------------------------------------------------------------------------------

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// The plan, when a guard refused it.
    pub plan: Option<Plan>,
}

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request can't be understood (400).
    BadRequest,
    /// What it names is not there (404).
    NotFound,
    /// Another change is under way, or came first (409).
    Conflict,
    /// The configuration has mistakes (422).
    InvalidConfig,
    /// A guard refused (422).
    Refused,
    /// The kernel or the disk refused; the old state is in force (500).
    Failed,
}
