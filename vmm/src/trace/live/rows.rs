//! The exits of one vCPU, by kind and address, for others to read.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use rustc_hash::FxBuildHasher;

use super::super::ExitKey;
use super::LiveTimes;

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
#[derive(Debug, Default)]
pub(super) struct Index {
    places: HashMap<ExitKey, usize, FxBuildHasher>,
    /// The row found last.
    last: usize,
}

impl Index {
    /// Counts an exit. For the one thread whose index it is.
    #[inline]
    pub(super) fn record(&mut self, rows: &Rows, key: ExitKey, most: usize, ns: u64) {
        let last = rows.0.get(self.last).and_then(OnceLock::get);
        match last {
            Some(row) if row.key == key => row.times.record_ns(ns),
            _ => self.find(rows, key, most).record_ns(ns),
        }
    }

    fn find<'a>(&mut self, rows: &'a Rows, key: ExitKey, most: usize) -> &'a LiveTimes {
        let (key, place) = match self.places.get(&key) {
            Some(place) => (key, *place),
            None => self.new_place(key, most),
        };
        self.last = place;
        let new = || {
            let times = LiveTimes::default();
            Box::new(Row { key, times })
        };
        let row = rows.0[place].get_or_init(new);
        &row.times
    }

    /// A place for a row that has none; that of the rest, once there are too many.
    #[cold]
    fn new_place(&mut self, key: ExitKey, most: usize) -> (ExitKey, usize) {
        let key = match self.places.len() >= most {
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
