//! Events, one line each. They are printed as they arrive, so the columns have fixed widths.

use super::{View, figures::moment, paint::Tone};
use lb_api::Event;

pub(in crate::cli) fn event(view: View, event: &Event) -> String {
    let object: Vec<&str> = [&event.vip, &event.backend]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let object = match object.join("/") {
        object if object.is_empty() => object,
        object => format!("{}: ", view.paint.apply(Tone::Strong, &object)),
    };
    format!(
        "{:>5}  {}  {:<8}  {object}{}\n",
        event.id,
        moment(event.at),
        event.kind,
        event.message
    )
}
