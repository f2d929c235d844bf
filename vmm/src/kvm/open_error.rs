//! Why `/dev/kvm` cannot be used, told apart because each cause has another
//! remedy.
use std::io;
use std::path::PathBuf;

use kvm_bindings::KVM_API_VERSION;

use super::caps::Capability;

/// Why KVM cannot be used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    #[error(
        "{path} does not exist: enable virtualization (VT-x or AMD-V) in the firmware, or nested virtualization if this is a virtual machine, then `modprobe kvm_intel` or `modprobe kvm_amd`; in a container pass the device in, e.g. `--device {path}`; see `gracefault check`"
    )]
    Missing {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file may not be opened.
    #[error(
        "permission to open {path} was denied: add yourself to its group, `sudo usermod -aG kvm $USER`, and log in again; in a container allow the device; see `gracefault check`"
    )]
    PermissionDenied {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The device file is there, but no driver behind it.
    #[error(
        "{path} is there but no driver answers: `modprobe kvm_intel` or `modprobe kvm_amd`, and read `dmesg | grep -i kvm` if that fails; see `gracefault check`"
    )]
    NoDriver {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Opening failed in some other way.
    #[error("{path} cannot be opened: {source}; see `gracefault check`")]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file opened, but is not KVM.
    #[error(
        "{path} is not a KVM device: name the one to use, usually /dev/kvm; see `gracefault check`"
    )]
    NotKvm {
        /// What was opened.
        path: PathBuf,
    },
    /// KVM of another age.
    #[error(
        "{path} speaks KVM API version {found}, and only version {KVM_API_VERSION} is stable: run Linux 2.6.22 or later; see `gracefault check`"
    )]
    ApiVersion {
        /// What was opened.
        path: PathBuf,
        /// The version it reports.
        found: i32,
    },
    /// A required capability is missing.
    #[error(
        "this host's KVM lacks KVM_CAP_{} ({}), needed for {}: {}; see `gracefault check`",
        .capability.name, .capability.number, .capability.purpose, .capability.fix
    )]
    MissingCapability {
        /// The one that is missing; the first, if several are.
        capability: &'static Capability,
    },
    /// KVM would not tell which CPU features it supports.
    #[error(
        "KVM did not tell the CPU features it supports (KVM_GET_SUPPORTED_CPUID): {source}; see `gracefault check`"
    )]
    Cpuid {
        /// The system's error.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::CAPABILITIES;

    #[test]
    fn the_other_messages_name_the_fix() {
        let path = PathBuf::from("/dev/kvm");
        let capability = CAPABILITIES
            .iter()
            .find(|c| c.name == "IMMEDIATE_EXIT")
            .unwrap();
        for (error, words) in [
            (
                OpenError::PermissionDenied { path: path.clone() },
                "usermod -aG kvm",
            ),
            (OpenError::NoDriver { path: path.clone() }, "dmesg"),
            (OpenError::ApiVersion { path, found: 11 }, "version 11"),
            (
                OpenError::MissingCapability { capability },
                "KVM_CAP_IMMEDIATE_EXIT (136)",
            ),
        ] {
            let text = error.to_string();
            assert!(text.contains(words), "{text}");
            assert!(text.ends_with("see `gracefault check`"), "{text}");
        }
    }
}
