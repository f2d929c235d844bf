//! Packets, written one by one.

use std::io::{self, Write};

use prost::Message;

use super::proto::{
    BEGIN, COUNTER, CounterDescriptor, DebugAnnotation, END, INSTANT, ProcessDescriptor,
    ThreadDescriptor, Trace, TracePacket, TrackDescriptor, TrackEvent,
};

/// `BUILTIN_CLOCK_BOOTTIME`: the clock that needs no snapshot.
const BOOTTIME: u32 = 6;
/// There is one writer, so one sequence.
const SEQUENCE: u32 = 1;

/// A track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Track(u64);

/// The process's.
pub(super) const PROCESS: Track = Track(1);

impl Track {
    /// Of the file's `n`th thread.
    pub(super) fn of_thread(n: usize) -> Self {
        Self(0x1000 + n as u64)
    }

    /// Of the `n`th counter.
    pub(super) fn of_counter(n: u64) -> Self {
        Self(0x10 + n)
    }
}

/// Writes packets to `out`.
pub(super) struct Packets<'a, W> {
    out: &'a mut W,
    pid: i32,
}

impl<'a, W: Write> Packets<'a, W> {
    pub(super) fn new(out: &'a mut W, pid: u32) -> Self {
        Self {
            out,
            pid: pid as i32,
        }
    }

    fn packet(&mut self, packet: TracePacket) -> io::Result<()> {
        let packet = TracePacket {
            trusted_packet_sequence_id: Some(SEQUENCE),
            ..packet
        };
        // A file is a `Trace`, and so is each part of one.
        let trace = Trace {
            packet: vec![packet],
        };
        self.out.write_all(&trace.encode_to_vec())
    }

    fn track(&mut self, track: Track, descriptor: TrackDescriptor) -> io::Result<()> {
        self.packet(TracePacket {
            track_descriptor: Some(TrackDescriptor {
                uuid: Some(track.0),
                ..descriptor
            }),
            ..TracePacket::default()
        })
    }

    pub(super) fn process(&mut self, name: &str) -> io::Result<()> {
        let process = ProcessDescriptor {
            pid: Some(self.pid),
            process_name: Some(name.to_owned()),
        };
        self.track(
            PROCESS,
            TrackDescriptor {
                process: Some(process),
                ..TrackDescriptor::default()
            },
        )
    }

    pub(super) fn thread(&mut self, track: Track, tid: u32, name: &str) -> io::Result<()> {
        let thread = ThreadDescriptor {
            pid: Some(self.pid),
            tid: Some(tid as i32),
            thread_name: Some(name.to_owned()),
        };
        self.track(
            track,
            TrackDescriptor {
                thread: Some(thread),
                parent_uuid: Some(PROCESS.0),
                ..TrackDescriptor::default()
            },
        )
    }

    pub(super) fn counter(&mut self, track: Track, name: &str, unit: &str) -> io::Result<()> {
        self.track(
            track,
            TrackDescriptor {
                name: Some(name.to_owned()),
                parent_uuid: Some(PROCESS.0),
                counter: Some(CounterDescriptor {
                    unit_name: Some(unit.to_owned()),
                }),
                ..TrackDescriptor::default()
            },
        )
    }

    fn event(&mut self, track: Track, at: u64, event: TrackEvent) -> io::Result<()> {
        self.packet(TracePacket {
            timestamp: Some(at),
            timestamp_clock_id: Some(BOOTTIME),
            track_event: Some(TrackEvent {
                track_uuid: Some(track.0),
                ..event
            }),
            ..TracePacket::default()
        })
    }

    pub(super) fn begin(&mut self, track: Track, at: u64, named: Named) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(BEGIN),
            ..named.into()
        };
        self.event(track, at, event)
    }

    pub(super) fn end(&mut self, track: Track, at: u64) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(END),
            ..TrackEvent::default()
        };
        self.event(track, at, event)
    }

    pub(super) fn instant(&mut self, track: Track, at: u64, named: Named) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(INSTANT),
            ..named.into()
        };
        self.event(track, at, event)
    }

    pub(super) fn value(&mut self, track: Track, at: u64, value: u64) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(COUNTER),
            counter_value: Some(i64::try_from(value).unwrap_or(i64::MAX)),
            ..TrackEvent::default()
        };
        self.event(track, at, event)
    }
}

/// What a slice or an instant is.
#[derive(Default)]
pub(super) struct Named {
    category: &'static str,
    name: String,
    arguments: Vec<DebugAnnotation>,
    pub(super) flows: Vec<u64>,
    pub(super) ended_flows: Vec<u64>,
}

impl Named {
    pub(super) fn new(category: &'static str, name: impl Into<String>) -> Self {
        Self {
            category,
            name: name.into(),
            ..Self::default()
        }
    }

    fn argument(mut self, argument: DebugAnnotation, name: &str) -> Self {
        self.arguments.push(DebugAnnotation {
            name: Some(name.to_owned()),
            ..argument
        });
        self
    }

    pub(super) fn number(self, name: &str, value: u64) -> Self {
        let argument = DebugAnnotation {
            uint_value: Some(value),
            ..DebugAnnotation::default()
        };
        self.argument(argument, name)
    }

    pub(super) fn address(self, name: &str, value: u64) -> Self {
        let argument = DebugAnnotation {
            pointer_value: Some(value),
            ..DebugAnnotation::default()
        };
        self.argument(argument, name)
    }

    pub(super) fn text(self, name: &str, value: impl Into<String>) -> Self {
        let argument = DebugAnnotation {
            string_value: Some(value.into()),
            ..DebugAnnotation::default()
        };
        self.argument(argument, name)
    }
}

impl From<Named> for TrackEvent {
    fn from(named: Named) -> Self {
        Self {
            categories: vec![named.category.to_owned()],
            name: Some(named.name),
            debug_annotations: named.arguments,
            flow_ids: named.flows,
            terminating_flow_ids: named.ended_flows,
            ..Self::default()
        }
    }
}
