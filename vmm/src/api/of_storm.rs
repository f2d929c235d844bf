//! A storm without KVM at the socket: a map, and threads that race over it. It has no
//! guest, so nothing of it can be paused, plugged or recorded.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use super::model::{
    Counters, ErrorCode, Exits, Failure, Kind, MapEntry, MemoryInfo, PlugReport, PlugRequest,
    ResizeRequest, ResizeStatus, Sections, TraceRequest, TraceState, TraceStatus, UnplugReport,
    UnplugRequest, VcpuInfo, VmInfo, VmState, Wait,
};
use super::of_machine::metrics;
use super::of_map;
use super::vm::{Cancel, Vm};
use crate::clock::Rate;
use crate::machine::StopRequest;
use crate::stress::StormHandle;

/// A storm without KVM, as the socket has it.
#[derive(Debug)]
pub struct StormVm {
    storm: StormHandle,
    stop: Arc<StopRequest>,
    rate: Rate,
}

impl StormVm {
    /// The one that `storm` is a handle of; `stop` is what ends it.
    pub fn new(storm: StormHandle, stop: Arc<StopRequest>) -> Self {
        let rate = Rate::of_this_machine();
        Self { storm, stop, rate }
    }
}

fn no<T>(what: &str) -> Result<T, Failure> {
    let error = format!("a storm without KVM has no guest: {what}");
    Err(Failure::new(ErrorCode::NotSupported, error))
}

impl Vm for StormVm {
    fn info(&self) -> VmInfo {
        let state = match (self.storm.is_over(), self.stop.is_asked()) {
            (true, _) => VmState::Ended,
            (false, true) => VmState::Ending,
            (false, false) => VmState::Running,
        };
        VmInfo {
            kind: Kind::Stress,
            state,
            uptime_ns: self.now_ns(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vcpus: 0,
            workload: self.storm.preset().to_string(),
            churn: true,
            memory: MemoryInfo::default(),
            tracing: false,
            events_lost: 0,
        }
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        Vec::new()
    }

    fn exits(&self, _limit: usize) -> Exits {
        Exits::default()
    }

    fn waits(&self) -> Vec<Wait> {
        of_map::waits(self.storm.map(), self.storm.sections())
    }

    fn sections(&self) -> Sections {
        of_map::sections(self.storm.map(), self.storm.sections(), self.rate)
    }

    fn map(&self, from: u64, limit: usize) -> Vec<MapEntry> {
        let (map, sections) = (self.storm.map(), self.storm.sections());
        of_map::entries(map, Some(sections), self.rate, from, limit)
    }

    fn counters(&self) -> Counters {
        let mut counters = of_map::counters(self.storm.map());
        let (lookups, ops) = self.storm.progress();
        let counts = [("lookups", lookups), ("operations", ops)];
        let counts = counts.map(|(name, count)| (name.to_owned(), count));
        counters.insert("stress".to_owned(), BTreeMap::from(counts));
        counters
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        metrics::counters(&mut text, &self.counters());
        text
    }

    fn now_ns(&self) -> u64 {
        self.storm.elapsed().as_nanos() as u64
    }

    fn shutdown(&self) {
        self.stop.now();
    }

    fn pause(&self) -> Result<(), Failure> {
        no("there is nothing to pause")
    }

    fn resume(&self) -> Result<(), Failure> {
        no("there is nothing to resume")
    }

    fn resize_status(&self) -> Result<ResizeStatus, Failure> {
        no("there is no memory of its to resize")
    }

    fn resize(&self, _request: &ResizeRequest, _cancel: &Cancel) -> Result<ResizeStatus, Failure> {
        no("there is no memory of its to resize")
    }

    fn plug(&self, _request: &PlugRequest, _cancel: &Cancel) -> Result<PlugReport, Failure> {
        no("there is nobody to plug memory for")
    }

    fn unplug(&self, _request: &UnplugRequest, _cancel: &Cancel) -> Result<UnplugReport, Failure> {
        no("there is nobody to unplug memory from")
    }

    fn trace_status(&self) -> TraceStatus {
        TraceStatus {
            state: TraceState::None,
            events: 0,
            lost: 0,
            size: 0,
            error: None,
        }
    }

    fn trace_start(&self, _request: &TraceRequest) -> Result<TraceStatus, Failure> {
        no("there are no exits to record")
    }

    fn trace_stop(&self) -> Result<TraceStatus, Failure> {
        no("there is no recording")
    }

    fn trace_data(&self) -> Result<File, Failure> {
        no("there is no recording")
    }

    fn wake(&self) {}
}
