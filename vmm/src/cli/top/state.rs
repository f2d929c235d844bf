//! What `top` shows, and what its keys change. Pure: no terminal, no socket.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gracefault::api::model::Live;

use super::rows::{ExitRow, Looks, Sort, Span, VcpuRow};

/// The most looks that a history has.
const HISTORY: usize = 256;

/// Which table the arrows move in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    Vcpus,
    #[default]
    Exits,
}

/// What is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// What the exits that are shown contain.
    Filter,
    /// The time from one look to the next.
    Delay,
}

/// A row that was chosen: it stays chosen wherever it moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chosen {
    vcpu: u32,
    exit: Option<(String, String)>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct State {
    now: Option<Live>,
    before: Option<Live>,
    since: Option<Live>,
    /// Exits a second by vCPU, the newest last.
    history: BTreeMap<u32, VecDeque<u64>>,
    chosen: Chosen,
    pub(super) span: Span,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) focus: Focus,
    pub(super) filter: String,
    /// What is being typed, and the text so far.
    pub(super) entry: Option<(Entry, String)>,
    pub(super) help: bool,
    pub(super) frozen: bool,
    /// From one look to the next.
    pub(super) delay: Duration,
    /// What is wrong, if something is.
    pub(super) trouble: Option<String>,
}

/// What the chosen row is about.
#[derive(Debug)]
pub(super) enum Choice {
    Vcpu(VcpuRow),
    Exit(ExitRow),
}

impl State {
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            now: None,
            before: None,
            since: None,
            history: BTreeMap::new(),
            chosen: Chosen::default(),
            span: Span::default(),
            sort: Sort::default(),
            reversed: false,
            focus: Focus::default(),
            filter: String::new(),
            entry: None,
            help: false,
            frozen: false,
            delay,
            trouble: None,
        }
    }

    /// A new look at the VM.
    pub(super) fn take(&mut self, live: Live) {
        self.trouble = None;
        if self.frozen {
            return;
        }
        // A socket may have changed hands: then nothing that was counted means anything.
        let is_another = |now: &Live| now.info.pid != live.info.pid || live.now_ns < now.now_ns;
        if self.now.as_ref().is_some_and(is_another) {
            (self.now, self.since) = (None, None);
            self.history.clear();
        }
        self.before = self.now.replace(live);
        let rates: Vec<_> = self.looks().map_or(Vec::new(), |looks| {
            let rate = |row: VcpuRow| Some((row.index, row.exits_per_second?));
            looks.vcpus().into_iter().filter_map(rate).collect()
        });
        for (index, rate) in rates {
            let history = self.history.entry(index).or_default();
            history.push_back(rate.round() as u64);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
    }

    /// The last look.
    pub(super) fn live(&self) -> Option<&Live> {
        self.now.as_ref()
    }

    /// The looks that rows are made from.
    pub(super) fn looks(&self) -> Option<Looks<'_>> {
        Some(Looks {
            now: self.now.as_ref()?,
            before: self.before.as_ref(),
            since: self.since.as_ref(),
            span: self.span,
        })
    }

    /// Exits a second of a vCPU, the newest last.
    pub(super) fn history(&self, vcpu: u32) -> impl Iterator<Item = u64> + '_ {
        self.history.get(&vcpu).into_iter().flatten().copied()
    }

    pub(super) fn vcpus(&self) -> Vec<VcpuRow> {
        self.looks().map_or(Vec::new(), |looks| looks.vcpus())
    }

    /// The exits that are not filtered out, sorted.
    pub(super) fn exits(&self) -> Vec<ExitRow> {
        let mut rows = self.looks().map_or(Vec::new(), |looks| looks.exits());
        let filter = self.filter.to_lowercase();
        let contains = |text: &str| text.to_lowercase().contains(&filter);
        rows.retain(|row| contains(&row.key) || contains(&row.device));
        self.sort.sort(&mut rows, self.reversed);
        rows
    }

    /// Where in these rows the chosen one is: the first, if it is not there.
    pub(super) fn chosen_vcpu(&self, rows: &[VcpuRow]) -> usize {
        let chosen = |row: &VcpuRow| row.index == self.chosen.vcpu;
        rows.iter().position(chosen).unwrap_or(0)
    }

    /// As [`chosen_vcpu`](Self::chosen_vcpu).
    pub(super) fn chosen_exit(&self, rows: &[ExitRow]) -> usize {
        let Some((key, device)) = &self.chosen.exit else {
            return 0;
        };
        let chosen = |row: &ExitRow| row.key == *key && row.device == *device;
        rows.iter().position(chosen).unwrap_or(0)
    }

    /// What the arrows are on.
    pub(super) fn choice(&self) -> Option<Choice> {
        match self.focus {
            Focus::Vcpus => {
                let mut rows = self.vcpus();
                let at = self.chosen_vcpu(&rows);
                (at < rows.len()).then(|| Choice::Vcpu(rows.swap_remove(at)))
            }
            Focus::Exits => {
                let mut rows = self.exits();
                let at = self.chosen_exit(&rows);
                (at < rows.len()).then(|| Choice::Exit(rows.swap_remove(at)))
            }
        }
    }

    /// Moves by so many rows, from the first to the last.
    pub(super) fn step(&mut self, rows: isize) {
        let moved =
            |at: usize, len: usize| at.saturating_add_signed(rows).min(len.saturating_sub(1));
        match self.focus {
            Focus::Vcpus => {
                let all = self.vcpus();
                let at = moved(self.chosen_vcpu(&all), all.len());
                self.chosen.vcpu = all.get(at).map_or(0, |row| row.index);
            }
            Focus::Exits => {
                let all = self.exits();
                let at = moved(self.chosen_exit(&all), all.len());
                let id = |row: &ExitRow| (row.key.clone(), row.device.clone());
                self.chosen.exit = all.get(at).map(id);
            }
        }
    }

    /// Counts from now on.
    pub(super) fn clear(&mut self) {
        self.since = self.now.clone();
        self.history.clear();
    }

    /// Ends typing, and does what was typed for. Says what is wrong with it.
    pub(super) fn entered(&mut self) {
        match self.entry.take() {
            Some((Entry::Filter, text)) => self.filter = text,
            Some((Entry::Delay, text)) => match parse_delay(text.trim()) {
                Ok(delay) => self.delay = delay,
                Err(error) => self.trouble = Some(error),
            },
            None => {}
        }
    }
}

/// The shortest and the longest time from one look to the next.
const DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3600)];

/// A time from one look to the next; a number alone is seconds.
pub(super) fn parse_delay(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let parsed = match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(delay)) => Ok(delay),
        _ => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    let [least, most] = DELAYS;
    match parsed {
        Ok(delay) if delay >= least && delay <= most => Ok(delay),
        Ok(_) => Err(format!("'{text}': from 100ms to 1h")),
        Err(error) => Err(format!("'{text}': {error}; write it like 2, 500ms or 1m")),
    }
}
