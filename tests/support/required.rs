//! What a host need not have, and what becomes of the tests that need it: ignored, with
//! the reason, unless a variable of the environment says that it is to be there.
use std::fmt::Display;

use libtest_mimic::Completion;

/// `/dev/kvm`.
pub(crate) const KVM: &str = "GRACEFAULT_REQUIRE_KVM";
/// A userfaultfd that sees KVM's faults.
pub(crate) const UFFD: &str = "GRACEFAULT_REQUIRE_UFFD";
/// A pool of huge pages of 2 MiB that can be made larger.
pub(crate) const HUGETLB: &str = "GRACEFAULT_REQUIRE_HUGETLB";
/// Transparent huge pages, for who asks for them.
pub(crate) const THP: &str = "GRACEFAULT_REQUIRE_THP";
/// The Cargo that the tests were built by.
pub(crate) const CARGO: &str = "GRACEFAULT_REQUIRE_CARGO";
/// tmux.
pub(crate) const TMUX: &str = "GRACEFAULT_REQUIRE_TMUX";

/// The end of a test for which `reason` says why there is not here what it needs:
/// ignored; or failed, if `variable` is 1.
pub(crate) fn left_out(variable: &str, reason: impl Display) -> Result<Completion, String> {
    match std::env::var(variable).as_deref() {
        Ok("1") => Err(format!("{variable}=1, but {reason}")),
        _ => Ok(Completion::ignored_with(reason)),
    }
}
