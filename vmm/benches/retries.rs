//! How often a waiting lookup begins again, and how long it waits: the lookup as it was
//! posted (`retry`), its author's variant (`pin`) and ours, beside a writer that rests
//! more or less, on the same VMA or on another.
//!
//! ```text
//! cargo bench --bench retries [-- --quick] [--plots]
//! ```
//!
//! The strategies take turns of some milliseconds in each setting, round after round.
//! Writes `target/gracefault/retries.json`, and with `--plots` the plots that
//! `docs/retries.md` shows.

mod support;

use std::hint;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::mm::{
    AddrRange, AddressSpace, LookupPath, Payload, Strategy, VmFlags, WaitOptions,
};
use gracefault::stress::Spread;
use plotters::prelude::*;
use serde_json::{Value, json};
use support::{is_quick, write_json};

const STRATEGIES: [Strategy; 3] = [Strategy::Native, Strategy::Retry, Strategy::Pin];

/// How long a section is open: as long as one that changes a memslot.
const WORK: Duration = Duration::from_micros(20);
/// From one lookup to the next, of all readers together. A reader sleeps meanwhile, as a
/// vCPU is in its guest, so that many of them fit on few processors.
const BETWEEN: Duration = Duration::from_micros(30);

struct Effort {
    readers: &'static [usize],
    /// The share of its time that the writer has a section open, in percent.
    duties: &'static [u32],
    rounds: usize,
    turn: Duration,
}

const FULL: Effort = Effort {
    readers: &[1, 2, 8, 64],
    duties: &[0, 10, 25, 50, 75, 90, 100],
    rounds: 4,
    turn: Duration::from_millis(100),
};
const QUICK: Effort = Effort {
    readers: &[1, 4],
    duties: &[0, 50, 100],
    rounds: 3,
    turn: Duration::from_millis(20),
};

#[derive(Clone, PartialEq)]
struct Memory;
impl Payload for Memory {}

/// What the lookups of one strategy met in one setting.
#[derive(Default)]
struct Met {
    /// Nanoseconds slept, by lookup; 0 for most.
    waits: Spread,
    /// Sections slept for, by lookup.
    sleeps: Spread,
    sections: u64,
}

struct Point {
    same: bool,
    readers: usize,
    duty: u32,
    met: Vec<Met>,
}

fn main() {
    let effort = if is_quick() { QUICK } else { FULL };
    let mut points = Vec::new();
    for same in [true, false] {
        for &readers in effort.readers {
            for &duty in effort.duties {
                let mut met: Vec<_> = STRATEGIES.iter().map(|_| Met::default()).collect();
                for _ in 0..effort.rounds {
                    for (strategy, met) in STRATEGIES.into_iter().zip(&mut met) {
                        turn(strategy, same, readers, duty, effort.turn, met);
                    }
                }
                let point = Point {
                    same,
                    readers,
                    duty,
                    met,
                };
                point.print();
                points.push(point);
            }
        }
    }
    if std::env::args().any(|arg| arg == "--plots") {
        plots(&points, &Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"))
            .expect("the plots can be written");
    }
    write_json("retries", points.iter().flat_map(Point::json).collect());
}

/// Lookups of one VMA by `readers` threads for `time`, beside a writer that is at this
/// VMA, or at the one next to it.
fn turn(strategy: Strategy, same: bool, readers: usize, duty: u32, time: Duration, met: &mut Met) {
    let all = AddrRange::new(0, 1 << 20).expect("not empty");
    let mm = AddressSpace::with_strategy("bench", all, strategy);
    let [here, there] = [0, 0x4000].map(|start| AddrRange::new(start, 0x1000).expect("not empty"));
    for range in [here, there] {
        mm.map(range, VmFlags::READ, 0, Memory).expect("room");
    }
    let written = if same { here } else { there };
    let (over, sections) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Barrier::new(readers + 2);
    thread::scope(|scope| {
        let read = || {
            let mut mine = Met::default();
            sleep_exactly();
            start.wait();
            while !over.load(Ordering::Relaxed) {
                let mut path = LookupPath::default();
                let found = mm.lock_vma_under_rcu_wait_with(8, WaitOptions::default(), &mut path);
                drop(found.expect("no deadline").expect("always mapped"));
                let slept = path.waited.map_or(Duration::ZERO, |waited| waited.time);
                mine.waits.record_time(slept);
                // The posted lookup sleeps once for each time that it begins again.
                let once = u64::from(path.waited.is_some());
                mine.sleeps.record(once.max(path.retries.into()));
                thread::sleep(BETWEEN * readers as u32);
            }
            mine
        };
        let threads: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
        scope.spawn(|| {
            start.wait();
            let mut flags = [VmFlags::READ, VmFlags::READ | VmFlags::WRITE]
                .into_iter()
                .cycle();
            while duty > 0 && !over.load(Ordering::Relaxed) {
                let mut section = mm.mmap_write_lock().expect("nothing held");
                let flags = flags.next().expect("endless");
                section.protect(written, flags).expect("mapped");
                let drained = section.lock().expect("nothing held");
                let since = Instant::now();
                spin(WORK);
                drained.publish();
                sections.fetch_add(1, Ordering::Relaxed);
                let open = since.elapsed();
                if duty < 100 {
                    spin(open * (100 - duty) / duty);
                }
            }
        });
        start.wait();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        for reader in threads {
            let mine = reader.join().expect("a reader does not panic");
            met.waits.add(&mine.waits);
            met.sleeps.add(&mine.sleeps);
        }
    });
    met.sections += sections.into_inner();
}

/// From now on a sleep of the calling thread lasts a microsecond too long at most, as
/// far as that depends on its wish.
fn sleep_exactly() {
    let slack: libc::c_ulong = 1_000;
    // SAFETY: changes nothing but when this thread is woken.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack) };
}

fn spin(time: Duration) {
    let since = Instant::now();
    while since.elapsed() < time {
        hint::spin_loop();
    }
}

impl Point {
    fn place(&self) -> &'static str {
        if self.same { "same" } else { "elsewhere" }
    }

    fn print(&self) {
        let (place, readers, duty) = (self.place(), self.readers, self.duty);
        println!("\nwriter {place}, open {duty} % of the time, {readers} readers");
        println!(
            "  {:8} {:>10} {:>9} {:>8} {:>10} {:>10} {:>10} {:>10} {:>7}",
            "", "lookups", "sections", "slept", "p50", "p99", "p99.9", "max", "retries"
        );
        for (strategy, met) in STRATEGIES.iter().zip(&self.met) {
            let (waits, sleeps) = (met.waits.figures(), met.sleeps.figures());
            let micros = |ns: u64| format!("{:.1} µs", ns as f64 / 1e3);
            println!(
                "  {strategy:8} {:>10} {:>9} {:>6.2} % {:>10} {:>10} {:>10} {:>10} {:>7}",
                waits.count,
                met.sections,
                100.0 * met.share_that_slept(),
                micros(waits.p50),
                micros(waits.p99),
                micros(waits.p999),
                micros(waits.max),
                match strategy {
                    Strategy::Retry => sleeps.max,
                    _ => 0,
                },
            );
        }
    }

    fn json(&self) -> Vec<Value> {
        let each = STRATEGIES.iter().zip(&self.met);
        each.map(|(strategy, met)| {
            json!({
                "strategy": strategy.name(), "writer": self.place(),
                "readers": self.readers, "duty_percent": self.duty,
                "sections": met.sections, "share_that_slept": met.share_that_slept(),
                "wait_ns": met.waits.figures(), "sections_slept": met.sleeps.figures(),
                "sections_slept_buckets": met.sleeps.buckets(1),
            })
        })
        .collect()
    }
}

impl Met {
    fn share_that_slept(&self) -> f64 {
        let all = self.sleeps.figures().count.max(1);
        let none = self.sleeps.buckets(1).first().map_or(0, |bar| bar.count);
        1.0 - none as f64 / all as f64
    }
}

/// A line of a plot.
struct Line {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

const COLORS: [RGBColor; 3] = [
    RGBColor(0x1b, 0x7f, 0x5c),
    RGBColor(0xc4, 0x3c, 0x2c),
    RGBColor(0x2f, 0x5f, 0xb0),
];

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn plots(points: &[Point], folder: &Path) -> Drawn {
    type Quantile = fn(&Met) -> u64;
    let quantiles: [(&str, Quantile); 4] = [
        ("p50", |met| met.waits.figures().p50),
        ("p99", |met| met.waits.figures().p99),
        ("p99.9", |met| met.waits.figures().p999),
        ("max", |met| met.waits.figures().max),
    ];
    let few = 2;
    let micros = |ns: u64| (ns as f64 / 1e3).max(0.01);
    for (same, place) in [(true, "same"), (false, "elsewhere")] {
        let at = |point: &&Point| point.same == same;
        // Nobody waits for a writer elsewhere: one plot says all of it.
        let from = if same { 0 } else { quantiles.len() - 1 };
        for (name, quantile) in &quantiles[from..] {
            let lines = lines(
                points.iter().filter(at).filter(|p| p.readers == few),
                |p, met| (f64::from(p.duty), micros(quantile(met))),
            );
            let title = format!("{name} of the wait, {few} readers, writer {place}");
            let file = folder.join(format!("retries-{place}-{}.svg", name.replace('.', "")));
            let labels = ["writer's section open, % of the time", "µs"];
            draw(&file, &title, labels, &lines, false)?;
        }
    }
    let busy = points.iter().filter(|p| p.same && p.duty == 100);
    let max = lines(busy.clone(), |p, met| {
        (p.readers as f64, micros(met.waits.figures().max))
    });
    let title = "longest wait, writer without rest";
    let file = folder.join("retries-same-readers.svg");
    draw(&file, title, ["readers", "µs"], &max, true)?;
    let sleeps = lines(busy, |p, met| {
        (p.readers as f64, met.sleeps.figures().max.max(1) as f64)
    });
    let title = "most sections that one lookup slept for, writer without rest";
    let file = folder.join("retries-sections.svg");
    draw(&file, title, ["readers", "sections"], &sleeps, true)
}

/// A line for each strategy.
fn lines<'p>(
    points: impl Iterator<Item = &'p Point>,
    at: impl Fn(&Point, &Met) -> (f64, f64),
) -> Vec<Line> {
    let mut lines: Vec<_> = STRATEGIES
        .iter()
        .zip(COLORS)
        .map(|(strategy, color)| Line {
            name: strategy.name().to_owned(),
            color,
            points: Vec::new(),
        })
        .collect();
    for point in points {
        for (line, met) in lines.iter_mut().zip(&point.met) {
            line.points.push(at(point, met));
        }
    }
    lines
}

/// Draws lines over a logarithmic y axis, and x axis if `log_x`.
fn draw(file: &Path, title: &str, labels: [&str; 2], lines: &[Line], log_x: bool) -> Drawn {
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(1.0, f64::max);
    let least_y = all().map(|point| point.1).fold(f64::MAX, f64::min);
    let (right, top) = (most(|p| p.0), most(|p| p.1) * 2.0);
    let root = SVGBackend::new(file, (640, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut builder = ChartBuilder::on(&root);
    builder
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70);
    let y = (least_y / 2.0..top).log_scale();
    // The two kinds of axis are two types.
    macro_rules! fill {
        ($chart:expr) => {{
            let mut chart = $chart;
            chart
                .configure_mesh()
                .x_desc(labels[0])
                .y_desc(labels[1])
                .light_line_style(WHITE)
                .draw()?;
            for line in lines {
                let color = line.color;
                let points = || line.points.iter().copied();
                chart
                    .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                    .label(&line.name)
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2))
                    });
                chart.draw_series(points().map(|at| Circle::new(at, 3, color.filled())))?;
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }};
    }
    match log_x {
        true => fill!(builder.build_cartesian_2d((1.0..right).log_scale(), y)?),
        false => fill!(builder.build_cartesian_2d(0.0..right, y)?),
    }
    root.present()?;
    Ok(())
}
