//! Who waits for whom.

use gracefault::api::model::{Hold, OpenSection, Stage, Thread, Wait};
use ratatui::text::Line;

use super::super::rows::VcpuRow;
use super::super::state::State;
use super::super::theme::Theme;
use super::super::units::{bytes, count, time};

pub(super) fn lines(state: &State, theme: Theme) -> Vec<Line<'static>> {
    let Some(live) = state.live() else {
        return Vec::new();
    };
    let waits = &live.waits;
    let waiting = match waits.len() {
        0 => "nobody now".to_owned(),
        1 => "1 waits now".to_owned(),
        n => format!("{n} wait now"),
    };
    let mut lines = vec![Line::styled(
        format!("WHO WAITS FOR WHOM: {waiting}"),
        theme.title(),
    )];
    if let Some(open) = &live.sections.open {
        lines.push(Line::styled(section(open, theme), theme.busy()));
    }
    lines.extend(
        waits
            .iter()
            .map(|wait| Line::styled(one(wait, theme), theme.bad())),
    );
    let mut vcpus = state.vcpus();
    vcpus.retain(|row| row.waits.count > 0);
    // Most of them are over before anybody can look.
    vcpus.sort_by_key(|row| std::cmp::Reverse(row.waits.total_ns));
    lines.extend(vcpus.iter().map(|row| Line::raw(so_far(row, theme))));
    if lines.len() == 1 {
        lines.push(Line::styled(
            "no vCPU has waited for a writer",
            theme.faint(),
        ));
    }
    lines
}

fn name(thread: &Thread) -> String {
    match thread.tid {
        0 => thread.name.clone(),
        tid => format!("{} ({tid})", thread.name),
    }
}

fn section(open: &OpenSection, theme: Theme) -> String {
    let stage = match open.stage {
        Stage::Draining => "drains",
        Stage::Applying => "applies",
    };
    let since = time(open.since_ns, theme.micro());
    let ranges = match &open.ranges[..] {
        [] => String::new(),
        [one] => format!(": {:#x}+{}", one.start, bytes(one.size)),
        [first, more @ ..] => {
            let (start, size) = (first.start, bytes(first.size));
            format!(": {start:#x}+{size} and {} more", more.len())
        }
    };
    let (writer, number) = (name(&open.writer), open.section);
    format!(
        "{writer} {stage} #{number} for {since}{ranges}{}",
        held(&open.held_by)
    )
}

fn held(by: &[Hold]) -> String {
    let names: Vec<_> = by
        .iter()
        .map(|hold| format!("{} ({})", hold.thread, hold.kind))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(", held by {}", names.join(", ")),
    }
}

fn one(wait: &Wait, theme: Theme) -> String {
    let who = wait
        .vcpu
        .map_or(wait.thread.clone(), |vcpu| format!("vCPU {vcpu}"));
    let since = wait
        .since_ns
        .map_or(String::new(), |ns| format!(" {}", time(ns, theme.micro())));
    let writer = wait.writer.as_ref().map_or("a writer".to_owned(), name);
    format!(
        "{who} waits{since} at {:#x} for {writer} #{}",
        wait.addr, wait.section
    )
}

fn so_far(row: &VcpuRow, theme: Theme) -> String {
    let waits = &row.waits;
    let [p50, p99, max] =
        [waits.p50_ns, waits.p99_ns, waits.max_ns].map(|ns| time(ns, theme.micro()));
    let (index, times) = (row.index, count(waits.count as f64));
    format!("vCPU {index} waited {times} times: p50 {p50}, p99 {p99}, longest {max}")
}
