//! A guest of the user's own: the example, built by the command that its README
//! names, launched by `--kernel`.
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Completion, Trial};

use crate::command::{Running, gracefault};
use crate::report::{assert_passed, number};
use crate::support::kvm_test_if;
use crate::support::required::{self, left_out};

pub(crate) fn trials() -> Vec<Trial> {
    vec![kvm_test_if("kernel::the_example_runs", the_example_runs)]
}

/// Builds the example guest; `GRACEFAULT_EXAMPLE` names one that is built already, for a
/// machine without Cargo. `Err`: there is neither. That Cargo fails is a panic.
fn example() -> Result<PathBuf, String> {
    if let Some(built) = std::env::var_os("GRACEFAULT_EXAMPLE") {
        return Ok(built.into());
    }
    let cargo = env!("CARGO");
    if let Err(error) = Command::new(cargo).arg("--version").output() {
        let instead = "GRACEFAULT_EXAMPLE can name an example that is built";
        return Err(format!("{cargo} cannot be run: {error}; {instead}"));
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest/example/Cargo.toml");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--locked", "--offline"])
        .args(["--manifest-path", manifest])
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo can be run");
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{stderr}");
    Ok(target.join("release/guest-example"))
}

fn the_example_runs() -> Result<Completion, Box<dyn Error>> {
    let example = match example() {
        Ok(example) => example,
        Err(reason) => return Ok(left_out(required::CARGO, reason)?),
    };
    for vcpus in [1, 2] {
        let mut command = gracefault(["run", "--json", "--duration", "300ms", "--cpus"]);
        command.arg(vcpus.to_string()).arg("--kernel").arg(&example);
        let ended = Running::start(command).wait();
        let report = ended.expect_status(0).json();
        assert_passed(&report, vcpus);
        for vcpu in 0..vcpus {
            let hotplug = format!("/vcpus/{vcpu}/device_accesses/hotplug");
            assert!(number(&report, &hotplug) > 1, "{ended}");
        }
        if vcpus == 1 {
            let first = ended.stderr.lines().next();
            assert_eq!(first, Some("hello from vCPU 0"), "{ended}");
            assert!(ended.stderr.contains("Offered"), "{ended}");
        }
    }
    Ok(Completion::Completed)
}
