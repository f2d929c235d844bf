//! `gracefault stress`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, ValueEnum, builder::PossibleValue};
use gracefault::api::{ApiServer, MachineVm, Socket, StormVm, Vm};
use gracefault::machine::StopRequest;
use gracefault::mm::Strategy;
use gracefault::stress::{
    self, Break, CAN_BREAK, Mix, OnBegin, Preset, StressConfig, StressError, StressReport,
    StressVerdict, Watched,
};

use super::args::{SeccompName, parse_time};
use super::progress::Line;
use super::run::stop_by_signal;
use super::{Failure, print_json, print_text, socket, stress_tables, tell};

#[derive(Args, Debug)]
pub(crate) struct StressArgs {
    /// A storm with a name, from which the other options differ.
    #[arg(long, default_value = "smoke")]
    pub(crate) preset: PresetName,
    /// vCPUs; without KVM, threads that resolve accesses in their place.
    #[arg(long, value_name = "N", alias = "readers")]
    pub(crate) vcpus: Option<u32>,
    /// Threads that change the map.
    #[arg(long, value_name = "N")]
    pub(crate) writers: Option<u32>,
    /// Regions; with KVM, blocks that are plugged and unplugged.
    #[arg(long, value_name = "N")]
    pub(crate) regions: Option<u32>,
    /// How long, at most.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) duration: Option<Duration>,
    /// Ends when the writers have done so many operations together.
    #[arg(long, value_name = "N")]
    pub(crate) ops: Option<u64>,
    /// What all choices grow from. The same seed, with --ops, makes each writer decide
    /// the same, in the same order.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// What writers do, in shares: plug, unplug, split, protect, and without KVM move,
    /// replace, border, call.
    #[arg(long, value_name = "OP=SHARE,...")]
    pub(crate) mix: Option<Mix>,
    /// How holds are kept, and how lookups wait.
    #[arg(long, value_name = "STRATEGY", default_value = "native")]
    pub(crate) lookup: Strategy,
    /// Storm the map alone: threads in place of vCPUs, and no /dev/kvm.
    #[arg(long)]
    pub(crate) no_kvm: bool,
    /// How long each section is open besides, as one is that changes memslots. Needs
    /// --no-kvm.
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "no_kvm")]
    pub(crate) work: Option<Duration>,
    /// Whether threads linger between the steps of the protocol, by the seed.
    #[arg(long)]
    pub(crate) delays: Option<Switch>,
    /// Serve an API at this Unix socket, which is made for its owner alone: to see the
    /// storm while it lasts (see `ctl`, `map` and vmm/docs/api.md).
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
    /// Whether a filter confines the vCPUs' threads, as for `run`. Without KVM there are
    /// none.
    #[arg(
        long,
        value_name = "on|log|off",
        default_value = "on",
        conflicts_with = "no_kvm"
    )]
    pub(crate) seccomp: SeccompName,
    /// Print one JSON object (see vmm/docs/stress.md) in place of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// The KVM device.
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub(crate) kvm_device: PathBuf,
    /// For tests of the storm: leave something out, or do it wrong. `list` shows what.
    #[arg(long = "break", value_name = "NAME", hide = !CAN_BREAK)]
    pub(crate) broken: Option<String>,
}

/// A preset, as clap knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PresetName(pub(crate) Preset);

impl ValueEnum for PresetName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [PresetName; Preset::ALL.len()] = {
            let mut all = [PresetName(Preset::Smoke); Preset::ALL.len()];
            let mut i = 0;
            while i < all.len() {
                all[i] = PresetName(Preset::ALL[i]);
                i += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

impl StressArgs {
    fn config(&self) -> Result<StressConfig, String> {
        let broken = match &self.broken {
            Some(_) if !CAN_BREAK => {
                let how = "build with RUSTFLAGS=\"--cfg gracefault_mutants\"";
                return Err(format!("--break is for a build of mutants: {how}"));
            }
            Some(name) => {
                let unknown =
                    || format!("--break {name}: there is none; `--break list` shows them");
                Some(Break::named(name).ok_or_else(unknown)?)
            }
            None => None,
        };
        // What shows the break best, where nothing else is asked for.
        let preset = match (broken, self.preset.0) {
            (Some(broken), Preset::Smoke) => broken.preset,
            (_, preset) => preset,
        };
        let no_kvm = self.no_kvm || broken.is_some_and(|broken| !broken.needs_kvm);
        let kvm = (!no_kvm).then(|| self.kvm_device.clone());
        let mut config = StressConfig::new(preset, kvm);
        config.seed = self.seed;
        config.seccomp = self.seccomp.into();
        config.strategy = self.lookup;
        config.ops = self.ops;
        if self.ops.is_some() {
            config.duration = Duration::from_secs(3600);
        }
        if let Some(broken) = broken {
            broken.choose(&mut config);
        }
        let set = |to: &mut u32, from: Option<u32>| *to = from.unwrap_or(*to);
        set(&mut config.readers, self.vcpus);
        set(&mut config.writers, self.writers);
        set(&mut config.regions, self.regions);
        config.duration = self.duration.unwrap_or(config.duration);
        config.mix = self.mix.unwrap_or(config.mix);
        config.work = self.work.unwrap_or(config.work);
        if let Some(delays) = self.delays {
            config.delays = delays == Switch::On;
        }
        Ok(config)
    }
}

pub(crate) fn stress(args: &StressArgs) -> Result<(), Failure> {
    if args.broken.as_deref() == Some("list") && CAN_BREAK {
        return print_text(&stress_tables::breaks());
    }
    let config = args.config().map_err(Failure::Cannot)?;
    let (stop, is_over) = stop_by_signal()?;
    let stop = Arc::new(stop);
    let mut socket = socket::bind(args.api_socket.as_deref())?;
    let line = Line::new(config.duration);
    let mut server = None;
    let mut serve = |watched: Watched| {
        if let Some(socket) = socket.take() {
            server = Some(serve(socket, watched, &config, &stop)?);
        }
        Ok(())
    };
    let begins: Option<OnBegin<'_>> = match &args.api_socket {
        Some(_) => Some(&mut serve),
        None => None,
    };
    let mut progress = |progress| line.show_storm(progress);
    let report = stress::run_watched(&config, &stop, &mut progress, begins);
    drop(server);
    drop(line);
    is_over.store(true, Ordering::Relaxed);
    let report = report.map_err(explain)?;
    match args.json {
        true => print_json(&report)?,
        false => print_text(&stress_tables::storm(&report))?,
    }
    conclude(&report, &stop)
}

/// Serves what there is to see of a storm.
fn serve(
    socket: Socket,
    watched: Watched,
    config: &StressConfig,
    stop: &Arc<StopRequest>,
) -> std::io::Result<ApiServer> {
    let vm: Arc<dyn Vm> = match watched {
        Watched::Map(storm) => Arc::new(StormVm::new(storm, stop.clone())),
        Watched::Machine(machine, ops) => {
            let counters = move || {
                let ops = ops.load(Ordering::Relaxed);
                [("operations".to_owned(), ops)].into()
            };
            let (preset, stop) = (config.preset.to_string(), stop.clone());
            Arc::new(MachineVm::of_a_storm(
                machine,
                preset,
                counters,
                move || stop.now(),
            ))
        }
    };
    ApiServer::start(socket, vm)
}

fn explain(error: StressError) -> Failure {
    match error.is_usage() {
        true => Failure::Cannot(error.to_string()),
        false => Failure::Broken(error.to_string()),
    }
}

fn conclude(report: &StressReport, stop: &StopRequest) -> Result<(), Failure> {
    if let Some(violation) = &report.violation {
        tell(violation);
        for line in &violation.history {
            tell(&format_args!("  {line}"));
        }
    }
    for covered in report.coverage.iter().filter(|c| !c.is_enough()) {
        if report.verdict == StressVerdict::Invalid {
            let (what, count, least) = (covered.what, covered.count, covered.least);
            tell(&format_args!(
                "INVALID: {what}: {count} of {least} at least; let it storm longer (--duration), or on \
                 fewer regions"
            ));
        }
    }
    match (report.verdict, stop.signal()) {
        (StressVerdict::Violated | StressVerdict::Invalid, _) => {
            tell(&format_args!(
                "seed {}; repeat with:\n  {}",
                report.seed, report.repeat
            ));
            Err(Failure::Found)
        }
        (_, Some(signal)) => Err(Failure::Signal(signal)),
        _ => Ok(()),
    }
}
