//! What a user types.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gracefault::machine::{MachineConfig, MemoryConfig, Sabotage};
use gracefault_guest::abi::Workload;

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
    /// block= bytes in a block. Sizes take K, M, G, T.
    #[arg(long, value_name = "KEY=SIZE,...", default_value = "size=64M,hotplug_size=128M,block=2M", value_parser = parse_memory)]
    pub(crate) memory: MemoryConfig,
    /// What the guest does.
    #[arg(long, default_value = "hotplug")]
    pub(crate) workload: WorkloadName,
    /// How long it does that before it is asked to end.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    pub(crate) duration: Duration,
    /// How long it all may take before it is stopped and has failed. Longer than
    /// the duration.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
    pub(crate) timeout: Duration,
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
    pub(crate) fn config(&self) -> MachineConfig {
        MachineConfig {
            kvm_device: self.kvm_device.clone(),
            vcpus: self.cpus,
            memory: self.memory,
            kernel: self.kernel.clone(),
            workload: match self.workload {
                WorkloadName::Hello => Workload::Hello,
                WorkloadName::Mmio => Workload::Mmio,
                WorkloadName::Memory => Workload::Memory,
                WorkloadName::Hotplug => Workload::Hotplug,
            },
            duration: self.duration,
            timeout: self.timeout,
            churn: !self.no_churn,
            seed: self.seed,
            sabotage: self.sabotage.map(|sabotage| match sabotage {
                SabotageName::FlipByte => Sabotage::FlipByte,
                SabotageName::MmioValue => Sabotage::MmioValue,
                SabotageName::UncountedExit => Sabotage::UncountedExit,
            }),
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 500ms, 5s or 2m"))
}

fn parse_memory(text: &str) -> Result<MemoryConfig, String> {
    let mut memory = MemoryConfig::default();
    for pair in text.split(',') {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("'{pair}' is no KEY=SIZE"))?;
        let size = match key {
            "size" => &mut memory.size,
            "hotplug_size" => &mut memory.hotplug_size,
            "block" => &mut memory.block,
            _ => return Err(format!("'{key}' is none of size, hotplug_size, block")),
        };
        *size = parse_size(value).map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_argument_at_all_is_a_run() {
        let cli = Cli::try_parse_from(["gracefault"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.memory, MemoryConfig::default());
        assert_eq!(cli.run.config().vcpus, MachineConfig::default().vcpus);
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn memory_takes_units_in_any_order() {
        let memory = parse_memory("block=4K,size=1G").unwrap();
        assert_eq!((memory.block, memory.size), (4096, 1 << 30));
        assert_eq!(memory.hotplug_size, MemoryConfig::default().hotplug_size);
        for bad in [
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
