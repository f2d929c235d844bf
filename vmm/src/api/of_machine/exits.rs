//! The exits of all vCPUs, by kind and address.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::super::figures::Sum;
use super::super::model::{ExitRow, Exits};
use super::{MachineVm, exit_kind};
use crate::memory::Served;
use crate::trace::live::LiveTimes;
use crate::trace::{ExitKey, ExitKind};

impl MachineVm {
    pub(super) fn exit_rows(&self, limit: usize) -> Exits {
        let mut rows: HashMap<ExitKey, (u64, Vec<&LiveTimes>)> = HashMap::new();
        for live in self.machine.vcpus() {
            for (key, times) in live.exits() {
                let (total, parts) = rows.entry(key).or_default();
                *total += times.total_ns();
                parts.push(times);
            }
        }
        let all = Sum::of(rows.values().flat_map(|(_, parts)| parts.iter().copied()));
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(key, (total, _))| (Reverse(*total), *key));
        let left_out = rows.len().saturating_sub(limit) as u64;
        rows.truncate(limit);
        Exits {
            rows: rows
                .into_iter()
                .map(|(key, (_, parts))| ExitRow {
                    key: key.to_string(),
                    kind: exit_kind(key.kind),
                    addr: key.address(),
                    device: self.answered_by(&key),
                    times: Sum::of(parts).histogram(),
                })
                .collect(),
            left_out,
            all: all.histogram(),
        }
    }

    /// Who answers there.
    pub(super) fn answered_by(&self, key: &ExitKey) -> String {
        let is_port = matches!(key.kind, ExitKind::PioIn | ExitKind::PioOut);
        let device = || {
            self.machine
                .device_at(is_port, key.addr)
                .unwrap_or_default()
        };
        match key.served {
            None => String::new(),
            Some(Served::Unmapped) => "unmapped".to_owned(),
            Some(Served::RomWrite) => "rom".to_owned(),
            Some(Served::Memory) => "ram".to_owned(),
            Some(Served::Device) => device().to_owned(),
            Some(Served::DeviceFailed) => format!("{} (failed)", device()),
        }
    }

    /// How many exits memory or a device has answered, by address, in order.
    pub(super) fn hits(&self) -> Vec<(u64, u64)> {
        let mut hits = Vec::new();
        for (key, times) in self.machine.vcpus().iter().flat_map(|live| live.exits()) {
            let is_port = matches!(key.kind, ExitKind::PioIn | ExitKind::PioOut);
            let is_hit = !matches!(key.served, None | Some(Served::Unmapped));
            if let Some(addr) = key.address().filter(|_| is_hit && !is_port) {
                hits.push((addr, times.count()));
            }
        }
        hits.sort_unstable();
        hits
    }
}
