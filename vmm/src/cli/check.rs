//! `gracefault check`.

use gracefault::kvm::host::{Fact, HostFacts, Verdict};
use gracefault::kvm::{Found, Kvm, Need};
use serde::Serialize;

use super::args::CheckArgs;
use super::units::about;
use super::{Failure, print_json, print_text, tables};

/// One line of the result.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) found: String,
    /// `ok`, `limited`, or `missing`.
    pub(crate) verdict: &'static str,
    /// What it is used for; empty where that is plain.
    pub(crate) used_for: String,
    /// What to do; empty if nothing.
    pub(crate) fix: String,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// Whether guests can be run.
    pub(crate) usable: bool,
    pub(crate) kvm: Vec<Row>,
    pub(crate) host: Vec<Row>,
}

pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let (kvm, error) = match Kvm::probe(&args.kvm_device) {
        Ok(found) => (found.iter().map(capability).collect(), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let host = host_rows(&HostFacts::read());
    // The same question that `run` asks.
    let opened = Kvm::open_path(&args.kvm_device);
    let check = Check {
        usable: opened.is_ok(),
        kvm,
        host,
    };
    match args.json {
        true => print_json(&check)?,
        false => print_text(&tables::check(&check))?,
    }
    match (error, opened) {
        (Some(error), _) => Err(Failure::Cannot(error)),
        (None, Err(error)) => Err(Failure::Cannot(error.to_string())),
        (None, Ok(_)) => Ok(()),
    }
}

fn capability(found: &Found) -> Row {
    let capability = found.capability;
    let verdict = match (found.is_met(), capability.need) {
        (true, _) => "ok",
        (false, Need::Optional) => "limited",
        (false, Need::Required) => "missing",
    };
    let fix = match found.is_met() {
        true => String::new(),
        false => format!("without it {}; {}", capability.without, capability.fix),
    };
    Row {
        what: format!("KVM_CAP_{}", capability.name),
        found: found.answer.to_string(),
        verdict,
        used_for: capability.purpose.to_owned(),
        fix,
    }
}

fn host_rows(facts: &HostFacts) -> Vec<Row> {
    let memory = facts.memory.value;
    let limit = memory
        .cgroup_limit
        .map(|l| format!(", cgroup limit {}", about(l)));
    let pools: Vec<_> = facts
        .huge_pages
        .value
        .iter()
        .map(|pool| format!("{} of {} x {}", pool.free, pool.total, about(pool.page)))
        .collect();
    vec![
        row(
            "CPUs",
            &facts.cpus,
            facts.cpus.value.to_string(),
            "vCPU threads",
        ),
        row(
            "memory",
            &facts.memory,
            format!(
                "{} of {}{}",
                about(memory.available),
                about(memory.total),
                limit.unwrap_or_default()
            ),
            "guest RAM",
        ),
        row(
            "userfaultfd",
            &facts.userfaultfd,
            format!("{:?}", facts.userfaultfd.value),
            "RAM that comes from a file at first touch",
        ),
        row(
            "huge pages free",
            &facts.huge_pages,
            pools.join(", "),
            "guest RAM on huge pages",
        ),
        row(
            "transparent huge pages",
            &facts.transparent_huge_pages,
            facts.transparent_huge_pages.value.clone(),
            "guest RAM on huge pages",
        ),
        row(
            "vm.max_map_count",
            &facts.max_map_count,
            facts.max_map_count.value.to_string(),
            "a mapping per plugged block",
        ),
        row(
            "vm.overcommit_memory",
            &facts.overcommit,
            facts.overcommit.value.to_string(),
            "guest RAM that is not touched yet",
        ),
        row(
            "seccomp filters",
            &facts.seccomp,
            match facts.seccomp.value {
                true => "yes".to_owned(),
                false => "no".to_owned(),
            },
            "confining vCPU threads",
        ),
    ]
}

fn row<T>(what: &str, fact: &Fact<T>, found: String, used_for: &str) -> Row {
    let verdict = match fact.verdict {
        Verdict::Ok => "ok",
        Verdict::Limited => "limited",
        Verdict::Missing => "missing",
    };
    Row {
        what: what.to_owned(),
        found,
        verdict,
        used_for: used_for.to_owned(),
        fix: fact.advice.to_owned(),
    }
}
