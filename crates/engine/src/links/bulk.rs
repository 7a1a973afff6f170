//! Makes many links: chunks of at most [`CHUNK`] rows, each chunk one durable transaction for
//! each kind of row, and each chunk once per idempotency key.
//!
//! With a key, the codes of a chunk are drawn before its key row is written and are kept in it,
//! spare ones included. A resumed attempt walks the same rows, in the same order, with the same
//! codes and spares as the first one, so it finds exactly what the first one made.

use std::collections::HashSet;

use shunt_domain::ports::CreateRefusal;
use shunt_domain::{
    Code, Deadline, Link, LinkKey, NewLink, OwnerId, StoreError, Stored, Timestamp, Tombstone,
    Version,
};

use super::create::{Earlier, Mark};
use super::draft::{Checked, Draft, check, parse_code};
use super::error::{FieldError, LinkError, settle};
use super::{Links, journal};
use crate::auth::Actor;
use crate::idempotency::{Begun, Once, StoredAnswer};

/// The most rows of one transaction.
pub const CHUNK: usize = 1_000;
/// How many rounds of drawing anew may be in vain before single codes are looked for.
const ROUNDS: usize = 4;

/// A row to be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportRow {
    /// A new link.
    Create(Box<Draft>),
    /// A link out of an export, to be put back as it was.
    Restore(Box<RestoreDraft>),
    /// A deleted link out of an export.
    Tombstone(TombstoneDraft),
}

/// A link out of an export. Its target and fields are judged as those of a new one, except that
/// it may have expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreDraft {
    /// The link; its code is required.
    pub draft: Draft,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Its version.
    pub version: Version,
    /// Redirects used up of `max_clicks`.
    pub used: u64,
}

/// A deleted link out of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TombstoneDraft {
    /// Its code.
    pub code: String,
    /// The host name it lived on; `None` for the default domain.
    pub domain: Option<String>,
    /// Whose it was.
    pub owner: OwnerId,
    /// When it had been created.
    pub created_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// One more than its last version.
    pub version: Version,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOutcome {
    /// A link was made.
    Created {
        /// Its code and domain.
        key: LinkKey,
        /// Its version.
        version: Version,
    },
    /// A row of an export was put back.
    Restored {
        /// Its code and domain.
        key: LinkKey,
    },
    /// The very same link, or tombstone, is there already.
    Exists {
        /// Its code and domain.
        key: LinkKey,
    },
    /// It was not taken in.
    Refused(LinkError),
}

/// What became of a chunk: one outcome a row, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The outcomes.
    pub rows: Vec<RowOutcome>,
    /// Whether they are those of an earlier request with the same key.
    pub replayed: bool,
}

/// A row on its way.
enum Row {
    /// Settled.
    Settled(RowOutcome),
    /// A new link, with the code to try next.
    Create { draft: Box<Draft>, checked: Box<Checked>, code: Option<Code> },
    /// A row to put back.
    Restore(Box<Stored>),
}

/// Codes for the rows that want generated ones, then the spares.
struct Supply {
    codes: std::vec::IntoIter<Code>,
    /// Whether more may be drawn when they are used up: not when a key row fixes them.
    fixed: bool,
}

impl Links {
    /// Makes links of at most [`CHUNK`] rows; what the edge refused already keeps its place.
    ///
    /// With `import`, a row whose link is there already, the same in everything it says, counts
    /// as [`RowOutcome::Exists`], so that a repeated import changes nothing.
    ///
    /// # Errors
    /// Only what concerns the chunk as a whole: [`LinkError::KeyReused`],
    /// [`LinkError::StillRunning`], or the key row could not be written. Everything else is said
    /// row by row.
    pub async fn take_chunk(
        &self,
        actor: &Actor,
        rows: Vec<Result<ImportRow, LinkError>>,
        import: bool,
        once: Option<&Once>,
        deadline: Deadline,
    ) -> Result<Chunk, LinkError> {
        let wanting = rows.iter().filter(|row| wants_code(row)).count();
        let Some(once) = once else {
            // Too few, or none: `create_rows` asks again, and tells why there are no more.
            let drawn = match wanting {
                0 => Vec::new(),
                n => self.codes.draw(n, deadline).await.unwrap_or_default(),
            };
            let mut supply = Supply { codes: drawn.into_iter(), fixed: false };
            let rows = self.settle_rows(actor, rows, &mut supply, import, None, deadline).await;
            self.codes.put_back(supply.codes.collect());
            return Ok(Chunk { rows, replayed: false });
        };
        let (drawn, short) = match wanting {
            0 => (Vec::new(), None),
            // A quarter more than needed: with more collisions the space is all but full.
            n => self.draw_many(n + n / 4 + 16, n, deadline).await,
        };
        let choice = drawn.iter().map(Code::as_str).collect::<Vec<_>>().join(" ");
        let begun = self.idempotency.begin(once, choice, deadline).await;
        let fresh = matches!(begun, Ok(Begun::Go { resumed: false, .. }));
        if !fresh && !matches!(begun, Err(LinkError::Unknown(_))) {
            self.codes.put_back(drawn);
        }
        let (choice, began_at, resumed) = match begun? {
            Begun::Done(answer) => {
                let rows = journal::decode(&answer.response).ok_or_else(|| {
                    StoreError::Corrupt("the stored outcome of a batch can't be read".to_owned())
                })?;
                return Ok(Chunk { rows, replayed: true });
            }
            Begun::Go { choice, began_at, resumed } => (choice, began_at, resumed),
        };
        if choice.is_empty() && wanting > 0 {
            self.idempotency.abandon(once, deadline).await;
            // An earlier attempt got no code either; the next one begins anew.
            return Err(short.unwrap_or(LinkError::StillRunning));
        }
        let codes: Vec<Code> =
            choice.split(' ').filter_map(|code| Code::parse(code).ok()).collect();
        let mut supply = Supply { codes: codes.into_iter(), fixed: true };
        let mark = Some((began_at, resumed));
        let rows = self.settle_rows(actor, rows, &mut supply, import, mark, deadline).await;
        let nothing_done = rows.iter().all(|row| matches!(row, RowOutcome::Refused(_)));
        let unknown =
            rows.iter().any(|row| matches!(row, RowOutcome::Refused(LinkError::Unknown(_))));
        if let Some(response) = journal::encode(&rows) {
            let answer = StoredAnswer { status: 200, response };
            self.idempotency.complete(once, &answer, deadline).await;
            // Nobody resumes what is complete; and if it is not, the primary key judges.
            self.codes.put_back(supply.codes.collect());
        } else if nothing_done && !unknown {
            self.idempotency.abandon(once, deadline).await;
        }
        Ok(Chunk { rows, replayed: false })
    }

    async fn settle_rows(
        &self,
        actor: &Actor,
        rows: Vec<Result<ImportRow, LinkError>>,
        supply: &mut Supply,
        import: bool,
        mark: Option<(Timestamp, bool)>,
        deadline: Deadline,
    ) -> Vec<RowOutcome> {
        let mut settled = Vec::with_capacity(rows.len());
        for row in rows {
            // Codes are dealt before anything is judged: the same row gets the same code in every
            // attempt, whatever time has done to the rows before it.
            let code = if wants_code(&row) { supply.codes.next() } else { None };
            settled.push(match row {
                Err(error) => Row::Settled(RowOutcome::Refused(error)),
                Ok(row) => match self.prepare(actor, row, code, deadline).await {
                    Ok(row) => row,
                    Err(error) => Row::Settled(RowOutcome::Refused(error)),
                },
            });
        }
        self.restore_rows(&mut settled, deadline).await;
        self.create_rows(actor, &mut settled, supply, import, mark, deadline).await;
        settled
            .into_iter()
            .map(|row| match row {
                Row::Settled(outcome) => outcome,
                // Only rows without a code are left: see `create_rows`.
                Row::Create { .. } | Row::Restore(_) => {
                    RowOutcome::Refused(LinkError::CodesExhausted)
                }
            })
            .collect()
    }

    async fn prepare(
        &self,
        actor: &Actor,
        row: ImportRow,
        code: Option<Code>,
        deadline: Deadline,
    ) -> Result<Row, LinkError> {
        match row {
            ImportRow::Create(draft) => {
                let domain =
                    self.domain_for_write(actor, draft.domain.as_deref(), deadline).await?;
                let checked = Box::new(self.check(actor, &draft, domain)?);
                let code = checked.code.clone().or(code);
                Ok(Row::Create { draft, checked, code })
            }
            ImportRow::Restore(row) => {
                let domain =
                    self.domain_for_write(actor, row.draft.domain.as_deref(), deadline).await?;
                let table = self.domains();
                // Whatever has expired is put back as expired.
                let ever = Timestamp::from_millis(i64::MIN);
                let checked = check(&row.draft, domain, actor, table.rules(), ever)?;
                let code = checked.code.clone().ok_or_else(code_missing)?;
                let data = checked.with_code(code, row.created_at);
                let RestoreDraft { updated_at, version, used, .. } = *row;
                if version < Version::FIRST {
                    return Err(bad_version().into());
                }
                let link = Link { data, version, updated_at, used };
                Ok(Row::Restore(Box::new(Stored::Link(Box::new(link)))))
            }
            ImportRow::Tombstone(row) => {
                let domain = self.domain_for_write(actor, row.domain.as_deref(), deadline).await?;
                if row.version <= Version::FIRST {
                    return Err(bad_version().into());
                }
                Ok(Row::Restore(Box::new(Stored::Tombstone(Tombstone {
                    key: LinkKey::new(domain, parse_code(&row.code)?),
                    owner: row.owner,
                    created_at: row.created_at,
                    deleted_at: row.deleted_at,
                    version: row.version,
                }))))
            }
        }
    }

    async fn restore_rows(&self, rows: &mut [Row], deadline: Deadline) {
        let wanted: Vec<Stored> = rows
            .iter()
            .filter_map(|row| match row {
                Row::Restore(stored) => Some((**stored).clone()),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let outcome = settle(self.ports.writer.restore_many(wanted, deadline).await);
        let mut results = outcome.map(Vec::into_iter);
        for row in rows {
            let Row::Restore(stored) = row else { continue };
            let key = stored.key().clone();
            let outcome = match &mut results {
                Err(error) => RowOutcome::Refused(error.clone()),
                Ok(results) => match results.next() {
                    Some(Ok(())) => RowOutcome::Restored { key: key.clone() },
                    Some(Err(refusal)) => self.restored_before(stored, refusal, deadline).await,
                    None => RowOutcome::Refused(short_answer()),
                },
            };
            if matches!(
                outcome,
                RowOutcome::Restored { .. } | RowOutcome::Refused(LinkError::Unknown(_))
            ) {
                self.changed.link_changed(&key, stored.version());
            }
            *row = Row::Settled(outcome);
        }
    }

    /// What a refused row of an export is: the same row, put back before, or a conflict.
    async fn restored_before(
        &self,
        wanted: &Stored,
        refusal: CreateRefusal,
        deadline: Deadline,
    ) -> RowOutcome {
        let same = match self.read(wanted.key(), deadline).await {
            Ok(Some(there)) => match (wanted, &there) {
                // Uses move on without an edit; everything else must be as it was.
                (Stored::Link(a), Stored::Link(b)) => a.data == b.data && a.version == b.version,
                (Stored::Tombstone(a), Stored::Tombstone(b)) => a == b,
                _ => false,
            },
            Ok(None) => false,
            Err(error) => return RowOutcome::Refused(error.into()),
        };
        if same {
            RowOutcome::Exists { key: wanted.key().clone() }
        } else {
            RowOutcome::Refused(refusal.into())
        }
    }

    async fn create_rows(
        &self,
        actor: &Actor,
        rows: &mut [Row],
        supply: &mut Supply,
        import: bool,
        mark: Option<(Timestamp, bool)>,
        deadline: Deadline,
    ) {
        let now = self.ports.clock.now();
        let created_at = mark.map_or(now, |(began_at, _)| now.max(began_at));
        let mut claimed = HashSet::new();
        let (mut stuck, mut short_before) = (0, usize::MAX);
        loop {
            if let Some((began_at, true)) = mark {
                self.recognise(actor, rows, began_at, &mut claimed, deadline).await;
            }
            self.write_round(rows, import, created_at, deadline).await;
            let short = rows.iter().filter(|row| lacks_code(row)).count();
            if short == 0 {
                return;
            }
            // Each round has one row less, or is one of few that are in vain.
            stuck = if short < short_before { 0 } else { stuck + 1 };
            short_before = short;
            if !supply.fixed {
                if stuck >= ROUNDS {
                    return self.find_codes(rows, import, created_at, deadline).await;
                }
                let drawn = match Self::time_left(deadline) {
                    Ok(()) => self.codes.draw(short, deadline).await.map_err(LinkError::from),
                    Err(error) => Err(error),
                };
                match drawn {
                    Ok(codes) => supply.codes = codes.into_iter(),
                    Err(error) => return refuse_rest(rows, &error),
                }
            }
            // Rows that lost their code to a collision get the next one, in row order.
            let mut dealt = false;
            for row in rows.iter_mut() {
                if let Row::Create { code: code @ None, .. } = row {
                    *code = supply.codes.next();
                    dealt |= code.is_some();
                }
            }
            if !dealt {
                return refuse_rest(rows, &LinkError::CodesExhausted);
            }
        }
    }

    /// Settles the rows that an earlier attempt of the same chunk made, and takes the code from
    /// those that lost it to somebody else.
    async fn recognise(
        &self,
        actor: &Actor,
        rows: &mut [Row],
        began_at: Timestamp,
        claimed: &mut HashSet<LinkKey>,
        deadline: Deadline,
    ) {
        for row in rows {
            let Row::Create { draft, checked, code: slot } = row else { continue };
            let Some(code) = slot.clone() else { continue };
            let key = LinkKey::new(checked.domain(), code);
            let there = match self.read(&key, deadline).await {
                Ok(there) => there,
                Err(error) => {
                    *row = Row::Settled(RowOutcome::Refused(error.into()));
                    continue;
                }
            };
            let mark = Mark { checked: Ok(checked), actor, began_at };
            match mark.judge(there) {
                Earlier::Nothing => {}
                // The same code twice in one chunk: the first row made it.
                Earlier::Ours(link) if claimed.insert(key.clone()) => {
                    let version = link.version;
                    *row = Row::Settled(RowOutcome::Created { key, version });
                }
                Earlier::Gone => *row = Row::Settled(RowOutcome::Refused(LinkError::Retired)),
                Earlier::Ours(_) | Earlier::Other if draft.code.is_none() => *slot = None,
                Earlier::Ours(_) | Earlier::Other => {}
            }
        }
    }

    /// Writes every pending row that has a code. Generated codes that are taken are taken away
    /// from their rows; all other rows are settled.
    async fn write_round(
        &self,
        rows: &mut [Row],
        import: bool,
        created_at: Timestamp,
        deadline: Deadline,
    ) {
        let wanted: Vec<NewLink> = rows
            .iter()
            .filter_map(|row| match row {
                Row::Create { checked, code: Some(code), .. } => {
                    Some(checked.with_code(code.clone(), created_at))
                }
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let outcome = settle(self.ports.writer.create_many(wanted, deadline).await);
        let mut results = outcome.map(Vec::into_iter);
        let (mut tried, mut collided) = (0, 0);
        for row in rows {
            let Row::Create { draft, checked, code: slot } = row else { continue };
            let Some(code) = slot.clone() else { continue };
            let key = LinkKey::new(checked.domain(), code);
            let generated = draft.code.is_none();
            let result = match &mut results {
                Err(error) => Err(error.clone()),
                Ok(results) => match results.next() {
                    Some(result) => result.map_err(LinkError::from),
                    None => Err(short_answer()),
                },
            };
            tried += usize::from(generated);
            match result {
                Ok(link) => {
                    self.changed.link_changed(&key, link.version);
                    let version = link.version;
                    *row = Row::Settled(RowOutcome::Created { key, version });
                }
                Err(LinkError::Taken | LinkError::Retired) if generated => {
                    collided += 1;
                    *slot = None;
                }
                Err(error) => {
                    if error.is_unknown() {
                        self.changed.link_changed(&key, Version::FIRST);
                    }
                    let outcome = if import && matches!(error, LinkError::Taken) {
                        self.imported_before(checked, key, deadline).await
                    } else {
                        RowOutcome::Refused(error)
                    };
                    *row = Row::Settled(outcome);
                }
            }
        }
        if tried > 0 && results.is_ok() {
            self.codes.report(tried, collided);
        }
    }

    async fn imported_before(
        &self,
        checked: &Checked,
        key: LinkKey,
        deadline: Deadline,
    ) -> RowOutcome {
        match self.read(&key, deadline).await {
            Ok(Some(Stored::Link(link))) if checked.describes(&link) => RowOutcome::Exists { key },
            Ok(_) => RowOutcome::Refused(LinkError::Taken),
            Err(error) => RowOutcome::Refused(error.into()),
        }
    }

    /// The last resort for rows whose codes keep colliding: looks for free ones, row by row.
    async fn find_codes(
        &self,
        rows: &mut [Row],
        import: bool,
        created_at: Timestamp,
        deadline: Deadline,
    ) {
        for at in 0..rows.len() {
            let Some(one) = rows.get_mut(at..=at) else { return };
            for attempt in ROUNDS.. {
                let [Row::Create { checked, code: slot @ None, .. }] = one else { break };
                match self.candidate(checked.domain(), attempt, deadline).await {
                    Ok(code) => *slot = Some(code),
                    Err(error) => {
                        one.fill_with(|| Row::Settled(RowOutcome::Refused(error.clone())));
                        // The space is full, or the store is gone: no use asking for the rest.
                        return refuse_rest(rows, &error);
                    }
                }
                self.write_round(one, import, created_at, deadline).await;
            }
        }
    }
}

fn wants_code(row: &Result<ImportRow, LinkError>) -> bool {
    matches!(row, Ok(ImportRow::Create(draft)) if draft.code.is_none())
}

fn refuse_rest(rows: &mut [Row], error: &LinkError) {
    for row in rows.iter_mut().filter(|row| lacks_code(row)) {
        *row = Row::Settled(RowOutcome::Refused(error.clone()));
    }
}

fn lacks_code(row: &Row) -> bool {
    matches!(row, Row::Create { code: None, .. })
}

fn code_missing() -> FieldError {
    FieldError::new("code", "missing-field", "a row of an export names its code")
}

fn bad_version() -> FieldError {
    FieldError::new("version", "bad-version", "a link has version 1 or more, a deleted one 2")
}

fn short_answer() -> LinkError {
    StoreError::Corrupt("the store answered fewer rows than it was given".to_owned()).into()
}
