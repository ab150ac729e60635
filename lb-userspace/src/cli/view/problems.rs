//! What of a status needs attention.

use jiff::Timestamp;

use super::{View, alerts, members, paint::Tone, status};
use lb_api::{MemberState, MemberStatus, Status, VipStatus};

/// Lines of problems below a list of VIPs; alerts have the whole.
const MOST_LINES: usize = 50;

/// Removes VIPs and members without a problem.
pub(in crate::cli) fn retain(status: &mut Status) {
    for vip in &mut status.vips {
        vip.members.retain(is_member_wrong);
    }
    status
        .vips
        .retain(|vip| vip.panic || !vip.members.is_empty());
}

/// Whether there is any, in a status without the rest.
pub(in crate::cli) fn any(status: &Status) -> bool {
    let ours = Some(status.node.program_id);
    let mut interfaces = status.node.interfaces.iter();
    let is_detached = interfaces.any(|interface| interface.program_id != ours);
    is_detached || !status.vips.is_empty() || !status.alerts.is_empty()
}

/// Draining and disabled backends are as the operator wants them.
fn is_member_wrong(member: &MemberStatus) -> bool {
    let health = member.health.as_ref();
    let is_failing = health.is_some_and(|h| !h.healthy || h.last_ok == Some(false) || h.damped);
    let is_wanted = matches!(member.state, MemberState::Up | MemberState::Down);
    let has_few_ports = member
        .nat_ports
        .as_ref()
        .is_some_and(members::are_ports_scarce);
    let is_unreachable = member.state == MemberState::Down || member.next_hop.is_some();
    is_wanted && (is_failing || is_unreachable || has_few_ports)
}

pub(in crate::cli) fn problems(view: View, status: &Status) -> String {
    if !any(status) {
        return format!("{}\n", view.paint.apply(Tone::Good, "no problems"));
    }
    let mut text = status::node(view, status);
    text += &of_vips(view, &status.vips, status.at);
    if !status.alerts.is_empty() {
        text += &format!("\n{}", alerts::alerts(view, &status.alerts, status.at));
    }
    text
}

/// The problems of members as lines with the VIP's name; the first ones, with the number of all.
pub(super) fn of_vips(view: View, vips: &[VipStatus], now: Timestamp) -> String {
    let mut lines = Vec::new();
    for vip in vips {
        if vip.panic {
            let line = format!("{}: PANIC: new flows go to all backends", vip.name);
            lines.push(view.paint.apply(Tone::Bad, &line));
        }
        for member in vip.members.iter().filter(|member| is_member_wrong(member)) {
            for problem in members::problems_of(member, now) {
                let line = format!("{}/{}: {problem}", vip.name, member.backend);
                lines.push(view.paint.apply(Tone::Warn, &view.hang("! ", "  ", &line)));
            }
        }
    }
    let more = lines.len().saturating_sub(MOST_LINES);
    lines.truncate(MOST_LINES);
    if more > 0 {
        lines.push(format!("… and {more} more"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}
