//! Leased counter values, scattered by a keyed permutation.
//!
//! Counter values are durable and leased once ([`RangeLeases`]), the permutation is a bijection on
//! the codes of each length, lengths follow each other: so two values never give the same code. A
//! crash burns the rest of a lease; a clean shutdown gives it back.

use std::sync::{Arc, Mutex};

use shunt_domain::ports::{BoxFuture, META_RANGE_KEY, MetaStore, Range, RangeLeases};
use shunt_domain::{Code, Deadline};

use super::alphabet::{Alphabet, unreserved};
use super::entropy::random_key;
use super::permute::Permutation;
use super::{AllocateError, CodeSettings, CodeSource, lock, settled, until};

/// What a counter value stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This code, and no other value does.
    Code(Code),
    /// A reserved word: skip the value.
    Reserved,
    /// All codes up to the maximum length have lower values.
    Past,
}

/// The pure map from counter values to codes: the codes of the first length in a scattered order,
/// then those of the next length, up to the maximum.
#[derive(Clone, Debug)]
pub struct RangeCodes {
    alphabet: Alphabet,
    lengths: Vec<Length>,
}

#[derive(Clone, Debug)]
struct Length {
    /// The first counter value of this length.
    from: u64,
    length: usize,
    order: Permutation,
}

impl RangeCodes {
    /// The map for these settings under `key`.
    pub fn new(alphabet: Alphabet, length: usize, max_length: usize, key: &[u8; 32]) -> Self {
        let mut lengths = Vec::new();
        let mut from = 0_u64;
        for length in length..=max_length {
            let countable = length.min(alphabet.countable_length());
            let size = alphabet.space(countable).unwrap_or(Alphabet::MAX_COUNTED);
            lengths.push(Length { from, length, order: Permutation::new(key, size) });
            match from.checked_add(size) {
                Some(next) => from = next,
                // The counter itself can't get past this length.
                None => break,
            }
        }
        Self { alphabet, lengths }
    }

    /// The code of a counter value. Some microseconds.
    pub fn place(&self, counter: u64) -> Place {
        let Some(at) = self.lengths.iter().rfind(|length| length.from <= counter) else {
            return Place::Past;
        };
        let index = counter - at.from;
        if index >= at.order.size() {
            return Place::Past;
        }
        let value = at.order.apply(index);
        let counted = at.length.min(self.alphabet.countable_length());
        // Longer than 2^63 codes can fill: characters derived from the rest stand in front, so
        // that such codes don't all begin with the same ones. The rest alone is unique already.
        let mut symbols: Vec<u8> = (counted..at.length)
            .map(|position| self.alphabet.symbol(at.order.prf(0x80 | position as u8, value)))
            .collect();
        symbols.extend(self.alphabet.digits(value, counted));
        unreserved(&symbols).map_or(Place::Reserved, Place::Code)
    }

    /// The length of the code at a counter value.
    fn length_at(&self, counter: u64) -> usize {
        self.lengths.iter().rfind(|length| length.from <= counter).map_or(0, |at| at.length)
    }
}

/// The range source.
pub struct RangeSource {
    codes: RangeCodes,
    max_length: usize,
    lease: u64,
    leases: Arc<dyn RangeLeases>,
    /// Held while a lease is taken, so that callers who find nothing take one together.
    leasing: tokio::sync::Mutex<()>,
    hand: Mutex<Hand>,
}

struct Hand {
    rest: Range,
    returned: Vec<Code>,
    past: bool,
    stopped: bool,
}

impl RangeSource {
    /// Reads the permutation key, or makes it: 32 random bytes, once per store and restore.
    pub(super) async fn open(
        settings: &CodeSettings,
        lease: u64,
        leases: Arc<dyn RangeLeases>,
        meta: &dyn MetaStore,
        deadline: Deadline,
    ) -> Result<Self, AllocateError> {
        let fresh = random_key()?.to_vec();
        let stored = settled(meta.meta_or_insert(META_RANGE_KEY, fresh, deadline).await)?;
        let key = <[u8; 32]>::try_from(stored.as_slice()).map_err(|_| {
            let why = format!("{META_RANGE_KEY} has {} bytes instead of 32", stored.len());
            AllocateError::Store(shunt_domain::StoreError::Corrupt(why))
        })?;
        Ok(Self {
            codes: RangeCodes::new(
                settings.alphabet.clone(),
                settings.length,
                settings.max_length,
                &key,
            ),
            max_length: settings.max_length,
            lease: lease.max(1),
            leases,
            leasing: tokio::sync::Mutex::new(()),
            hand: Mutex::new(Hand {
                rest: Range { start: 0, end: 0 },
                returned: Vec::new(),
                past: false,
                stopped: false,
            }),
        })
    }

    const fn exhausted(&self) -> AllocateError {
        AllocateError::Exhausted { max_length: self.max_length }
    }

    /// Up to `n` codes of the lease in hand.
    fn take_from_hand(&self, n: usize) -> Result<Vec<Code>, AllocateError> {
        let mut hand = lock(&self.hand);
        if hand.stopped {
            return Err(AllocateError::Stopped);
        }
        let kept = hand.returned.len().saturating_sub(n);
        let mut codes = hand.returned.split_off(kept);
        while codes.len() < n && hand.rest.start < hand.rest.end {
            match self.codes.place(hand.rest.start) {
                Place::Code(code) => codes.push(code),
                Place::Reserved => {}
                Place::Past => {
                    hand.past = true;
                    hand.rest.start = hand.rest.end;
                    break;
                }
            }
            hand.rest.start += 1;
        }
        if codes.is_empty() && hand.past { Err(self.exhausted()) } else { Ok(codes) }
    }

    async fn lease(&self, deadline: Deadline) -> Result<(), AllocateError> {
        let _leasing = until(deadline, self.leasing.lock()).await?;
        {
            let hand = lock(&self.hand);
            if hand.rest.start < hand.rest.end || hand.past || hand.stopped {
                return Ok(());
            }
        }
        let fresh = settled(self.leases.lease(self.lease, deadline).await)?;
        let stopped = {
            let mut hand = lock(&self.hand);
            if !hand.stopped {
                hand.rest = fresh;
            }
            hand.stopped
        };
        if stopped {
            settled(self.leases.give_back(fresh, deadline).await)?;
        }
        Ok(())
    }
}

impl CodeSource for RangeSource {
    fn draw(
        &self,
        n: usize,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Vec<Code>, AllocateError>> {
        Box::pin(async move {
            if n == 0 {
                return Ok(Vec::new());
            }
            loop {
                let codes = self.take_from_hand(n)?;
                if !codes.is_empty() {
                    return Ok(codes);
                }
                self.lease(deadline).await?;
            }
        })
    }

    /// Nothing to learn: a collision here is a code somebody chose, or one of another allocator.
    fn report(&self, _drawn: usize, _collided: usize) {}

    fn put_back(&self, unused: Vec<Code>) {
        lock(&self.hand).returned.extend(unused);
    }

    fn shutdown(&self, deadline: Deadline) -> BoxFuture<'_, Result<(), AllocateError>> {
        Box::pin(async move {
            let rest = {
                let mut hand = lock(&self.hand);
                hand.stopped = true;
                hand.returned.clear();
                let rest = hand.rest;
                hand.rest.start = rest.end;
                rest
            };
            if rest.start < rest.end {
                settled(self.leases.give_back(rest, deadline).await)?;
            }
            Ok(())
        })
    }

    fn length(&self) -> usize {
        self.codes.length_at(lock(&self.hand).rest.start)
    }
}
