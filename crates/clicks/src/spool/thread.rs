//! The spool thread: recovers earlier boots, then drains all rings at each tick, makes one frame
//! durable at a time, and closes the boot at the end.
//!
//! Invariants:
//! - the only one that writes to the spool, and the only consumer of the rings;
//! - an error of the disk is never fatal: the frame is kept and tried again, clicks wait on the
//!   rings, and what these can't hold is lost with a number;
//! - a boot is closed only when every producer is gone and every ring is empty.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use shunt_domain::Timestamp;
use shunt_domain::ports::{BootId, NodeId};

use super::drain::{Build, Drain};
use super::recovery;
use super::segments::{AppendError, Appender, Frontier, SpoolDir};
use crate::config::PipelineConfig;
use crate::frame::BootState;
use crate::pipeline::Control;
use crate::ring::Ring;
use crate::ring::files;
use crate::stats::{Meters, SpoolState, add};

/// How long to wait after a failed write before the next try: first and most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(crate) struct SpoolThread {
    pub(crate) config: PipelineConfig,
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) rings: Vec<Arc<Ring>>,
    pub(crate) frontier: Arc<Frontier>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) control: Arc<Control>,
    #[cfg(test)]
    pub(crate) faults: Arc<super::segments::Faults>,
}

/// The pipeline is told to stop and its time is over.
struct OutOfTime;

impl SpoolThread {
    /// Runs to the end of the boot; whether it was closed.
    pub(crate) fn run(self, dir: SpoolDir) -> bool {
        let closed = self.live(dir).is_ok();
        self.meters.spool(SpoolState::Stopped, None);
        self.frontier.update(|state| state.finished = true);
        closed
    }

    fn live(&self, dir: SpoolDir) -> Result<(), OutOfTime> {
        let (mut appender, earlier) = self.open(dir)?;
        let mut lost = 0;
        for drain in earlier {
            self.recover(drain, &mut appender, &mut lost)?;
        }
        let state = BootState::new(self.node, self.boot, self.rings.len());
        let mut drain = Drain::new(state, true, &self.rings);
        // The first frame says that the boot exists.
        let mut build = Build::Always;
        let mut heartbeat = Instant::now() + self.config.heartbeat;
        let mut tick = Instant::now();
        loop {
            // Looked at before the rings: what was numbered before the producers went is there.
            let closing = self.control.stopping() && self.rings.iter().all(|ring| ring.is_done());
            let now = Instant::now();
            if now >= heartbeat {
                build = Build::Always;
                heartbeat = now + self.config.heartbeat;
            }
            while drain.build(build, wall_clock()) {
                build = Build::Events;
                self.append(&mut drain, &mut appender, &mut lost)?;
                if !drain.has_more() {
                    break;
                }
            }
            self.attribute_losses(&mut lost);
            if closing && !drain.build(Build::Events, wall_clock()) {
                drain.build(Build::Close, wall_clock());
                self.append(&mut drain, &mut appender, &mut lost)?;
                files::remove(&self.config, self.node, self.boot);
                return Ok(());
            }
            if self.control.out_of_time() {
                return Err(OutOfTime);
            }
            // The next whole interval from the last tick, so that a slow fsync does not shift
            // all later ones; never in the past.
            tick += self.config.flush_interval;
            let now = Instant::now();
            if tick <= now {
                tick = now;
                continue;
            }
            if !closing {
                std::thread::park_timeout(tick - now);
            }
        }
    }

    /// Opens the spool and finds what to recover; tries until it works.
    fn open(&self, dir: SpoolDir) -> Result<(Appender, Vec<Drain>), OutOfTime> {
        let mut wait = RETRY.0;
        let last = loop {
            match recovery::last_state(&dir, self.node) {
                Ok(last) => break last,
                Err(error) => self.disk_error(&error, &mut wait)?,
            }
        };
        let mut dir = Some(dir);
        let appender = loop {
            // The lock must not be given up between tries: the directory stays ours until one
            // of them takes it.
            let Some(taken) = dir.take() else { return Err(OutOfTime) };
            let (segment, spool) = (self.config.segment_bytes, self.config.spool_bytes);
            match Appender::new(taken, segment, spool, &self.frontier) {
                Ok(appender) => break appender,
                Err((back, error)) => {
                    dir = Some(back);
                    self.disk_error(&error, &mut wait)?;
                }
            }
        };
        #[cfg(test)]
        let appender = appender.with_faults(Arc::clone(&self.faults));
        self.frontier.update(|state| {
            // With no frame anywhere there is nothing to keep.
            let newest = last.as_ref().map_or(u64::MAX, |&(segment, _)| segment);
            state.newest = newest;
            state.opened = true;
        });
        let last = last.map(|(_, state)| state);
        Ok((appender, recovery::open_boots(&self.config, self.node, self.boot, last)))
    }

    /// Brings one earlier boot to its end: the rest of its rings, then its closing frame.
    fn recover(
        &self,
        mut drain: Drain,
        appender: &mut Appender,
        lost: &mut u64,
    ) -> Result<(), OutOfTime> {
        let boot = drain.state().boot;
        while drain.build(Build::Events, wall_clock()) {
            let events = drain.built_events();
            self.append(&mut drain, appender, lost)?;
            add(&self.meters.recovered, events);
        }
        let reported = drain.reported_lost();
        drain.build(Build::Close, wall_clock());
        let total = drain.state().lost();
        self.append(&mut drain, appender, lost)?;
        add(&self.meters.lost_crash, total.saturating_sub(reported));
        files::remove(&self.config, self.node, boot);
        Ok(())
    }

    /// Makes the pending frame durable, however long that takes.
    fn append(
        &self,
        drain: &mut Drain,
        appender: &mut Appender,
        lost: &mut u64,
    ) -> Result<(), OutOfTime> {
        let mut wait = RETRY.0;
        while let Some(frame) = drain.pending() {
            match appender.append(frame, &self.frontier) {
                Ok(()) => {
                    add(&self.meters.frames, 1);
                    add(&self.meters.spooled, drain.built_events());
                    self.meters.fsyncs.store(appender.fsyncs, Ordering::Relaxed);
                    let at = u64::try_from(drain.state().at.as_millis()).unwrap_or(0);
                    self.meters.durable_at.fetch_max(at, Ordering::Relaxed);
                    drain.commit();
                    // What was lost until now was lost to the state before.
                    self.attribute_losses(lost);
                    self.meters.spool(SpoolState::Running, None);
                }
                Err(AppendError::Full) => {
                    self.attribute_losses(lost);
                    let limit = self.config.spool_bytes;
                    let text = format!("the click spool is full ({limit} bytes): clicks wait");
                    self.blocked(SpoolState::Full, text, &mut wait)?;
                }
                Err(AppendError::Disk(error)) => {
                    self.attribute_losses(lost);
                    self.disk_error(&error, &mut wait)?;
                }
            }
        }
        Ok(())
    }

    fn disk_error(&self, error: &std::io::Error, wait: &mut Duration) -> Result<(), OutOfTime> {
        add(&self.meters.disk_errors, 1);
        let place = self.config.data_dir.display();
        let text = format!("can't write the click spool in {place}: {error}; check the disk");
        self.blocked(SpoolState::DiskError, text, wait)
    }

    fn blocked(
        &self,
        state: SpoolState,
        text: String,
        wait: &mut Duration,
    ) -> Result<(), OutOfTime> {
        self.meters.spool(state, Some(text));
        if self.control.out_of_time() {
            return Err(OutOfTime);
        }
        std::thread::park_timeout(*wait);
        *wait = (*wait * 2).min(RETRY.1);
        Ok(())
    }

    /// Puts what the rings lost since the last look down to the state the spool is in.
    fn attribute_losses(&self, seen: &mut u64) {
        let lost: u64 = self.rings.iter().map(|ring| ring.lost()).sum();
        let more = lost.saturating_sub(*seen);
        if more > 0 {
            *seen = lost;
            let cause = match self.meters.spool_state() {
                SpoolState::Full => &self.meters.lost_spool_full,
                SpoolState::DiskError => &self.meters.lost_disk_error,
                _ => &self.meters.lost_ring_full,
            };
            add(cause, more);
        }
    }
}

fn wall_clock() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
