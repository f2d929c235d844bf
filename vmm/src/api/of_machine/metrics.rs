//! A machine as OpenMetrics text: the names are those of `trace export`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::MachineVm;
use crate::trace::ExitKind;
use crate::trace::export::openmetrics::{Histogram, escaped, family};

impl MachineVm {
    pub(super) fn openmetrics(&self) -> String {
        let mut text = String::new();
        self.exit_metrics(&mut text);
        let name = "gracefault_wait_seconds";
        let help = "Asleep for the end of a write section.";
        family(&mut text, name, help, "histogram", Some("seconds"));
        for (index, live) in (0..).zip(self.machine.vcpus()) {
            let index: u32 = index;
            let mut histogram = Histogram::default();
            histogram.add_live(live.waits());
            histogram.print(&mut text, name, &format!("vcpu=\"{index}\""));
        }
        let name = "gracefault_guest_seconds";
        let help = "Time in KVM_RUN.";
        family(&mut text, name, help, "counter", Some("seconds"));
        for vcpu in super::Vm::vcpus(self) {
            let (index, seconds) = (vcpu.index, vcpu.guest_ns as f64 / 1e9);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}_total{{vcpu=\"{index}\"}} {seconds:?}");
        }
        let info = super::Vm::info(self);
        let name = "gracefault_memory_bytes";
        let help = "The guest's memory.";
        family(&mut text, name, help, "gauge", Some("bytes"));
        let memory = info.memory;
        for (what, bytes) in [
            ("boot", memory.boot),
            ("total", memory.total),
            ("requested", memory.requested),
            ("plugged", memory.plugged),
        ] {
            let _ = writeln!(text, "{name}{{what=\"{what}\"}} {bytes}");
        }
        counters(&mut text, &super::Vm::counters(self));
        text
    }

    fn exit_metrics(&self, text: &mut String) {
        let name = "gracefault_exit_seconds";
        let help = "From KVM_RUN returning to its next call.";
        family(text, name, help, "histogram", Some("seconds"));
        for (index, live) in (0..).zip(self.machine.vcpus()) {
            let index: u32 = index;
            let mut exits: BTreeMap<(ExitKind, String), Histogram> = BTreeMap::new();
            for (key, times) in live.exits() {
                let by = self.answered_by(&key);
                exits.entry((key.kind, by)).or_default().add_live(times);
            }
            for ((kind, by), histogram) in &exits {
                let by = escaped(by);
                let labels = format!("vcpu=\"{index}\",kind=\"{kind}\",by=\"{by}\"");
                histogram.print(text, name, &labels);
            }
        }
    }
}

/// Counters, one family a group.
pub(in super::super) fn counters(text: &mut String, counters: &super::Counters) {
    for (group, counts) in counters {
        let name = format!("gracefault_{group}");
        let help = "Counters, as in vm.counters.";
        family(text, &name, help, "counter", None);
        for (what, count) in counts {
            let _ = writeln!(text, "{name}_total{{what=\"{what}\"}} {count}");
        }
    }
}
