//! JSON lines and OpenMetrics, as other programs read them.
use std::collections::BTreeMap;
use std::process::Command;

use libtest_mimic::{Completion, Trial};
use serde_json::Value;

use crate::recorded::{Recorded, trace};
use crate::support::{Outcome, kvm_test, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("exports::jsonl", jsonl),
        kvm_test_if("exports::jsonl_by_jq", jsonl_by_jq),
        kvm_test_if("exports::openmetrics_by_a_parser", openmetrics),
    ]
}

fn jsonl() -> Outcome {
    let recorded = Recorded::new("", "--duration 500ms");
    let export = trace("export --format jsonl", &recorded.path());
    let lines: Vec<Value> = export
        .expect_status(0)
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(
        (&lines[0]["type"], &lines[0]["meta"]["machine"]["vcpus"]),
        (&"trace".into(), &2.into())
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &lines {
        *counts
            .entry(line["type"].as_str().ok_or("no type")?)
            .or_default() += 1;
    }
    let events = recorded.trace.events().count();
    assert_eq!(lines.len(), events + 2, "{counts:?}");
    let exits = recorded.exits(0).count() + recorded.exits(1).count();
    assert_eq!(counts["exit"], exits);
    let last = lines.last().ok_or("no line")?;
    assert_eq!(
        (&last["type"], &last["complete"]),
        (&"end".into(), &true.into())
    );
    Ok(())
}

/// Whether a program is there.
fn has(program: &str, arguments: &[&str]) -> Result<(), String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn jsonl_by_jq() -> Result<Completion, Box<dyn std::error::Error>> {
    if let Err(why) = has("jq", &["--version"]) {
        return Ok(Completion::ignored_with(why));
    }
    let recorded = Recorded::new("", "--duration 300ms");
    let file = recorded.beside("run.jsonl");
    trace(
        &format!("export --format jsonl -o {}", file.display()),
        &recorded.path(),
    )
    .expect_status(0);
    let jq = Command::new("jq")
        .args([
            "-s",
            r#"[.[] | select(.type == "exit" and .vcpu == 0)] | length"#,
        ])
        .arg(&file)
        .output()?;
    assert!(
        jq.status.success(),
        "{}",
        String::from_utf8_lossy(&jq.stderr)
    );
    let counted: usize = String::from_utf8(jq.stdout)?.trim().parse()?;
    assert_eq!(counted, recorded.exits(0).count());
    Ok(Completion::Completed)
}

/// By the parser of Prometheus's own Python client, which is strict.
fn openmetrics() -> Result<Completion, Box<dyn std::error::Error>> {
    const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
exits = 0
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        if sample.name == 'gracefault_exit_seconds_count':
            exits += int(sample.value)
print(exits)
";
    if let Err(why) = has(
        "python3",
        &["-c", "import prometheus_client.openmetrics.parser"],
    ) {
        let why = why.lines().last().unwrap_or_default().to_owned();
        return Ok(Completion::ignored_with(why));
    }
    let recorded = Recorded::new("", "--duration 300ms");
    let file = recorded.beside("run.metrics");
    trace(
        &format!("export --format openmetrics -o {}", file.display()),
        &recorded.path(),
    )
    .expect_status(0);
    let parsed = Command::new("python3")
        .args(["-c", PARSE])
        .stdin(std::fs::File::open(&file)?)
        .output()?;
    assert!(
        parsed.status.success(),
        "{}",
        String::from_utf8_lossy(&parsed.stderr)
    );
    let counted: usize = String::from_utf8(parsed.stdout)?.trim().parse()?;
    assert_eq!(
        counted,
        recorded.exits(0).count() + recorded.exits(1).count()
    );
    Ok(Completion::Completed)
}
