//! The exits of one vCPU, by kind and address, for others to read.

use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxBuildHasher;

use super::super::ExitKey;
use super::super::histogram::MAX_NS;
use super::LiveTimes;
use super::times::{self, Octave};

/// The rows. They only ever become more; their number is bounded from the start.
pub(super) struct Rows(Box<[OnceLock<Box<Row>>]>);

struct Row {
    key: ExitKey,
    times: LiveTimes,
}

impl Rows {
    pub(super) fn new(most: usize) -> Self {
        Self((0..most).map(|_| OnceLock::new()).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ExitKey, &LiveTimes)> {
        let rows = self.0.iter().map_while(OnceLock::get);
        rows.map(|row| (row.key, &row.times))
    }
}

/// Where the thread that counts finds its rows.
///
/// Quick where the same row comes again and again. The hash is quick too, and not
/// proof against a guest that chooses its addresses to collide: it slows its own
/// exits down, and the number of rows is bounded.
#[derive(Debug)]
pub(super) struct Index {
    rows: Arc<Rows>,
    /// Rows before the rest is counted together.
    most: usize,
    places: HashMap<ExitKey, usize, FxBuildHasher>,
    at_hand: Option<AtHand>,
}

/// The row that was counted in last, and the octave of it: an exit like the one before
/// loads what it adds to, and nothing on the way there.
///
/// That is of the [`Rows`] that the index keeps, which never move nor leave.
#[derive(Debug)]
struct AtHand {
    key: ExitKey,
    octave: usize,
    counts: NonNull<Octave>,
}

// SAFETY: what it points to any thread may look at, and the index keeps it.
unsafe impl Send for AtHand {}

impl Index {
    pub(super) fn new(rows: Arc<Rows>, most: usize) -> Self {
        Self {
            rows,
            most,
            places: HashMap::default(),
            at_hand: None,
        }
    }

    /// Counts an exit. For the one thread whose index it is.
    #[inline(always)]
    pub(super) fn record(&mut self, key: ExitKey, ns: u64) {
        let ns = ns.min(MAX_NS);
        let place = times::place(ns);
        let known = |last: &AtHand| last.key == key && last.octave == place.octave;
        if !self.at_hand.as_ref().is_some_and(known) {
            self.find(key, place.octave);
        }
        if let Some(at_hand) = &self.at_hand {
            // SAFETY: of the rows that `self.rows` keeps, in a box that is never replaced.
            unsafe { at_hand.counts.as_ref() }.add(place.bucket, ns);
        }
    }

    /// Takes the row in hand.
    #[inline(never)]
    fn find(&mut self, of: ExitKey, octave: usize) {
        let (key, place) = match self.places.get(&of) {
            Some(place) => (of, *place),
            None => self.new_place(of),
        };
        let new = || {
            let times = LiveTimes::default();
            Box::new(Row { key, times })
        };
        let times = &self.rows.0[place].get_or_init(new).times;
        self.at_hand = Some(AtHand {
            key: of,
            octave,
            counts: times.octave(octave).into(),
        });
    }

    /// A place for a row that has none; that of the rest, once there are too many.
    #[cold]
    fn new_place(&mut self, key: ExitKey) -> (ExitKey, usize) {
        let key = match self.places.len() >= self.most {
            true => ExitKey::overflow(key.kind),
            false => key,
        };
        let next = self.places.len();
        (key, *self.places.entry(key).or_insert(next))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
