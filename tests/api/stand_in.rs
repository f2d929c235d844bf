//! A VM that is none: it answers as a test wants it to, so that every answer that is
//! documented can be had, and counts what it was asked to do.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gracefault::api::model::*;
use gracefault::api::{ApiServer, Cancel, Socket, Vm};

use crate::command::HANG;

/// How it answers what steers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As asked.
    #[default]
    Willing,
    /// As one whose resize is never over.
    Slow,
    /// With this.
    Refuses(ErrorCode),
    /// With a bug.
    Panics,
    /// Not until it is told to, or the client is gone.
    Blocks,
}

#[derive(Debug, Default)]
pub(crate) struct StandIn {
    mood: Mutex<Mood>,
    changed: Condvar,
    /// What was asked for that changes something.
    pub(crate) steered: AtomicU64,
    /// Requests that were given up by their clients.
    pub(crate) cancelled: AtomicU64,
    /// Those that wait.
    pub(crate) waiting: AtomicU64,
    /// Whether optional fields are there.
    is_rich: std::sync::atomic::AtomicBool,
}

/// A stand-in at a socket of its own.
pub(crate) struct Served {
    pub(crate) vm: Arc<StandIn>,
    pub(crate) socket: PathBuf,
    _server: ApiServer,
    _dir: tempfile::TempDir,
}

pub(crate) fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let vm = Arc::new(StandIn::default());
    let server = ApiServer::start(Socket::bind(&socket).unwrap(), vm.clone()).unwrap();
    Served {
        vm,
        socket,
        _server: server,
        _dir: dir,
    }
}

impl StandIn {
    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    pub(crate) fn enrich(&self, is_rich: bool) {
        self.is_rich.store(is_rich, Ordering::Relaxed);
    }

    fn some<T>(&self, value: T) -> Option<T> {
        self.is_rich.load(Ordering::Relaxed).then_some(value)
    }

    fn several<T>(&self, value: T) -> Vec<T> {
        self.some(value).into_iter().collect()
    }

    fn steer<T>(&self, answer: T, cancel: Option<&Cancel>) -> Result<T, Failure> {
        self.steered.fetch_add(1, Ordering::Relaxed);
        let mut mood = self.mood.lock().unwrap();
        if *mood == Mood::Blocks {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            while *mood == Mood::Blocks && !cancel.is_some_and(Cancel::is_cancelled) {
                mood = self.changed.wait_timeout(mood, HANG).unwrap().0;
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if cancel.is_some_and(Cancel::is_cancelled) {
                self.cancelled.fetch_add(1, Ordering::Relaxed);
            }
        }
        let now = *mood;
        drop(mood);
        match now {
            Mood::Refuses(ErrorCode::NotReleased) => Err(Failure::not_released(
                "somebody did not let go",
                Unreleased {
                    vcpus: vec![1],
                    holders: vec![hold()],
                    waited_ns: 1,
                },
            )),
            Mood::Refuses(code) => Err(Failure::new(code, "as was wanted")),
            Mood::Panics => panic!("as was wanted"),
            _ => Ok(answer),
        }
    }

    fn histogram(&self) -> Histogram {
        Histogram {
            count: 3,
            total_ns: 30,
            p50_ns: 9,
            p99_ns: 12,
            max_ns: 12,
            buckets: vec![(9, 2), (13, 1)],
        }
    }
}

fn hold() -> Hold {
    Hold {
        thread: "vcpu 0".to_owned(),
        addr: 0x1000,
        kind: "hold".to_owned(),
    }
}

fn thread() -> Thread {
    Thread {
        name: "hotplug".to_owned(),
        tid: 7,
    }
}

fn range() -> Range {
    Range {
        start: 1 << 32,
        size: 2 << 20,
    }
}

impl Vm for StandIn {
    fn info(&self) -> VmInfo {
        VmInfo {
            kind: Kind::Run,
            state: VmState::Running,
            uptime_ns: 1,
            pid: 1,
            version: "0".to_owned(),
            vcpus: 2,
            workload: "hotplug".to_owned(),
            churn: false,
            memory: MemoryInfo::default(),
            tracing: false,
            events_lost: 0,
        }
    }

    fn vcpus(&self) -> Vec<VcpuInfo> {
        self.several(VcpuInfo {
            index: 0,
            tid: 8,
            doing: Doing::Wait,
            since_ns: 5,
            kind: self.some(ExitKind::MmioRead),
            addr: self.some(u64::MAX),
            section: self.some(3),
            writer: self.some(thread()),
            guest_ns: 4,
            exits: self.histogram(),
            waits: Histogram::default(),
        })
    }

    fn exits(&self, limit: usize) -> Exits {
        let row = ExitRow {
            key: "0xd0000000:R".to_owned(),
            kind: ExitKind::MmioRead,
            addr: self.some(0xd000_0000),
            device: "test".to_owned(),
            times: self.histogram(),
        };
        Exits {
            rows: vec![row; limit.min(3)],
            left_out: 1,
            all: self.histogram(),
        }
    }

    fn waits(&self) -> Vec<Wait> {
        self.several(Wait {
            thread: "vcpu 0".to_owned(),
            vcpu: self.some(0),
            addr: 0x1000,
            section: 3,
            writer: self.some(thread()),
            since_ns: self.some(5),
        })
    }

    fn sections(&self) -> Sections {
        Sections {
            published: 2,
            given_up: 1,
            rounds: 0,
            drained_readers: 0,
            open: self.some(OpenSection {
                section: 3,
                stage: Stage::Draining,
                writer: thread(),
                since_ns: 5,
                ranges: vec![range()],
                held_by: vec![hold()],
            }),
            last: self.several(Change {
                section: 1,
                did: Did::Map,
                range: self.some(range()),
                writer: thread(),
                ago_ns: 9,
                took_ns: 8,
                drain_ns: 1,
                holders: 1,
            }),
        }
    }

    fn map(&self, from: u64, limit: usize) -> Vec<MapEntry> {
        let entry = MapEntry {
            start: from,
            size: 4096,
            flags: "rwx--".to_owned(),
            backing: Backing::Ram,
            name: "ram".to_owned(),
            id: self.some("dimm".to_owned()),
            offset: 0,
            slot: self.some(1),
            hits: self.some(2),
            holders: self.several(hold()),
            section: 1,
            age_ns: self.some(3),
        };
        vec![entry; limit.min(3)]
    }

    fn counters(&self) -> Counters {
        BTreeMap::from([("map".to_owned(), [("sections".to_owned(), 2)].into())])
    }

    fn metrics(&self) -> String {
        "# TYPE gracefault_map counter\ngracefault_map_total{what=\"x\"} 1\n".to_owned()
    }

    fn now_ns(&self) -> u64 {
        1
    }

    fn shutdown(&self) {
        self.steered.fetch_add(1, Ordering::Relaxed);
    }

    fn pause(&self) -> Result<(), Failure> {
        self.steer((), None)
    }

    fn resume(&self) -> Result<(), Failure> {
        self.steer((), None)
    }

    fn resize_status(&self) -> Result<ResizeStatus, Failure> {
        let mood = *self.mood.lock().unwrap();
        let report = ResizeReport {
            plugged_blocks: 1,
            unplugged_blocks: 0,
            took_ns: 5,
            drain_ns: 0,
            holders: vec![hold()],
        };
        let status = ResizeStatus {
            block_size: 4096,
            total: 8192,
            requested: 4096,
            plugged: 0,
            state: match mood {
                Mood::Slow => ResizeState::Underway,
                _ => ResizeState::Done,
            },
            report: self.some(report),
            error: self.some("because".to_owned()),
        };
        match mood {
            Mood::Refuses(code) => Err(Failure::new(code, "as was wanted")),
            _ => Ok(status),
        }
    }

    fn resize(&self, _: &ResizeRequest, cancel: &Cancel) -> Result<ResizeStatus, Failure> {
        self.steer((), Some(cancel))?;
        self.resize_status()
    }

    fn plug(&self, _: &PlugRequest, cancel: &Cancel) -> Result<PlugReport, Failure> {
        let report = PlugReport {
            range: range(),
            id: self.some("dimm".to_owned()),
            blocks: 1,
            total_ns: 4,
            map_ns: 1,
            kvm_ns: 1,
            host_ns: 1,
        };
        self.steer(report, Some(cancel))
    }

    fn unplug(&self, _: &UnplugRequest, cancel: &Cancel) -> Result<UnplugReport, Failure> {
        let report = UnplugReport {
            range: range(),
            blocks: 1,
            total_ns: 6,
            consent_ns: 1,
            drain_ns: 1,
            map_ns: 1,
            kvm_ns: 1,
            host_ns: 1,
            holders: self.several(hold()),
            unmap_error: self.some("because".to_owned()),
        };
        self.steer(report, Some(cancel))
    }

    fn trace_status(&self) -> TraceStatus {
        TraceStatus {
            state: TraceState::Stopped,
            events: 1,
            lost: 0,
            size: 5,
            error: self.some("because".to_owned()),
        }
    }

    fn trace_start(&self, _: &TraceRequest) -> Result<TraceStatus, Failure> {
        self.steer(self.trace_status(), None)
    }

    fn trace_stop(&self) -> Result<TraceStatus, Failure> {
        self.steer(self.trace_status(), None)
    }

    fn trace_data(&self) -> Result<File, Failure> {
        let mood = *self.mood.lock().unwrap();
        if let Mood::Refuses(code) = mood {
            return Err(Failure::new(code, "as was wanted"));
        }
        let mut file = tempfile::tempfile().unwrap();
        // More than goes at once.
        file.write_all(&[7; 300_000]).unwrap();
        Ok(file)
    }

    fn wake(&self) {
        // Whoever waits looks under the lock.
        drop(self.mood.lock().unwrap());
        self.changed.notify_all();
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < HANG, "{what}: never");
        std::thread::sleep(Duration::from_millis(5));
    }
}
