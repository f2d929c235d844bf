//! OpenMetrics text: counts, and histograms of how long things took, in seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::super::event::Event;
use super::super::links::Links;
#[cfg(feature = "api")]
use super::super::live::LiveTimes;
use super::super::report::Filter;
use super::super::{ExitKind, TraceFile};

/// The upper ends of the buckets, in nanoseconds: 100 ns to 10 s.
const BUCKETS: [u64; 17] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// A histogram, as OpenMetrics has it.
#[derive(Default)]
pub(crate) struct Histogram {
    /// Not cumulative; the last is for longer ones.
    counts: [u64; BUCKETS.len() + 1],
    sum_ns: u128,
}

impl Histogram {
    fn add(&mut self, ns: u64) {
        self.counts[BUCKETS.partition_point(|end| *end < ns)] += 1;
        self.sum_ns += u128::from(ns);
    }

    /// Adds what is being counted: to the percent that it is known to.
    #[cfg(feature = "api")]
    pub(crate) fn add_live(&mut self, times: &LiveTimes) {
        for (ns, count) in times.each() {
            self.counts[BUCKETS.partition_point(|end| *end < ns)] += count;
        }
        self.sum_ns += u128::from(times.total_ns());
    }

    /// Prints it. `labels` are separated by commas, and there is at least one.
    pub(crate) fn print(&self, out: &mut String, name: &str, labels: &str) {
        let mut sum = 0;
        for (n, count) in self.counts.iter().enumerate() {
            sum += count;
            let end = match BUCKETS.get(n) {
                Some(end) => format!("{:?}", *end as f64 / 1e9),
                None => "+Inf".to_owned(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{end}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_count{{{labels}}} {sum}");
        let seconds = self.sum_ns as f64 / 1e9;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds:?}");
    }
}

/// Writes what the events that `filter` lets through come to.
///
/// # Errors
/// As writing to `out` does.
pub fn write(trace: &TraceFile, filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let links = Links::new(trace);
    let mut exits: BTreeMap<(u16, ExitKind, String), Histogram> = BTreeMap::new();
    let mut waits: BTreeMap<u16, Histogram> = BTreeMap::new();
    let mut sections: BTreeMap<(&str, &str), Histogram> = BTreeMap::new();
    for (_, event) in trace.events() {
        match event {
            Event::Exit(exit) if filter.takes_exit(trace, &links, exit) => {
                let key = (exit.vcpu, exit.kind, links.answered(exit));
                let ns = trace.time.ns(exit.ticks());
                exits.entry(key).or_default().add(ns);
                if let Some(wait) = exit.wait {
                    let ns = trace.time.ns(wait.ticks());
                    waits.entry(exit.vcpu).or_default().add(ns);
                }
            }
            Event::Section(section) if filter.takes_section(trace, &links, section) => {
                let what = match section.published {
                    true => section.what.name(),
                    false => "given up",
                };
                let ns = trace.time.ns(section.ticks());
                let key = (section.space.name(), what);
                sections.entry(key).or_default().add(ns);
            }
            _ => {}
        }
    }
    let mut text = String::new();
    let name = "gracefault_exit_seconds";
    let help = "From KVM_RUN returning to its next call.";
    family(&mut text, name, help, "histogram", Some("seconds"));
    for ((vcpu, kind, by), histogram) in &exits {
        let by = escaped(by);
        let labels = format!("vcpu=\"{vcpu}\",kind=\"{kind}\",by=\"{by}\"");
        histogram.print(&mut text, name, &labels);
    }
    let name = "gracefault_wait_seconds";
    let help = "Asleep for the end of a write section.";
    family(&mut text, name, help, "histogram", Some("seconds"));
    for (vcpu, histogram) in &waits {
        histogram.print(&mut text, name, &format!("vcpu=\"{vcpu}\""));
    }
    let name = "gracefault_section_seconds";
    let help = "A write section, from having the map lock to its end.";
    family(&mut text, name, help, "histogram", Some("seconds"));
    for ((space, what), histogram) in &sections {
        let labels = format!("space=\"{space}\",what=\"{what}\"");
        histogram.print(&mut text, name, &labels);
    }
    let name = "gracefault_events_lost";
    let help = "Events that the trace has not got.";
    family(&mut text, name, help, "counter", None);
    for (n, thread) in trace.threads.iter().enumerate() {
        let (tid, lost) = (thread.tid, thread.lost);
        let by = escaped(&thread.name);
        let _ = writeln!(
            text,
            "{name}_total{{index=\"{n}\",tid=\"{tid}\",thread=\"{by}\"}} {lost}"
        );
    }
    let name = "gracefault_trace_complete";
    family(
        &mut text,
        name,
        "Whether the trace has its end.",
        "gauge",
        None,
    );
    let _ = writeln!(text, "{name} {}", u8::from(trace.complete));
    text.push_str("# EOF\n");
    out.write_all(text.as_bytes())
}

/// What comes before the samples of one name.
pub(crate) fn family(text: &mut String, name: &str, help: &str, kind: &str, unit: Option<&str>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if let Some(unit) = unit {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {help}");
}

/// A label's value.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
