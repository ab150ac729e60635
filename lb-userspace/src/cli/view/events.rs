//! Events, a line for each: they are printed as they come, so the columns have fixed widths.

use super::{View, figures::moment, paint::Tone};
use lb_api::Event;

/// An event in a line.
pub(in crate::cli) fn event(view: View, event: &Event) -> String {
    let about: Vec<&str> = [&event.vip, &event.backend]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let about = match about.join("/") {
        about if about.is_empty() => about,
        about => format!("{}: ", view.paint.apply(Tone::Strong, &about)),
    };
    format!(
        "{:>5}  {}  {:<8}  {about}{}\n",
        event.id,
        moment(event.at),
        event.kind,
        event.message
    )
}
