//! One load thread: an epoll loop over its connections and its share of the schedule.
//!
//! Invariants: a request is due at a time fixed before the run; it is sent then, or as soon as a
//! connection is free; nothing in the loop blocks but the one wait. The loop ends by itself, at
//! the latest one timeout after the last request was due.

mod answers;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::epoll;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::conn::{Conn, Inflight, Kind, Phase};
use super::keys::Order;
use super::plan::{Pace, Plan};
use super::sample::Rng;
use super::tally::{Failure, Live, Second, Tally};

/// How often deadlines, reconnects and the second's figures are looked at, in nanoseconds.
const SWEEP: u64 = 10_000_000;
/// Size of the read buffer all connections of a thread share, in bytes.
const SCRATCH: usize = 64 * 1024;
/// Largest answer, in bytes; a larger one counts as malformed.
const MAX_ANSWER: usize = 4 << 20;
/// The timer's name among the events; a connection's is its generation and its index, so that an
/// event of a socket that has been replaced meanwhile is not taken for one of the new socket.
const TIMER: u64 = u64::MAX;

/// One thread's part of a run.
pub(super) struct Worker<'a> {
    plan: &'a Plan,
    live: &'a Live,
    thread: usize,
    /// When the run began; every time in here is nanoseconds after it.
    base: Instant,
    epoll: OwnedFd,
    timer: OwnedFd,
    armed_for: u64,
    conns: Vec<Conn>,
    /// Connections that can take a request, with the generation they were free in; one entry for
    /// each free place in the pipeline.
    free: VecDeque<(usize, u32)>,
    /// Connections with unwritten pipelined requests.
    dirty: Vec<usize>,
    inflight: usize,
    scratch: Vec<u8>,
    rng: Rng,
    order: Order,
    /// How many requests of the schedule are behind us.
    scheduled: u64,
    creates: u64,
    /// When measuring begins and when the last request may be due.
    measure_from: u64,
    stop_at: u64,
    /// No request is to be sent any more.
    done: bool,
    tally: Tally,
    second: u64,
    share: Second,
    acks: Vec<u8>,
    last_answer: u64,
    cpu_before: Option<u64>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        live: &'a Live,
        thread: usize,
        base: Instant,
    ) -> io::Result<Self> {
        // The connections that don't divide evenly go to the first threads.
        let mine =
            plan.connections / plan.threads + usize::from(thread < plan.connections % plan.threads);
        let measure_from = plan.warmup.as_nanos() as u64;
        let worker = Self {
            plan,
            live,
            thread,
            base,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            timer: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?,
            armed_for: 0,
            conns: (0..mine).map(|_| Conn::new()).collect(),
            free: VecDeque::with_capacity(mine * plan.pipeline),
            dirty: Vec::new(),
            inflight: 0,
            scratch: vec![0; SCRATCH],
            rng: Rng::new(plan.seed.wrapping_add((thread as u64) << 32)),
            order: plan.order(thread),
            scheduled: 0,
            creates: 0,
            measure_from,
            stop_at: measure_from + plan.duration.as_nanos() as u64,
            done: false,
            tally: Tally::new(),
            second: 0,
            share: Second::new(),
            acks: Vec::new(),
            last_answer: 0,
            cpu_before: None,
        };
        // Edge-triggered, so that an expired timer need not be read.
        epoll::add(
            &worker.epoll,
            &worker.timer,
            epoll::EventData::new_u64(TIMER),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        Ok(worker)
    }

    /// Runs to the end and returns what was counted.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let timeout = self.plan.timeout.as_nanos() as u64;
        let mut events: Vec<epoll::Event> = Vec::with_capacity(512);
        let mut next_sweep = 0;
        loop {
            let now = self.now();
            if now >= next_sweep {
                self.sweep(now, timeout)?;
                next_sweep = now + SWEEP.min(timeout / 4 + 1);
            }
            if !self.done && (self.is_over(now, timeout) || self.live.stop.load(Ordering::Relaxed))
            {
                self.finish_sending(now);
            }
            if self.done && (self.inflight == 0 || now >= self.stop_at + timeout) {
                break;
            }
            self.dispatch(now)?;
            self.write_acks()?;
            self.wait(&mut events, next_sweep)?;
            for event in events.drain(..) {
                let name = event.data.u64();
                if name != TIMER {
                    self.on_event(name as u32 as usize, (name >> 32) as u32, event.flags)?;
                }
            }
        }
        let now = self.now();
        for index in 0..self.conns.len() {
            self.fail_all(index, Failure::Timeout, now);
        }
        self.write_acks()?;
        self.live.publish(self.second, &self.share);
        self.tally.window_ns = self.last_answer.max(self.stop_at).saturating_sub(self.measure_from);
        Ok(self.tally)
    }

    /// Whether nothing more is to be sent: the time is up, and in an open loop everything that
    /// was due in it has been sent or would no longer be waited for.
    fn is_over(&self, now: u64, timeout: u64) -> bool {
        now >= self.stop_at
            && match self.plan.pace {
                Pace::Closed => true,
                Pace::Open(rate) => self.due(rate) >= self.stop_at || now >= self.stop_at + timeout,
            }
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64
    }

    /// When the request number `scheduled` of this thread is due. Computed from the number and
    /// not from the one before, so that no error adds up; threads take turns.
    fn due(&self, rate: f64) -> u64 {
        let number = self.scheduled as f64 * self.plan.threads as f64 + self.thread as f64;
        (number * 1e9 / rate) as u64
    }

    /// Waits for an event, the next due request or the next sweep, whichever comes first.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, next_sweep: u64) -> io::Result<()> {
        let now = self.now();
        let mut wait = next_sweep.saturating_sub(now);
        if self.plan.spin && !self.done {
            wait = 0;
        } else if let Pace::Open(rate) = self.plan.pace
            && !self.done
            && !self.free.is_empty()
        {
            let due = self.due(rate);
            if due <= now {
                wait = 0;
            } else if due < next_sweep && due != self.armed_for {
                // epoll's own timeout counts milliseconds; a timer descriptor keeps the rate.
                let after = timespec(due - now);
                let once = Itimerspec { it_interval: timespec(0), it_value: after };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
                self.armed_for = due;
            }
        }
        // Rounded up to whole milliseconds: rounded down it would spin.
        let wait = timespec(wait.div_ceil(1_000_000) * 1_000_000);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.plan.spin && events.is_empty() && now >= self.measure_from {
            self.tally.idle_ns += self.now() - now;
        }
        Ok(())
    }

    /// Sends what is due on the connections that are free.
    fn dispatch(&mut self, mut now: u64) -> io::Result<()> {
        let timeout = self.plan.timeout.as_nanos() as u64;
        while !self.done {
            let intended = match self.plan.pace {
                Pace::Closed => now,
                Pace::Open(rate) => {
                    let due = self.due(rate);
                    if due > now || due >= self.stop_at {
                        break;
                    }
                    if due + timeout <= now {
                        // Nobody would still be waiting for this one.
                        self.scheduled += 1;
                        self.fail(due, Failure::Unsent, now);
                        continue;
                    }
                    due
                }
            };
            let Some(index) = self.pop_free() else { break };
            self.scheduled += 1;
            if !self.send(index, intended, now) {
                break;
            }
            now = self.now();
        }
        for index in std::mem::take(&mut self.dirty) {
            self.flush(index, now);
        }
        Ok(())
    }

    /// The connection that has been free the longest.
    fn pop_free(&mut self) -> Option<usize> {
        while let Some((index, generation)) = self.free.pop_front() {
            let current = self.conns.get(index);
            if current.is_some_and(|c| c.generation == generation && c.phase == Phase::Up) {
                return Some(index);
            }
        }
        None
    }

    /// Builds and writes one request. `false` when there is nothing left to ask for.
    fn send(&mut self, index: usize, intended: u64, now: u64) -> bool {
        let plan = self.plan;
        let create = plan.creates > 0.0 && self.rng.unit() < plan.creates;
        let (kind, subject) = if create {
            let number = self.creates * plan.threads as u64 + self.thread as u64;
            self.creates += 1;
            (Kind::Create, number)
        } else {
            match self.order.next(plan.keys.len(), &mut self.rng) {
                Some(key) => (Kind::Read, key),
                None => {
                    // A single pass is over: this thread is done, its window ends here.
                    self.finish_sending(now);
                    return false;
                }
            }
        };
        let Some(conn) = self.conns.get_mut(index) else {
            return true;
        };
        match kind {
            Kind::Read => plan.requests.read(&plan.keys, subject, &mut conn.out),
            Kind::Create => plan.requests.create(subject, &mut conn.out),
        }
        conn.inflight.push_back(Inflight { intended, sent: now, kind, subject });
        self.inflight += 1;
        if intended >= self.measure_from && matches!(plan.pace, Pace::Open(_)) {
            self.tally.slip.saturating_record(now - intended);
        }
        if plan.pipeline == 1 {
            self.flush(index, now);
        } else if self.dirty.last() != Some(&index) {
            self.dirty.push(index);
        }
        true
    }

    fn flush(&mut self, index: usize, now: u64) {
        if self.conns.get_mut(index).is_some_and(|conn| conn.flush().is_err()) {
            self.drop_connection(index, Some(Failure::Reset), now);
        }
    }

    fn on_event(
        &mut self,
        index: usize,
        generation: u32,
        flags: epoll::EventFlags,
    ) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|c| c.generation == generation) else {
            return Ok(());
        };
        match conn.phase {
            Phase::Down { .. } => return Ok(()),
            Phase::Connecting { .. } => {
                if !flags.intersects(
                    epoll::EventFlags::OUT | epoll::EventFlags::ERR | epoll::EventFlags::HUP,
                ) {
                    return Ok(());
                }
                self.on_connected(index);
            }
            Phase::Up => {
                if flags.contains(epoll::EventFlags::OUT) && !conn.out.is_empty() {
                    let now = self.now();
                    self.flush(index, now);
                }
                let readable = epoll::EventFlags::IN
                    | epoll::EventFlags::RDHUP
                    | epoll::EventFlags::ERR
                    | epoll::EventFlags::HUP;
                if flags.intersects(readable) {
                    let ending = readable - epoll::EventFlags::IN;
                    self.on_readable(index, flags.intersects(ending));
                }
            }
        }
        // At once and not after the whole batch: the connection that was answered first must not
        // wait for the others to be read.
        self.dispatch(self.now())
    }

    fn on_connected(&mut self, index: usize) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        if conn.connected().is_err() {
            let now = self.now();
            self.note_failure(Failure::Connect, now);
            self.drop_connection(index, None, now);
            return;
        }
        for _ in 0..self.plan.pipeline {
            self.free.push_back((index, conn.generation));
        }
    }

    fn write_acks(&mut self) -> io::Result<()> {
        if let Some(acks) = &self.plan.acks
            && !self.acks.is_empty()
        {
            acks.write(&self.acks)?;
            self.acks.clear();
        }
        Ok(())
    }

    /// Counts a request that got no answer.
    fn fail(&mut self, intended: u64, failure: Failure, now: u64) {
        let waited = now.saturating_sub(intended);
        self.roll_second(now);
        self.share.failed += 1;
        let is_wait = matches!(failure, Failure::Timeout | Failure::Unsent);
        if is_wait {
            self.share.latency.saturating_record(waited);
        }
        if intended >= self.measure_from {
            self.tally.fail(failure);
            if is_wait {
                self.tally.latency.saturating_record(waited);
            }
        }
    }

    /// Counts a failure that belongs to no request.
    fn note_failure(&mut self, failure: Failure, now: u64) {
        self.roll_second(now);
        self.share.failed += 1;
        if now >= self.measure_from {
            self.tally.fail(failure);
        }
    }

    fn fail_all(&mut self, index: usize, failure: Failure, now: u64) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        for request in std::mem::take(&mut conn.inflight) {
            self.inflight -= 1;
            self.fail(request.intended, failure, now);
        }
    }

    /// Closes a connection; what was in flight on it has failed as `failure` says. One that
    /// carried nothing was closed in order and is opened again without counting an error.
    fn drop_connection(&mut self, index: usize, failure: Option<Failure>, now: u64) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        let connecting = matches!(conn.phase, Phase::Connecting { .. });
        if conn.inflight.is_empty() && !connecting {
            self.tally.reconnects += 1;
        }
        self.fail_all(index, failure.unwrap_or(Failure::Closed), now);
        if let Some(conn) = self.conns.get_mut(index) {
            conn.close(now, connecting);
        }
        if !connecting && !self.done {
            self.connect(index, now);
        }
    }

    fn connect(&mut self, index: usize, now: u64) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        let generation = conn.generation.wrapping_add(1);
        let registered = conn.connect(self.plan.address, now).and_then(|stream| {
            let data = epoll::EventData::new_u64(u64::from(generation) << 32 | index as u64);
            let flags = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            Ok(epoll::add(&self.epoll, stream, data, flags)?)
        });
        if registered.is_err() {
            conn.close(now, true);
            self.note_failure(Failure::Connect, now);
        }
    }

    /// What need not happen at once: deadlines, attempts to connect, the figures of the second.
    fn sweep(&mut self, now: u64, timeout: u64) -> io::Result<()> {
        if self.cpu_before.is_none() && now >= self.measure_from {
            self.cpu_before = Some(thread_cpu());
        }
        for index in 0..self.conns.len() {
            let Some(conn) = self.conns.get(index) else {
                break;
            };
            match conn.phase {
                Phase::Down { retry_at } if retry_at <= now && !self.done => {
                    self.connect(index, now);
                }
                Phase::Connecting { since } if since + timeout <= now => {
                    self.note_failure(Failure::Connect, now);
                    self.drop_connection(index, None, now);
                }
                Phase::Up if conn.inflight.front().is_some_and(|r| r.sent + timeout <= now) => {
                    self.drop_connection(index, Some(Failure::Timeout), now);
                }
                Phase::Down { .. } | Phase::Connecting { .. } | Phase::Up => {}
            }
        }
        self.roll_second(now);
        Ok(())
    }

    /// Publishes the share of a second that is over.
    fn roll_second(&mut self, now: u64) {
        let second = now / 1_000_000_000;
        if second != self.second {
            if !self.share.is_empty() {
                self.live.publish(self.second, &self.share);
                self.share.clear();
            }
            self.second = second;
        }
    }

    /// Ends sending: what was due and found no free connection is charged with its wait.
    fn finish_sending(&mut self, now: u64) {
        self.done = true;
        let end = now.min(self.stop_at);
        if let Pace::Open(rate) = self.plan.pace
            && !self.plan.once
        {
            while self.due(rate) < end {
                let due = self.due(rate);
                self.scheduled += 1;
                self.fail(due, Failure::Unsent, now);
            }
        }
        self.stop_at = end;
        let after = thread_cpu();
        self.tally.cpu_ns = after.saturating_sub(self.cpu_before.unwrap_or(after));
        self.tally.wall_ns = now.saturating_sub(self.measure_from);
    }
}

/// CPU time of the calling thread, in nanoseconds.
fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

fn timespec(nanos: u64) -> Timespec {
    Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 }
}
