//! Write sections, and who waits for them.

use std::collections::HashMap;

use super::super::model::{Sections, Wait};
use super::super::of_map;
use super::MachineVm;

impl MachineVm {
    pub(super) fn all_waits(&self) -> Vec<Wait> {
        let (memory, monitor) = (self.machine.memory().mm(), self.machine.sections());
        let mut waits = of_map::waits(memory, monitor);
        if waits.is_empty() {
            return waits;
        }
        let names = (0..).zip(self.machine.vcpus());
        let names: HashMap<_, _> = names
            .map(|(index, live)| (format!("vcpu {index}"), (index, live)))
            .collect();
        for wait in &mut waits {
            if let Some((index, live)) = names.get(&wait.thread) {
                wait.vcpu = Some(*index);
                wait.since_ns = Some(self.ago(live.now().since));
            }
        }
        waits
    }

    pub(super) fn all_sections(&self) -> Sections {
        let (memory, monitor) = (self.machine.memory().mm(), self.machine.sections());
        of_map::sections(memory, monitor, self.rate)
    }
}
