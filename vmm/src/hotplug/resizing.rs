//! What the worker of a [`Resizer`](super::Resizer) does for one request.

use std::thread;
use std::time::{Duration, Instant};

use super::resize::{Job, ResizeReport, Shared};
use super::{BlockKind, Consent, HotplugError, HotplugRegion};

/// How long to leave the guest alone before looking for a block that does not rest.
const IDLE: Duration = Duration::from_micros(500);

/// One request, being carried out. Others may plug and unplug beside it.
pub(super) struct Resizing<'a> {
    shared: &'a Shared,
    job: &'a Job,
    pub(super) report: ResizeReport,
}

impl<'a> Resizing<'a> {
    pub(super) fn new(shared: &'a Shared, job: &'a Job) -> Self {
        Self {
            shared,
            job,
            report: ResizeReport::default(),
        }
    }

    fn region(&self) -> &'a HotplugRegion {
        &self.shared.region
    }

    /// Plugs and unplugs until so much is plugged as is to be, or the job is over.
    pub(super) fn run(&mut self) -> Result<(), HotplugError> {
        let wanted = (self.job.bytes / self.region().block_size()) as usize;
        let mut moved = Instant::now();
        while !self.shared.is_over(self.job) {
            let plugged = self.region().plugged();
            let before = (self.report.plugged, self.report.unplugged);
            let blocked = match plugged.len() {
                there if there < wanted => self.grow(wanted - there)?,
                there if there > wanted => self.shrink(&plugged[wanted..])?,
                _ => return Ok(()),
            };
            if before != (self.report.plugged, self.report.unplugged) {
                moved = Instant::now();
            } else if moved.elapsed() > self.job.options.patience {
                return Err(blocked.unwrap_or(HotplugError::Contended));
            } else {
                thread::sleep(IDLE);
            }
        }
        Ok(())
    }

    /// Plugs up to `count` blocks, the lowest there are. Those that cannot be had
    /// just now are passed over; if that is why there were not enough, says so.
    fn grow(&mut self, count: usize) -> Result<Option<HotplugError>, HotplugError> {
        let mut left = count;
        let mut blocked = None;
        for block in self.region().absent() {
            if left == 0 || self.shared.is_over(self.job) {
                break;
            }
            match self.region().plug(block, BlockKind::Cooperative) {
                Ok(_) => {
                    self.report.plugged += 1;
                    left -= 1;
                }
                Err(error @ (HotplugError::Resting { .. } | HotplugError::Stuck { .. })) => {
                    blocked = Some(error);
                }
                // Somebody else was faster.
                Err(HotplugError::Plugged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blocked)
    }

    /// Unplugs these, the last one first. The guest is asked for all of them at
    /// once, so that it can give them back in one go; if the job ends before all
    /// are out, it may keep the rest.
    fn shrink(
        &mut self,
        blocks: &[(u32, BlockKind)],
    ) -> Result<Option<HotplugError>, HotplugError> {
        let asked: Vec<_> = blocks.iter().rev().filter(|b| self.is_asked(b.1)).collect();
        for (block, _) in &asked {
            self.region().ask_back(*block);
        }
        let mut result = Ok(());
        for (block, kind) in blocks.iter().rev() {
            result = self.unplug(*block, *kind);
            if result.is_err() || self.shared.is_over(self.job) {
                break;
            }
        }
        for (block, _) in asked {
            self.region().withdraw(*block);
        }
        result.map(|()| None)
    }

    /// Whether the guest has a say.
    fn is_asked(&self, kind: BlockKind) -> bool {
        kind == BlockKind::Cooperative && !self.job.options.forced
    }

    fn unplug(&mut self, block: u32, kind: BlockKind) -> Result<(), HotplugError> {
        let is_over = || self.shared.is_over(self.job);
        // Beyond the clock's end there is no deadline.
        let after = |patience| Instant::now().checked_add(patience);
        let patience = self.job.options.patience;
        let deadline = after(patience).or_else(|| after(Duration::from_secs(1 << 32)));
        let consent = match (self.is_asked(kind), deadline) {
            (true, Some(deadline)) => Consent::Asked {
                deadline,
                cancelled: &is_over,
            },
            _ => Consent::Surprise,
        };
        match self
            .region()
            .unplug(block, consent, after(patience.saturating_mul(2)))
        {
            Ok(report) => {
                self.report.unplugged += 1;
                self.report.unmap_errors += u32::from(report.unmap_error.is_some());
                self.report.drained += report.drain.waited;
                self.report.holders.extend(report.drain.holders);
            }
            // Somebody else was faster.
            Err(HotplugError::NotPlugged { .. }) => {}
            Err(HotplugError::NotReleased(_)) if is_over() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
