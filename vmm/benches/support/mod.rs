//! What the benches share: the regions, the addresses, the contenders, and how
//! a result is written.
//!
//! All contenders run in one process, in turns of a few milliseconds, round after
//! round; a ratio is taken within a round and the median of the rounds is shown.
//! So what else the machine does meanwhile hits all alike.
#![allow(dead_code, reason = "each bench uses a part of this")]

#[path = "../../src/stress/apart.rs"]
mod apart;
pub(crate) mod contender;
pub(crate) mod peers;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// Bytes from one region to the next.
pub(crate) const STRIDE: u64 = 0x4000;
/// Bytes of a region; the rest of the stride is a hole.
pub(crate) const LEN: u64 = 0x2000;

/// The first address of region `index`.
pub(crate) fn start(index: usize) -> u64 {
    index as u64 * STRIDE
}

/// Addresses that all lie in regions below `regions`: anywhere, or in one.
pub(crate) fn addresses(regions: usize, same: bool) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(88_172_645_463_325_252);
    (0..4096)
        .map(|_| {
            let region = if same {
                regions / 2
            } else {
                random.usize(0..regions)
            };
            start(region) + random.u64(0..LEN)
        })
        .collect()
}

/// Keeps the calling thread on one CPU, the `index`-th of those it may use, round and
/// round: threads that start together are otherwise often put on the same one, and
/// then measure each other's time slices.
pub(crate) fn stay_on_cpu(index: usize) {
    apart::stay_on(index);
}

/// The middle of what was measured; NaN of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whether a short run was asked for.
pub(crate) fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
}

/// Writes `{"results": [...]}` to `target/gracefault/NAME.json`.
pub(crate) fn write_json(name: &str, results: Vec<Value>) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let folder = target.join("gracefault");
    let path = folder.join(name).with_extension("json");
    let text = serde_json::to_string_pretty(&serde_json::json!({ "results": results }));
    fs::create_dir_all(&folder).expect("the target folder can be written to");
    fs::write(&path, text.expect("plain values") + "\n")
        .expect("the target folder can be written to");
    println!("\nwritten to {}", path.display());
}
