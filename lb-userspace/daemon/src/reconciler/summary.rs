//! What a change did, for logs and answers.

/// Summary of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub vips_added: Vec<String>,
    /// Their connections are broken.
    pub vips_removed: Vec<String>,
    /// VIPs that were removed and added again, because slots or forwarding of all flows change: their
    /// connections are broken. With the reason.
    pub vips_replaced: Vec<String>,
    pub members_added: u32,
    /// Members that were removed; they keep their flows until these end.
    pub members_leaving: u32,
    /// Slots that moved to another member, in all rings.
    pub slots_moved: u32,
    pub rings_changed: u32,
    /// VIPs that entered panic mode.
    pub panics_begun: Vec<String>,
    /// VIPs that left panic mode.
    pub panics_ended: Vec<String>,
}
