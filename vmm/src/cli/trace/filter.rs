//! The options that say which events.

use clap::Args;
use gracefault::trace::report::Filter;

/// Which events; all that are given must hold.
#[derive(Args, Debug)]
pub(super) struct FilterArgs {
    /// Of this vCPU alone.
    #[arg(long, value_name = "N")]
    vcpu: Option<u32>,
    /// At these addresses or ports: 0xd0000000, 0xd0000000-0xd0000fff, 0xd0000000+4K.
    #[arg(long, value_name = "RANGE", value_parser = Filter::parse_addr)]
    addr: Option<(u64, u64)>,
    /// Answered by this VMA: a name that the tables show (test, ram, "block 3",
    /// unmapped), or its first address.
    #[arg(long, value_name = "NAME|ADDR")]
    vma: Option<String>,
    /// That began in this time since the recording did: 1.5s-2s, 200ms-, -3s.
    #[arg(long, value_name = "FROM-TO", value_parser = Filter::parse_time, allow_hyphen_values = true)]
    time: Option<(u64, u64)>,
}

impl FilterArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            vcpu: self.vcpu,
            addr: self.addr,
            vma: self.vma.as_deref().map(Filter::parse_vma),
            time: self.time,
        }
    }
}
