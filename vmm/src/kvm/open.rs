//! Opening `/dev/kvm`: all that can be wrong with it, told apart.
use std::fs::{File, OpenOptions};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::Path;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};

use super::caps::{CAPABILITIES, Capability, Found, Need};
use super::ioctls::checked;
pub use super::open_error::OpenError;
use crate::memory::faults::{self, Step};

/// An open KVM device whose required capabilities are all there.
#[derive(Debug)]
pub struct Kvm {
    pub(super) fd: kvm_ioctls::Kvm,
    pub(super) cpuid: CpuId,
}

impl Kvm {
    /// Opens `/dev/kvm` and checks every required capability.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open() -> Result<Self, OpenError> {
        Self::open_path(Path::new("/dev/kvm"))
    }

    /// As [`Kvm::open`], from another path.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_path(path: &Path) -> Result<Self, OpenError> {
        let fd = Self::open_unchecked(path)?;
        let missing = CAPABILITIES.iter().find(|c| {
            c.need == Need::Required && !c.is_met_by(fd.check_extension_raw(c.number.into()))
        });
        if let Some(capability) = missing {
            return Err(OpenError::MissingCapability { capability });
        }
        let cpuid = || fd.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let cpuid = checked(Step::SupportedCpuid, cpuid)
            .map_err(|e| OpenError::Cpuid { source: e.into() })?;
        Ok(Self { fd, cpuid })
    }

    /// What the KVM at `path` answers for each of [`CAPABILITIES`], also when
    /// a required one is missing: for `gracefault check`.
    ///
    /// # Errors
    /// See [`OpenError`]; never [`OpenError::MissingCapability`].
    pub fn probe(path: &Path) -> Result<Vec<Found>, OpenError> {
        Ok(answers(&Self::open_unchecked(path)?))
    }

    /// What this KVM answers for each of [`CAPABILITIES`], in their order.
    pub fn capabilities(&self) -> Vec<Found> {
        answers(&self.fd)
    }

    /// How many memslots a VM can have (`KVM_CAP_NR_MEMSLOTS`).
    pub fn max_slots(&self) -> u32 {
        self.fd.get_nr_memslots() as u32
    }

    /// How many vCPUs a VM can have (`KVM_CAP_MAX_VCPUS`).
    pub fn max_vcpus(&self) -> u32 {
        self.fd.get_max_vcpus() as u32
    }

    /// How many vCPUs KVM recommends at most: the host's CPUs, as a rule.
    pub fn recommended_vcpus(&self) -> u32 {
        self.fd.get_nr_vcpus() as u32
    }

    /// Bits in a guest-physical address on this host (CPUID 0x80000008), 36
    /// where the processor does not say.
    pub fn physical_bits(&self) -> u32 {
        let leaf = self
            .cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == 0x8000_0008);
        leaf.map_or(36, |e| (e.eax & 0xff).clamp(32, 52))
    }

    fn open_unchecked(path: &Path) -> Result<kvm_ioctls::Kvm, OpenError> {
        let file = open_file(path)?;
        // SAFETY: the descriptor was just opened, is valid, and its ownership
        // passes to the new value.
        let fd = unsafe { kvm_ioctls::Kvm::from_raw_fd(file.into_raw_fd()) };
        match fd.get_api_version() {
            v if v == KVM_API_VERSION as i32 => Ok(fd),
            v if v < 0 => Err(OpenError::NotKvm { path: path.into() }),
            found => Err(OpenError::ApiVersion {
                path: path.into(),
                found,
            }),
        }
    }
}

fn open_file(path: &Path) -> Result<File, OpenError> {
    // std opens with O_CLOEXEC.
    faults::check(Step::OpenKvm)
        .and_then(|()| OpenOptions::new().read(true).write(true).open(path))
        .map_err(|source| {
            let path = path.to_path_buf();
            match source.raw_os_error() {
                Some(libc::ENOENT) => OpenError::Missing { path },
                Some(libc::EACCES | libc::EPERM) => OpenError::PermissionDenied { path },
                Some(libc::ENODEV | libc::ENXIO) => OpenError::NoDriver { path },
                _ => OpenError::Open { path, source },
            }
        })
}

fn answers(fd: &kvm_ioctls::Kvm) -> Vec<Found> {
    let answer = |capability: &'static Capability| Found {
        capability,
        answer: fd.check_extension_raw(capability.number.into()),
    };
    CAPABILITIES.iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &Path) -> String {
        Kvm::open_path(path).unwrap_err().to_string()
    }

    #[test]
    fn no_such_file_says_how_to_get_one() {
        let text = message(Path::new("/nonexistent/kvm"));
        assert!(text.contains("/nonexistent/kvm does not exist"), "{text}");
        assert!(text.contains("modprobe kvm_intel"), "{text}");
        assert!(text.ends_with("see `gracefault check`"), "{text}");
    }

    #[test]
    fn another_device_or_a_plain_file_is_not_kvm() {
        let plain = tempfile::NamedTempFile::new().unwrap();
        for path in [Path::new("/dev/null"), plain.path()] {
            let text = message(path);
            assert!(text.contains("is not a KVM device"), "{text}");
            assert!(text.ends_with("see `gracefault check`"), "{text}");
        }
        assert!(matches!(
            Kvm::probe(plain.path()),
            Err(OpenError::NotKvm { .. })
        ));
    }

    #[test]
    fn a_directory_is_some_other_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Kvm::open_path(dir.path()),
            Err(OpenError::Open { .. })
        ));
    }
}
