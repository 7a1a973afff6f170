//! Drains a boot's rings into one frame: one pass that finds the entries and counts them by
//! lane, one that copies each to its place. No allocation once the buffers have grown.
//!
//! Invariants:
//! - a frame stays as it was built until it is durable; only then does the next one begin and
//!   do the rings' tails move. So a frame that is tried again numbers the same events alike;
//! - what the frame says of numbered and lost was read after the heads it drained to, so
//!   numbered ≥ spooled + lost in every frame.

use std::sync::Arc;

use shunt_domain::{Lane, Timestamp};

use crate::frame::{self, BootState, CoreState};
use crate::ring::{Entry, Ring, RingConsumer};

/// How many bytes of events go into one frame; one drain may take several frames.
const FRAME_BYTES: usize = 1 << 20;

/// How many events are looked at without a break.
const BREATH: usize = 512;

/// Lets others run after every [`BREATH`] events. On a machine with few cores this thread shares
/// one with redirects, and those that come while it works would all wait for the whole frame: with
/// a hundred thousand clicks a second that is half a millisecond, and shows in the 99th percentile.
fn breathe(events: usize) {
    if events.is_multiple_of(BREATH) {
        std::thread::yield_now();
    }
}

/// What kind of frame to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Only if there are events.
    Events,
    /// With or without events.
    Always,
    /// The boot's last frame: nothing is numbered any more and the rings are empty.
    Close,
}

/// One boot's way from its rings to frames.
#[derive(Debug)]
pub(crate) struct Drain {
    /// As of the last durable frame, or of the one being built.
    state: BootState,
    /// How often a frame was durable.
    frames: u64,
    consumers: Vec<RingConsumer>,
    entries: Vec<(Entry, u32)>,
    frame: Vec<u8>,
    pending: bool,
    /// Which core is drained first, so that none starves when frames are full.
    turn: usize,
}

impl Drain {
    /// Goes on from `state` (of the boot's last frame, else a new one) with the rings there are.
    /// `fresh` says that no frame of the boot was written yet.
    pub(crate) fn new(mut state: BootState, fresh: bool, rings: &[Arc<Ring>]) -> Self {
        if let Some(cores) = rings.iter().map(|ring| ring.id().cores).max()
            && cores > state.cores.len()
        {
            state.cores.resize(cores, CoreState::default());
        }
        // A frame that was durable and is damaged now has used numbers that must not be used
        // again; the first ring knows them.
        for ring in rings.iter().filter(|ring| ring.id().core == 0) {
            for (next, noted) in state.lanes.iter_mut().zip(ring.noted_lanes()) {
                *next = noted.max(*next);
            }
        }
        let consumers = rings
            .iter()
            .map(|ring| {
                let position = state.cores.get(ring.id().core).map_or(0, |core| core.position);
                RingConsumer::new(Arc::clone(ring), position)
            })
            .collect();
        let frames = if fresh { 0 } else { state.frame + 1 };
        Self {
            state,
            frames,
            consumers,
            entries: Vec::new(),
            frame: Vec::new(),
            pending: false,
            turn: 0,
        }
    }

    pub(crate) const fn state(&self) -> &BootState {
        &self.state
    }

    /// Builds the next frame, unless one is pending; whether one is pending now.
    pub(crate) fn build(&mut self, build: Build, now: Timestamp) -> bool {
        if self.pending {
            return true;
        }
        let mut counts = [0_u32; Lane::COUNT];
        let mut bytes = [0_u32; Lane::COUNT];
        self.entries.clear();
        let mut total = 0;
        let cores = self.consumers.len();
        for i in 0..cores {
            let core = (self.turn + i) % cores;
            let consumer = &mut self.consumers[core];
            consumer.look();
            while total < FRAME_BYTES
                && let Some(entry) = consumer.next()
            {
                let lane = usize::from(entry.lane.number());
                counts[lane] += 1;
                bytes[lane] += entry.bytes;
                total += entry.bytes as usize;
                self.entries.push((entry, core as u32));
                breathe(self.entries.len());
            }
        }
        self.turn = self.turn.wrapping_add(1);
        if self.entries.is_empty() && build == Build::Events {
            return false;
        }

        let header = frame::header_len(self.state.cores.len());
        self.frame.resize(header + total, 0);
        let mut ends = [0_usize; Lane::COUNT];
        let mut at = header;
        for (end, &len) in ends.iter_mut().zip(&bytes) {
            *end = at;
            at += len as usize;
        }
        for (i, &(entry, core)) in self.entries.iter().enumerate() {
            breathe(i);
            let end = &mut ends[usize::from(entry.lane.number())];
            let start = *end;
            *end += entry.bytes as usize;
            self.consumers[core as usize].copy(entry, &mut self.frame[start..*end]);
        }

        for (next, &count) in self.state.lanes.iter_mut().zip(&counts) {
            *next += u64::from(count);
        }
        for consumer in &self.consumers {
            let ring = consumer.ring();
            // Lost before numbered: each loss has its number before.
            let lost = ring.lost();
            if let Some(core) = self.state.cores.get_mut(ring.id().core) {
                *core =
                    CoreState { position: consumer.position(), numbered: ring.numbered(), lost };
            }
        }
        if build == Build::Close {
            // Numbered, on no ring, in no frame: the event that a killed process was just
            // publishing, and what a damaged ring held.
            let missing = self
                .state
                .numbered()
                .saturating_sub(self.state.spooled())
                .saturating_sub(self.state.lost());
            if let Some(core) = self.state.cores.first_mut() {
                core.lost += missing;
            }
            self.state.closed = true;
        }
        self.state.frame = self.frames;
        if !self.state.unknown {
            self.state.at = now;
        }
        frame::seal(&mut self.frame, &self.state, &counts, &bytes);
        self.pending = true;
        true
    }

    /// The frame that waits to be made durable.
    pub(crate) fn pending(&self) -> Option<&[u8]> {
        self.pending.then_some(&self.frame)
    }

    /// The pending frame is durable: its events' room on the rings is free.
    pub(crate) fn commit(&mut self) {
        self.pending = false;
        self.frames += 1;
        for consumer in &self.consumers {
            if consumer.ring().id().core == 0 {
                consumer.ring().note_lanes(&self.state.lanes);
            }
        }
        for consumer in &self.consumers {
            consumer.release(consumer.position());
        }
    }

    /// What the boot's rings say they lost, before what recovery finds missing is added.
    pub(crate) fn reported_lost(&self) -> u64 {
        self.consumers.iter().map(|consumer| consumer.ring().lost()).sum()
    }

    /// Whether the rings had more than the last frame took.
    pub(crate) fn has_more(&self) -> bool {
        self.consumers.iter().any(RingConsumer::has_more)
    }

    /// Events in the frame that was built last.
    pub(crate) fn built_events(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The boot ended without all of its rings: say so, with the time it was last heard.
    pub(crate) fn mark_unknown(&mut self) {
        self.state.unknown = true;
    }

    /// How many of the boot's rings are here.
    pub(crate) fn rings(&self) -> usize {
        self.consumers.len()
    }
}
