//! What to storm, as a user asks for it.

use std::path::PathBuf;
use std::time::Duration;

use super::aim::Aim;
use super::mix::Mix;
use super::preset::Preset;
use super::steps::Steps;
use crate::kvm::Seccomp;
use crate::mm::Strategy;

/// The most readers and writers together.
pub const MAX_THREADS: u32 = 1024;
/// The most regions without KVM.
pub const MAX_REGIONS: u32 = 1 << 20;

/// What a storm does. Checked by [`check`](Self::check), which names what to change.
#[derive(Clone, Debug)]
pub struct StressConfig {
    /// What the rest was derived from.
    pub preset: Preset,
    /// Readers: vCPUs, or threads in their place.
    pub readers: u32,
    /// Writers.
    pub writers: u32,
    /// Regions; with KVM, blocks.
    pub regions: u32,
    /// How long, at most.
    pub duration: Duration,
    /// Operations of all writers together, after which the storm ends.
    pub ops: Option<u64>,
    /// What all choices grow from.
    pub seed: u64,
    /// What the writers do.
    pub mix: Mix,
    /// How lookups wait and holds are kept.
    pub strategy: Strategy,
    /// The KVM device; `None` to storm the map alone.
    pub kvm: Option<PathBuf>,
    /// Whether the vCPUs' threads are confined.
    pub seccomp: Seccomp,
    /// How long each section is open besides, as one is that changes memslots. Without
    /// KVM only.
    pub work: Duration,
    /// Whether threads linger at the windows of the protocol.
    pub delays: bool,
    /// Lookups after which it ends, and how many of them have to have slept for a
    /// writer.
    pub wants: Option<(u64, u64)>,
    /// For tests of the storm: what to leave out.
    pub broken: Option<&'static super::Break>,
}

/// Why a storm cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StressConfigError {
    /// No reader or no writer, or too many.
    #[error(
        "{readers} readers and {writers} writers: choose at least one of each, and {MAX_THREADS} together at most (--vcpus, --writers)"
    )]
    Threads {
        /// Readers asked for.
        readers: u32,
        /// Writers asked for.
        writers: u32,
    },
    /// No region, or too many.
    #[error("{asked} regions: choose from {least} to {most} (--regions){why}")]
    Regions {
        /// What was asked for.
        asked: u32,
        /// The fewest there can be.
        least: u32,
        /// The most there can be.
        most: u32,
        /// Where the limit comes from.
        why: &'static str,
    },
    /// What the preset does the strategy cannot.
    #[error(
        "preset {preset} needs a strategy that {what}, which {strategy} says it cannot: choose {able} \
         (--lookup), or another preset"
    )]
    Cannot {
        /// The preset.
        preset: Preset,
        /// The strategy.
        strategy: Strategy,
        /// What it needs.
        what: &'static str,
        /// Which strategies can.
        able: String,
    },
    /// The preset needs the map alone, or vCPUs.
    #[error("preset {0} is about the map alone: add --no-kvm")]
    NoKvmOnly(Preset),
    /// An operation that only the map alone has.
    #[error("--mix {0}= is an operation without KVM: add --no-kvm, or leave it out")]
    MixNeedsNoKvm(&'static str),
    /// Nothing to do.
    #[error("a duration, or a number of operations, of 0: nothing would be done")]
    Nothing,
}

impl StressConfig {
    /// What a preset does, unless told otherwise.
    pub fn new(preset: Preset, kvm: Option<PathBuf>) -> Self {
        let with_kvm = kvm.is_some();
        Self {
            preset,
            readers: 2,
            writers: preset.writers(with_kvm),
            regions: preset.regions(with_kvm),
            duration: preset.duration(),
            ops: None,
            seed: 1,
            mix: preset.mix(with_kvm),
            strategy: Strategy::Native,
            kvm,
            seccomp: Seccomp::default(),
            work: preset.work(),
            delays: preset.delays(),
            wants: preset.wants(),
            broken: None,
        }
    }

    /// Whether it can be. What only the host knows is checked later.
    pub fn check(&self) -> Result<(), StressConfigError> {
        use StressConfigError as E;
        let Self {
            readers, writers, ..
        } = *self;
        if readers == 0 || writers == 0 || readers.saturating_add(writers) > MAX_THREADS {
            return Err(E::Threads { readers, writers });
        }
        let with_kvm = self.kvm.is_some();
        if with_kvm && !self.preset.runs_on_kvm() {
            return Err(E::NoKvmOnly(self.preset));
        }
        if with_kvm && let Some(op) = self.mix.first_without_kvm() {
            return Err(E::MixNeedsNoKvm(op.name()));
        }
        // Pairs of regions that stay and pairs that come and go take turns; each
        // writer has pairs of its own.
        let (least, why) = match (with_kvm, self.mix.wants_volatile()) {
            (true, _) => (1, ""),
            (false, true) => (
                writers.saturating_mul(4),
                ": each writer has two that stay, and two that come and go",
            ),
            (false, false) => (
                writers.saturating_mul(2).saturating_sub(1),
                ": each writer has two of its own",
            ),
        };
        if !(least..=MAX_REGIONS).contains(&self.regions) {
            return Err(E::Regions {
                asked: self.regions,
                least,
                most: MAX_REGIONS,
                why,
            });
        }
        if self.duration.is_zero() || self.ops == Some(0) || self.mix.is_empty() {
            return Err(E::Nothing);
        }
        self.check_strategy()
    }

    /// The same storm with the strategy `retry`, for that long.
    pub(super) fn compared(&self, duration: Duration) -> Self {
        Self {
            strategy: Strategy::Retry,
            duration,
            wants: None,
            ..self.clone()
        }
    }

    /// What readers do.
    pub(super) fn steps(&self) -> Steps {
        let broken = self.broken.and_then(|broken| broken.steps);
        broken.unwrap_or(self.preset.steps())
    }

    /// Where threads linger, if not everywhere now and then.
    pub(super) fn aims(&self) -> &'static [Aim] {
        self.broken.map_or(&[], |broken| broken.aims)
    }

    /// How many of the operations are a writer's.
    pub(super) fn ops_of(&self, writer: u32) -> Option<u64> {
        let writers = u64::from(self.writers);
        let ops = self.ops?;
        Some(ops / writers + u64::from(u64::from(writer) < ops % writers))
    }

    /// The command that does the same again.
    pub fn command(&self) -> String {
        let usual = Self::new(self.preset, self.kvm.clone());
        let mut words = format!("gracefault stress --preset {}", self.preset);
        let mut option = |differs: bool, name: &str, value: &dyn std::fmt::Display| {
            if differs {
                words += &format!(" --{name} {value}");
            }
        };
        option(self.readers != usual.readers, "vcpus", &self.readers);
        option(self.writers != usual.writers, "writers", &self.writers);
        option(self.regions != usual.regions, "regions", &self.regions);
        let millis = format!("{}ms", self.duration.as_millis());
        option(self.duration != usual.duration, "duration", &millis);
        if let Some(ops) = self.ops {
            option(true, "ops", &ops);
        }
        option(true, "seed", &self.seed);
        option(self.mix != usual.mix, "mix", &self.mix);
        option(self.strategy != usual.strategy, "lookup", &self.strategy);
        let micros = format!("{}us", self.work.as_micros());
        option(self.work != usual.work, "work", &micros);
        let delays = if self.delays { "on" } else { "off" };
        option(self.delays != usual.delays, "delays", &delays);
        option(self.seccomp != usual.seccomp, "seccomp", &self.seccomp);
        if let Some(broken) = self.broken {
            option(true, "break", &broken.name);
        }
        match &self.kvm {
            None => words += " --no-kvm",
            Some(path) if path.as_os_str() != "/dev/kvm" => {
                words += &format!(" --kvm-device {}", path.display());
            }
            Some(_) => {}
        }
        words
    }

    fn check_strategy(&self) -> Result<(), StressConfigError> {
        for (what, can) in self.preset.needs(self.kvm.is_some()) {
            if !can(self.strategy.capabilities()) {
                let able: Vec<_> = Strategy::ALL
                    .into_iter()
                    .filter(|s| can(s.capabilities()))
                    .map(Strategy::name)
                    .collect();
                return Err(StressConfigError::Cannot {
                    preset: self.preset,
                    strategy: self.strategy,
                    what,
                    able: able.join(" or "),
                });
            }
        }
        Ok(())
    }
}
