//! What all vCPUs of a machine are told between two exits: to rest, and who records.
//!
//! A vCPU looks at a word of its own after each exit, which nobody stores to as long as
//! nothing changes ([`LiveVcpu::told`]). Only when it has changed does the vCPU take the
//! lock, when its exit is answered and it holds nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::trace::LiveVcpu;
use crate::trace::record::RecordingHandle;

/// The gate between two exits.
#[derive(Debug)]
pub(super) struct Gate {
    /// Who is told.
    vcpus: Vec<Arc<LiveVcpu>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Grows with each change.
    changes: u64,
    /// vCPUs that have not ended.
    alive: usize,
    resting: usize,
    is_shut: bool,
    /// Nobody rests any more: the machine ends.
    is_over: bool,
    shut_at: Option<Instant>,
    /// How long it was shut in all, before the present time.
    was_shut: Duration,
    recording: Option<RecordingHandle>,
}

/// How far a pause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// There is none.
    None,
    /// Some vCPU has not come to rest yet.
    Underway,
    /// Every vCPU rests.
    Complete,
}

impl Gate {
    /// For these, none of which runs yet.
    pub(super) fn new(vcpus: Vec<Arc<LiveVcpu>>) -> Self {
        Self {
            state: Mutex::new(State {
                changes: 0,
                alive: vcpus.len(),
                resting: 0,
                is_shut: false,
                is_over: false,
                shut_at: None,
                was_shut: Duration::ZERO,
                recording: None,
            }),
            changed: Condvar::new(),
            vcpus,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a vCPU that has seen a change: rests while the gate is shut, with `rests`
    /// called before; who is to record its exits from now on, and the number of changes
    /// that this is as of.
    pub(super) fn pass(&self, rests: impl FnOnce()) -> (u64, Option<RecordingHandle>) {
        let mut state = self.state();
        if state.is_shut && !state.is_over {
            rests();
            state.resting += 1;
            self.changed.notify_all();
            while state.is_shut && !state.is_over {
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            state.resting -= 1;
        }
        (state.changes, state.recording.clone())
    }

    /// A vCPU has ended.
    pub(super) fn leave(&self) {
        self.state().alive -= 1;
        self.changed.notify_all();
    }

    /// Lets every vCPU rest when it comes by. Nothing to do if the gate is shut, or the
    /// machine ends.
    pub(super) fn shut(&self) {
        let mut state = self.state();
        if !state.is_shut && !state.is_over {
            state.is_shut = true;
            state.shut_at = Some(Instant::now());
            self.tell(&mut state);
        }
    }

    /// Lets them go on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        open(&mut state);
        self.tell(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    /// Lets them go on for good.
    pub(super) fn end(&self) {
        let mut state = self.state();
        open(&mut state);
        state.is_over = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Who is to record the exits from now on.
    pub(super) fn record(&self, recording: Option<RecordingHandle>) {
        let mut state = self.state();
        state.recording = recording;
        self.tell(&mut state);
    }

    /// What it is about is under the lock, which who is told takes.
    fn tell(&self, state: &mut State) {
        state.changes += 1;
        for vcpu in &self.vcpus {
            vcpu.tell(state.changes);
        }
    }

    pub(super) fn pause(&self) -> Pause {
        self.state().pause()
    }

    /// Waits until every vCPU rests, until `deadline` if there is one; how far it is
    /// then. If some vCPU does not rest yet the gate is open again: in one step, so that
    /// nobody else is told of a pause that this ends.
    pub(super) fn wait_or_open(&self, deadline: Option<Instant>) -> Pause {
        const LONG: Duration = Duration::from_secs(3600);
        let mut state = self.state();
        loop {
            let left = deadline.map_or(LONG, |at| at.saturating_duration_since(Instant::now()));
            let pause = state.pause();
            if pause == Pause::Underway && left.is_zero() {
                open(&mut state);
                self.tell(&mut state);
                self.changed.notify_all();
            }
            if pause != Pause::Underway || left.is_zero() {
                return pause;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How long it was shut so far.
    pub(super) fn was_shut(&self) -> Duration {
        let state = self.state();
        let now = state.shut_at.map_or(Duration::ZERO, |at| at.elapsed());
        state.was_shut + now
    }
}

fn open(state: &mut State) {
    state.is_shut = false;
    if let Some(at) = state.shut_at.take() {
        state.was_shut += at.elapsed();
    }
}

impl State {
    fn pause(&self) -> Pause {
        match (self.is_shut, self.resting >= self.alive) {
            (false, _) => Pause::None,
            (true, false) => Pause::Underway,
            (true, true) => Pause::Complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(60))
    }

    fn gate(vcpus: usize) -> Gate {
        let one = || Arc::new(LiveVcpu::for_one_of(vcpus));
        Gate::new(std::iter::repeat_with(one).take(vcpus).collect())
    }

    fn told(gate: &Gate) -> u64 {
        let told: Vec<_> = gate.vcpus.iter().map(|vcpu| vcpu.told()).collect();
        assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
        told[0]
    }

    #[test]
    fn a_pause_is_complete_when_all_that_live_rest() {
        let gate = gate(3);
        assert_eq!(gate.pause(), Pause::None);
        let seen = told(&gate);
        gate.shut();
        assert_ne!(told(&gate), seen);
        std::thread::scope(|scope| {
            let vcpu = || scope.spawn(|| gate.pass(|| ()));
            let first = vcpu();
            assert_eq!(gate.pause(), Pause::Underway);
            // One ends instead.
            gate.leave();
            let second = vcpu();
            assert_eq!(gate.wait_or_open(soon()), Pause::Complete);
            gate.open();
            assert_eq!(gate.pause(), Pause::None);
            assert_eq!(first.join().unwrap().0, told(&gate));
            second.join().unwrap();
        });
        assert!(gate.was_shut() > Duration::ZERO);
        assert_eq!(gate.was_shut(), gate.was_shut());
    }

    #[test]
    fn one_that_is_not_complete_in_time_is_over() {
        let gate = gate(1);
        gate.shut();
        let seen = told(&gate);
        assert_eq!(gate.wait_or_open(Some(Instant::now())), Pause::Underway);
        assert_eq!(gate.pause(), Pause::None);
        assert_ne!(told(&gate), seen);
        gate.pass(|| panic!("it rests"));
    }

    #[test]
    fn nobody_rests_when_the_machine_ends() {
        let gate = gate(1);
        gate.shut();
        std::thread::scope(|scope| {
            let vcpu = scope.spawn(|| gate.pass(|| ()));
            assert_eq!(gate.wait_or_open(soon()), Pause::Complete);
            gate.end();
            vcpu.join().unwrap();
        });
        gate.shut();
        assert_eq!(gate.pause(), Pause::None);
        gate.pass(|| panic!("it rests"));
    }
}
