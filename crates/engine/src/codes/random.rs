//! Random codes, longer when the space gets crowded, enumerated when it is nearly full.
//!
//! Below the maximum length more than a tenth of collisions makes codes one character longer. At
//! the maximum length the same sign switches from throwing dice to walking through the whole space
//! in a random order, so that the last free code is found after at most one pass and a full space
//! is an error at once instead of an endless loop.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shunt_domain::ports::{BoxFuture, MetaStore};
use shunt_domain::{Code, Deadline, Outcome};

use super::alphabet::{Alphabet, unreserved};
use super::entropy::{Entropy, random_key};
use super::growth::Window;
use super::permute::Permutation;
use super::{AllocateError, CodeSettings, CodeSource, lock};

/// Where the length reached is kept: `<length> <alphabet>`, because another alphabet begins anew.
pub const LENGTH_META: &str = "code-length";

/// How long a full space is believed to be full. Codes are never freed, but the same code is
/// another link on another domain, and a candidate may have been lost between draw and insert.
const RECHECK: Duration = Duration::from_secs(60);

/// The random source.
pub struct RandomSource {
    alphabet: Alphabet,
    max_length: usize,
    recheck: Duration,
    meta: Arc<dyn MetaStore>,
    state: Mutex<State>,
}

struct State {
    entropy: Entropy,
    length: usize,
    saved_length: usize,
    saving: bool,
    window: Window,
    mode: Mode,
    stopped: bool,
}

enum Mode {
    /// Independent draws.
    Dice,
    /// Every code of the maximum length once, in a random order.
    Walk(Walk),
    /// A walk found nothing more; until then no new one begins.
    Full { until: Instant },
}

struct Walk {
    order: Permutation,
    next: u64,
    /// Candidates put back.
    returned: Vec<Code>,
    /// Candidates handed out of this walk.
    drawn: u64,
    /// Candidates whose fate was told since it began.
    reported: u64,
    /// Those of them that became links.
    created: u64,
}

impl Walk {
    fn begin(space: u64) -> Result<Self, AllocateError> {
        let order = Permutation::new(&random_key()?, space);
        Ok(Self { order, next: 0, returned: Vec::new(), drawn: 0, reported: 0, created: 0 })
    }

    fn step(&mut self, alphabet: &Alphabet, length: usize) -> Option<Code> {
        if let Some(code) = self.returned.pop() {
            return Some(code);
        }
        while self.next < self.order.size() {
            let value = self.order.apply(self.next);
            self.next += 1;
            if let Some(code) = unreserved(&alphabet.digits(value, length)) {
                return Some(code);
            }
        }
        None
    }

    /// Whether the walk, at its end, shows that nothing is free: every candidate was judged, or
    /// all that were judged were taken.
    const fn proves_full(&self) -> bool {
        self.reported >= self.drawn || self.created == 0
    }
}

impl RandomSource {
    /// Reads the length reached.
    pub(super) async fn open(
        settings: &CodeSettings,
        meta: Arc<dyn MetaStore>,
        deadline: Deadline,
    ) -> Result<Self, AllocateError> {
        let stored = meta.meta(LENGTH_META, deadline).await?;
        let reached = stored.and_then(|value| parse_reached(&value, &settings.alphabet));
        let length = reached.unwrap_or(0).clamp(settings.length, settings.max_length);
        let state = State {
            entropy: Entropy::new(),
            length,
            saved_length: length,
            saving: false,
            window: Window::default(),
            mode: Mode::Dice,
            stopped: false,
        };
        Ok(Self {
            alphabet: settings.alphabet.clone(),
            max_length: settings.max_length,
            recheck: RECHECK,
            meta,
            state: Mutex::new(state),
        })
    }

    /// The same source with another time after which a full space is looked at again.
    #[cfg(test)]
    pub(super) fn with_recheck(mut self, recheck: Duration) -> Self {
        self.recheck = recheck;
        self
    }

    /// Up to `n` candidates, at least one; no I/O.
    pub(super) fn take(&self, n: usize) -> Result<Vec<Code>, AllocateError> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.stopped {
            return Err(AllocateError::Stopped);
        }
        if let Mode::Full { until } = state.mode {
            if Instant::now() < until {
                return Err(self.exhausted());
            }
            state.mode = self.walk(state.length)?;
        }
        let mut codes = Vec::with_capacity(n);
        while codes.len() < n {
            match &mut state.mode {
                Mode::Dice => codes.push(self.throw(&mut state.entropy, state.length)?),
                Mode::Walk(walk) => match walk.step(&self.alphabet, state.length) {
                    Some(code) => {
                        walk.drawn += 1;
                        codes.push(code);
                    }
                    // These go first: what becomes of them decides whether the walk found all.
                    None if !codes.is_empty() => break,
                    None if walk.proves_full() => {
                        state.mode = Mode::Full { until: Instant::now() + self.recheck };
                        return Err(self.exhausted());
                    }
                    // Candidates are still under way, or got lost: once more. This ends, because
                    // each further walk has created a link.
                    None => *walk = Walk::begin(walk.order.size())?,
                },
                Mode::Full { .. } => return Err(self.exhausted()),
            }
        }
        Ok(codes)
    }

    /// One random code that is no reserved word. The words are a vanishing part of every space
    /// (at most a quarter of the two-letter codes of a two-letter alphabet), so this ends.
    fn throw(&self, entropy: &mut Entropy, length: usize) -> Result<Code, AllocateError> {
        let mut symbols = [0; Code::MAX_LEN];
        let symbols = &mut symbols[..length.clamp(1, Code::MAX_LEN)];
        loop {
            entropy.symbols(&self.alphabet, symbols)?;
            if let Some(code) = unreserved(symbols) {
                return Ok(code);
            }
        }
    }

    /// A walk through the space of `length`; dice where the space is too large to be counted (and
    /// so can't be full).
    fn walk(&self, length: usize) -> Result<Mode, AllocateError> {
        Ok(match self.alphabet.space(length) {
            Some(space) => Mode::Walk(Walk::begin(space)?),
            None => Mode::Dice,
        })
    }

    const fn exhausted(&self) -> AllocateError {
        AllocateError::Exhausted { max_length: self.max_length }
    }

    fn judge(&self, drawn: usize, collided: usize) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        match &mut state.mode {
            Mode::Dice => {
                state.window.report(drawn, collided);
                if !state.window.crowded() {
                    return;
                }
                state.window.clear();
                if state.length < self.max_length {
                    state.length += 1;
                } else if let Ok(mode) = self.walk(state.length) {
                    // Without random bytes dice go on; the next report tries again.
                    state.mode = mode;
                }
            }
            Mode::Walk(walk) => {
                walk.reported += drawn as u64;
                walk.created += drawn.saturating_sub(collided) as u64;
            }
            Mode::Full { .. } => {}
        }
    }

    /// Stores a length that grew. One draw at a time does it; a failure is tried again by the next
    /// one, because all that hangs on it is where a restart begins.
    async fn save_length(&self, deadline: Deadline) {
        let length = {
            let mut state = lock(&self.state);
            if state.saving || state.length == state.saved_length {
                return;
            }
            state.saving = true;
            state.length
        };
        // Dropped with the future when the caller goes away.
        let _saving = Saving(&self.state);
        let value = format!("{length} {}", self.alphabet.as_str()).into_bytes();
        if let Outcome::Done(()) = self.meta.set_meta(LENGTH_META, value, deadline).await {
            lock(&self.state).saved_length = length;
        }
    }
}

struct Saving<'a>(&'a Mutex<State>);

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        lock(self.0).saving = false;
    }
}

fn parse_reached(value: &[u8], alphabet: &Alphabet) -> Option<usize> {
    let (length, of) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    if of == alphabet.as_str() { length.parse().ok() } else { None }
}

impl CodeSource for RandomSource {
    fn draw(
        &self,
        n: usize,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<Code>, AllocateError>> {
        Box::pin(async move {
            self.save_length(deadline).await;
            self.take(n)
        })
    }

    fn report(&self, drawn: usize, collided: usize) {
        self.judge(drawn, collided);
    }

    fn put_back(&self, unused: Vec<Code>) {
        let mut state = lock(&self.state);
        let length = state.length;
        // Dice need nothing back, and codes of an earlier length are not part of this walk.
        if let Mode::Walk(walk) = &mut state.mode {
            let unused: Vec<Code> =
                unused.into_iter().filter(|code| code.as_str().len() == length).collect();
            walk.drawn = walk.drawn.saturating_sub(unused.len() as u64);
            walk.returned.extend(unused);
        }
    }

    fn shutdown(&self, deadline: Deadline) -> BoxFuture<'_, Result<(), AllocateError>> {
        Box::pin(async move {
            self.save_length(deadline).await;
            lock(&self.state).stopped = true;
            Ok(())
        })
    }

    fn length(&self) -> usize {
        lock(&self.state).length
    }
}
