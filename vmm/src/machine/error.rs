//! Why a machine could not be made or run.

use std::io;
use std::path::PathBuf;

use super::ConfigError;
use super::elf::ElfError;
use crate::kvm::boot::BootError;
use crate::kvm::{
    GuestMemfdError, OpenError, SeccompError, SlotError, ThreadError, VcpuError, VmError,
};
use crate::memory::RamError;
use crate::memory::sigbus::Fault;
use crate::mm::WriteError;

/// Why a machine could not be made or run. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// KVM made no VM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The vCPUs' threads cannot be confined.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// KVM made no vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The host has no RAM as asked for.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// KVM made no file for RAM.
    #[error(transparent)]
    GuestMemfd(#[from] GuestMemfdError),
    /// The host gave boot RAM and then had no page for it.
    #[error("boot RAM: {0}")]
    Fault(#[from] Fault),
    /// KVM took no memory.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The start state could not be built.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A thread could not be started.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The host gave no memory.
    #[error(
        "the host gave no memory for {len} bytes of guest RAM: {source}; try a smaller --memory size="
    )]
    NoMemory {
        /// Bytes.
        len: u64,
        /// The system's error.
        source: io::Error,
    },
    /// A file with a guest could not be read.
    #[error("the guest image {}: {source}", path.display())]
    ReadImage {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The guest's file is no image that can run.
    #[error("the guest image {name}: {source}")]
    Image {
        /// The file, or "built-in".
        name: String,
        /// What is wrong with it.
        source: ElfError,
    },
    /// The map refused a region: two devices or memories overlap.
    #[error("laying out the guest's address space: {0}")]
    Map(#[from] WriteError),
    /// The thread that writes the guest's console could not be started.
    #[error("no thread for the guest's console could be started: {0}")]
    Console(io::Error),
    /// The signal handler for faults on guest memory could not be installed.
    #[error("no handler for SIGBUS could be installed: {0}")]
    Sigbus(io::Error),
}

impl MachineError {
    /// Whether what was asked for is wrong, or this host cannot do it; as opposed
    /// to something that went wrong on the way.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Thread(_) | Self::Console(_) | Self::Sigbus(_))
    }
}
