//! One page for a browser, which needs nothing but itself: the timeline, how long exits
//! took, the waits, and the map over time.

mod data;
mod lives;

use super::TraceFile;
use super::report::Filter;
use data::Data;

/// The page, with a place for the data.
const PAGE: &str = include_str!("page.html");
/// What stands there.
const PLACE: &str = "\"the data\"";

/// A page about the events that `filter` lets through.
pub fn page(trace: &TraceFile, filter: &Filter) -> String {
    let data = Data::new(trace, filter);
    let json = serde_json::to_string(&data).expect("numbers and text");
    // In a script element nothing else ends it, or begins a comment.
    let json = json.replace('<', "\\u003c");
    PAGE.replacen(PLACE, &json, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_place_and_no_link_out() {
        assert_eq!(PAGE.matches(PLACE).count(), 1);
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            let found = PAGE.matches(outside).count();
            // The name of SVG's namespace is no link.
            let names = PAGE.matches("http://www.w3.org/2000/svg").count();
            let allowed = if outside == "http:" { names } else { 0 };
            assert_eq!(found, allowed, "{outside}");
        }
    }
}
