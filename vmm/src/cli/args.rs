//! What a user types.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gracefault::kvm::Seccomp;
use gracefault::machine::{MachineConfig, MemoryConfig, Sabotage};
use gracefault::trace::record::RecordOptions;
use gracefault_guest::abi::Workload;

use super::backing::{self, BackingKeys, MemoryArgs};
use super::ctl::CtlArgs;
use super::map::MapArgs;
use super::stress::StressArgs;
use super::top::TopArgs;
use super::trace::TraceArgs;
use super::units::parse_size;

/// Guest memory as VMAs: runs a tiny guest on KVM while memory comes and goes
/// under it, and shows its exits.
///
/// Without a command: the built-in guest on two vCPUs for five seconds, a thread
/// that plugs and unplugs RAM beside it, and a summary.
#[derive(Debug, Parser)]
#[command(name = "gracefault", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// What to tell on stderr.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log_level: LogLevel,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a guest to its end and show what happened.
    Run(RunArgs),
    /// Show what this host can and cannot do, and what to do about it.
    Check(CheckArgs),
    /// Readers and writers that race on purpose, with or without KVM, and oracles
    /// that fail if the map is wrong.
    Stress(StressArgs),
    /// Record the exits of a run, and see what they were and what they waited for.
    Trace(TraceArgs),
    /// Ask and steer a VM that runs with --api-socket.
    Ctl(CtlArgs),
    /// Show the map of a VM that runs with --api-socket: its VMAs, in order.
    Map(MapArgs),
    /// A running VM on the terminal, live: exits, vCPUs, who waits for whom, the map.
    Top(TopArgs),
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// A static ELF image to run in place of the built-in guest (see guest/README.md).
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Number of vCPUs.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Guest memory: size= RAM at the start, hotplug_size= the most to plug,
    /// block= bytes in a block. Sizes take K, M, G, T. Where it comes from: backing=
    /// anon, memfd, hugetlb, file:PATH, private-file:PATH, image:PATH or guest-memfd; hugepages=
    /// auto, thp or off, for hugetlb 2M or 1G; prefault= on or off; discard= on or off,
    /// for file:PATH (see vmm/docs/memory.md). lazy= on or off: whether KVM hears of a
    /// block only when the guest first touches it.
    #[arg(long, value_name = "KEY=VALUE,...", default_value = "size=64M,hotplug_size=128M,block=2M", value_parser = parse_memory)]
    pub(crate) memory: MemoryArgs,
    /// What the guest does.
    #[arg(long, default_value = "hotplug")]
    pub(crate) workload: WorkloadName,
    /// How long it does that before it is asked to end. 5s, or half the timeout if
    /// that is less. With --api-socket, and neither of the two: until a client shuts it
    /// down.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) duration: Option<Duration>,
    /// How long it all may take before it is stopped and has failed. 25s longer
    /// than the duration, if not given. More vCPUs than the host has CPUs are slow.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) timeout: Option<Duration>,
    /// Seed of the choices of what to plug and unplug.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Leave memory alone: no thread plugs and unplugs.
    #[arg(long)]
    pub(crate) no_churn: bool,
    /// Print one JSON object (see vmm/docs/run.md) in place of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// The KVM device.
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub(crate) kvm_device: PathBuf,
    /// Serve an API at this Unix socket, which is made for its owner alone: to see and
    /// steer the VM while it runs (see `ctl`, `map` and vmm/docs/api.md).
    #[arg(long, value_name = "PATH")]
    pub(crate) api_socket: Option<PathBuf>,
    /// Whether a filter confines the vCPUs' threads: a system call that is not allowed
    /// ends the process, or with log is logged by the kernel (see vmm/docs/seccomp.md).
    #[arg(long, value_name = "on|log|off", default_value = "on")]
    pub(crate) seccomp: SeccompName,
    /// Record each exit and each write section into this file (see `trace`).
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// How to record; `trace record` sets it.
    #[arg(skip)]
    pub(crate) record: RecordOptions,
    /// For tests of the run's own checks: falsify something.
    #[arg(long = "break", value_name = "WHAT", hide = true)]
    pub(crate) sabotage: Option<SabotageName>,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Print one JSON object in place of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// The KVM device.
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub(crate) kvm_device: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WorkloadName {
    /// Prints a line over the serial port, vCPU by vCPU.
    Hello,
    /// Reads and writes a device at every width.
    Mmio,
    /// Writes and verifies patterns in all of its memory.
    Memory,
    /// All of it, while blocks come and go.
    Hotplug,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SabotageName {
    FlipByte,
    MmioValue,
    UncountedExit,
    SystemCall,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SeccompName {
    On,
    Log,
    Off,
}

impl From<SeccompName> for Seccomp {
    fn from(name: SeccompName) -> Self {
        match name {
            SeccompName::On => Self::On,
            SeccompName::Log => Self::Log,
            SeccompName::Off => Self::Off,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

impl RunArgs {
    pub(crate) fn config(&self) -> Result<MachineConfig, String> {
        let (duration, timeout) = self.times()?;
        Ok(MachineConfig {
            kvm_device: self.kvm_device.clone(),
            vcpus: self.cpus,
            memory: self.memory.sizes,
            ram: self.memory.ram.clone(),
            kernel: self.kernel.clone(),
            workload: match self.workload {
                WorkloadName::Hello => Workload::Hello,
                WorkloadName::Mmio => Workload::Mmio,
                WorkloadName::Memory => Workload::Memory,
                WorkloadName::Hotplug => Workload::Hotplug,
            },
            duration,
            timeout,
            churn: !self.no_churn,
            dirty_log: false,
            seed: self.seed,
            space: Default::default(),
            seccomp: self.seccomp.into(),
            sabotage: self.sabotage.map(|sabotage| match sabotage {
                SabotageName::FlipByte => Sabotage::FlipByte,
                SabotageName::MmioValue => Sabotage::MmioValue,
                SabotageName::UncountedExit => Sabotage::UncountedExit,
                SabotageName::SystemCall => Sabotage::SystemCall,
            }),
        })
    }

    /// The duration and the timeout.
    fn times(&self) -> Result<(Duration, Duration), String> {
        let usual = MachineConfig::default();
        let spare = usual.timeout - usual.duration;
        match (self.duration, self.timeout) {
            (None, None) if self.api_socket.is_some() => Ok((Duration::MAX, spare)),
            (None, None) => Ok((usual.duration, usual.timeout)),
            (Some(duration), None) => Ok((duration, duration.saturating_add(spare))),
            (None, Some(timeout)) => Ok((usual.duration.min(timeout / 2), timeout)),
            (Some(duration), Some(timeout)) if duration < timeout => Ok((duration, timeout)),
            (Some(duration), Some(timeout)) => Err(format!(
                "--timeout {} ends the run before --duration {} is over: give it longer",
                humantime::format_duration(timeout),
                humantime::format_duration(duration)
            )),
        }
    }
}

pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 500ms, 5s or 2m"))
}

fn parse_memory(text: &str) -> Result<MemoryArgs, String> {
    let mut memory = MemoryConfig::default();
    let mut backing = BackingKeys::default();
    for pair in text.split(',') {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("'{pair}' is no KEY=VALUE"))?;
        let size = match key {
            "size" => &mut memory.size,
            "hotplug_size" => &mut memory.hotplug_size,
            "block" => &mut memory.block,
            "lazy" => {
                memory.lazy = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(format!("lazy: '{value}' is neither on nor off")),
                };
                continue;
            }
            _ if backing.set(key, value)? => continue,
            _ => {
                let others = backing::KEYS;
                return Err(format!(
                    "'{key}' is none of size, hotplug_size, block, lazy, {others}"
                ));
            }
        };
        *size = parse_size(value).map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(MemoryArgs {
        sizes: memory,
        ram: backing.finish()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_argument_at_all_is_a_run() {
        let cli = Cli::try_parse_from(["gracefault"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.memory, MemoryArgs::default());
        let (config, usual) = (cli.run.config().unwrap(), MachineConfig::default());
        assert_eq!(config.vcpus, usual.vcpus);
        assert_eq!(
            (config.duration, config.timeout),
            (usual.duration, usual.timeout)
        );
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_timeout_is_longer_than_the_duration() {
        let times = |args: &[&str]| {
            let args = [&["gracefault"], args].concat();
            let config = Cli::try_parse_from(args).unwrap().run.config()?;
            Ok::<_, String>((config.duration.as_secs_f64(), config.timeout.as_secs_f64()))
        };
        assert_eq!(times(&["--duration", "60s"]), Ok((60.0, 85.0)));
        let socket = ["--api-socket", "s"];
        let forever = Duration::MAX.as_secs_f64();
        assert_eq!(times(&socket), Ok((forever, 25.0)));
        assert_eq!(
            times(&[&socket[..], &["--timeout", "3s"]].concat()),
            Ok((1.5, 3.0))
        );
        assert_eq!(times(&["--timeout", "3s"]), Ok((1.5, 3.0)));
        assert_eq!(times(&["--timeout", "60s"]), Ok((5.0, 60.0)));
        let error = times(&["--timeout", "3s", "--duration", "3s"]).unwrap_err();
        assert!(error.contains("--timeout 3s"), "{error}");
    }

    #[test]
    fn memory_takes_units_in_any_order() {
        let memory = parse_memory("block=4K,size=1G").unwrap().sizes;
        assert_eq!((memory.block, memory.size), (4096, 1 << 30));
        assert_eq!(memory.hotplug_size, MemoryConfig::default().hotplug_size);
        assert!(!memory.lazy && parse_memory("lazy=on,size=1G").unwrap().sizes.lazy);
        for bad in [
            "lazy",
            "lazy=1",
            "",
            "size",
            "size=",
            "size=x",
            "sizes=1G",
            "size=1G,,block=4K",
            "size=999999999T",
        ] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }
}
