//! What a lookup costs: lookup, read lock, one read, unlock.
//!
//! ```text
//! cargo bench --bench lookup [-- --quick]
//! ```
//!
//! Prints each contender's time per lookup and thread, and its ratio to the floor
//! (a search of a static array, which cannot change) measured in the same rounds;
//! writes `target/gracefault/lookup.json`.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::contender::Contender;
use support::{addresses, is_quick, median, peers, stay_on_cpu, write_json};

/// Who changes the map meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    None,
    /// Another region, 10 000 sections a second.
    Elsewhere,
    /// Another region, back to back.
    Restless,
    /// The regions that are looked up, back to back.
    Same,
}

impl Writer {
    const ALL: [Self; 4] = [Self::None, Self::Elsewhere, Self::Restless, Self::Same];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Elsewhere => "elsewhere",
            Self::Restless => "elsewhere-restless",
            Self::Same => "same",
        }
    }
}

/// One row of the result, for every contender.
struct Setting {
    regions: usize,
    threads: usize,
    same: bool,
    writer: Writer,
}

struct Effort {
    sizes: &'static [usize],
    rounds: usize,
    turn: Duration,
}

const FULL: Effort = Effort {
    sizes: &[16, 1024, 32_768, 1_000_000],
    rounds: 13,
    turn: Duration::from_millis(10),
};
const QUICK: Effort = Effort {
    sizes: &[16, 32_768],
    rounds: 3,
    turn: Duration::from_millis(4),
};

fn main() {
    let effort = if is_quick() { QUICK } else { FULL };
    let mut results = Vec::new();
    for &regions in effort.sizes {
        // The last of them is not looked up: it is the one elsewhere.
        let contenders = peers::all(regions);
        for threads in [1, 2, 4] {
            for same in [false, true] {
                for writer in Writer::ALL {
                    let setting = Setting {
                        regions,
                        threads,
                        same,
                        writer,
                    };
                    results.extend(measure(&contenders, &setting, &effort));
                }
            }
        }
    }
    write_json("lookup", results);
}

fn measure(contenders: &[Box<dyn Contender>], setting: &Setting, effort: &Effort) -> Vec<Value> {
    let addresses = addresses(setting.regions - 1, setting.same);
    let mut times = vec![Vec::new(); contenders.len()];
    let mut ratios = vec![Vec::new(); contenders.len()];
    for _ in 0..effort.rounds {
        let mut floor = f64::NAN;
        for (i, contender) in contenders.iter().enumerate() {
            let ns = turn(&**contender, setting, &addresses, effort.turn);
            if i == 0 {
                floor = ns;
            }
            times[i].push(ns);
            ratios[i].push(ns / floor);
        }
    }
    let pattern = if setting.same { "same" } else { "random" };
    let (threads, writer) = (setting.threads, setting.writer.name());
    println!(
        "\n{} VMAs, {threads} threads, {pattern}, writer {writer}",
        setting.regions
    );
    let mut rows = Vec::new();
    for ((contender, times), ratios) in contenders.iter().zip(times).zip(ratios) {
        let (ns, ratio) = (median(times), median(ratios));
        println!("  {:22} {ns:9.1} ns  {ratio:6.2} x floor", contender.name());
        rows.push(json!({
            "name": contender.name(), "vmas": setting.regions, "threads": threads,
            "pattern": pattern, "writer": writer, "ns": ns, "floor_ratio": ratio,
        }));
    }
    rows
}

/// One contender's turn: nanoseconds per lookup and thread.
fn turn(contender: &dyn Contender, setting: &Setting, addresses: &[u64], time: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(setting.threads + 1);
    thread::scope(|s| {
        let readers: Vec<_> = (0..setting.threads)
            .map(|thread| {
                let (start, stop) = (&start, &stop);
                s.spawn(move || {
                    stay_on_cpu(thread);
                    start.wait();
                    contender.spin(addresses, thread * 777, stop)
                })
            })
            .collect();
        start.wait();
        write(contender, setting, time);
        stop.store(true, Ordering::Relaxed);
        let results = readers
            .into_iter()
            .map(|reader| reader.join().expect("no lookup panics"));
        let (done, took) = results.fold((0, Duration::ZERO), |(n, t), (m, u)| (n + m, t + u));
        // Of who was not let in once it is known that it takes at least so long.
        took.as_nanos() as f64 / done.max(1) as f64
    })
}

/// The writer's part of a turn: on this thread, which has nothing else to do.
fn write(contender: &dyn Contender, setting: &Setting, time: Duration) {
    let begun = Instant::now();
    let mut done = 0_u32;
    while begun.elapsed() < time {
        match setting.writer {
            Writer::None => thread::sleep(time.saturating_sub(begun.elapsed())),
            Writer::Elsewhere => {
                // Late after a sleep, it catches up: the rate holds on average.
                let due = (begun.elapsed().as_secs_f64() * 10_000.0) as u32;
                while done < due && begun.elapsed() < time {
                    contender.replace(setting.regions - 1);
                    done += 1;
                }
                thread::sleep(Duration::from_micros(50));
            }
            Writer::Restless => contender.replace(setting.regions - 1),
            Writer::Same => {
                let index = if setting.same {
                    (setting.regions - 1) / 2
                } else {
                    done as usize % (setting.regions - 1)
                };
                contender.replace(index);
                done = done.wrapping_add(1);
            }
        }
    }
}
