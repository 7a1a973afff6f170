//! Makes one link: a wanted code or a generated one, once per idempotency key.

use std::collections::HashSet;
use std::sync::Arc;

use shunt_domain::ports::{CreatedOnce, RenderCreated};
use shunt_domain::{
    Code, Deadline, DomainId, Link, LinkKey, NewLink, Outcome, Stored, Timestamp, Version,
};

use super::draft::{self, Checked, Draft};
use super::error::{LinkError, settle};
use super::{DrawError, Links};
use crate::auth::Actor;
use crate::idempotency::{self, Answer, Begun, Once, StoredAnswer};

/// How often a generated code is simply drawn anew when it was taken. With less than a tenth of
/// the space in use, four collisions in a row happen once in ten thousand creates.
const DRAWS: usize = 4;
/// How often a code found free by looking is tried afterwards (others may take it first).
const FINDS: usize = 4;
/// How many candidates are drawn at once when free ones are rare.
const FIND_BATCH: usize = 1_024;
/// How many different candidates are looked up before the space counts as used up: all of a
/// space of two base62 characters (3,844), in about 25 ms embedded.
const FIND_DISTINCT: usize = 4_096;
/// How many candidates are drawn for that; 16 for each code of a space of 4,096 leave one of
/// them out once in nine million times.
const FIND_DRAWS: usize = 65_536;

/// What an earlier attempt left behind under its code.
pub(super) enum Earlier {
    /// Nothing.
    Nothing,
    /// The link it made.
    Ours(Box<Link>),
    /// The tombstone of the link it made.
    Gone,
    /// Somebody else's row.
    Other,
}

/// What tells an attempt's own link from others.
pub(super) struct Mark<'a> {
    pub(super) checked: Result<&'a Checked, &'a Draft>,
    pub(super) actor: &'a Actor,
    pub(super) began_at: Timestamp,
}

impl Mark<'_> {
    /// Judges the row under the earlier attempt's code.
    ///
    /// Its own link has the same owner and is not older than the attempt. A code that somebody
    /// asked for says little by itself, so the target must be the same. A generated one was drawn
    /// for this attempt alone: its target may have been edited since.
    pub(super) fn judge(&self, row: Option<Stored>) -> Earlier {
        let (generated, owner) = match self.checked {
            Ok(checked) => (checked.code.is_none(), checked.owner()),
            Err(draft) => (draft.code.is_none(), draft.owner.unwrap_or_else(|| self.actor.owner())),
        };
        match row {
            None => Earlier::Nothing,
            Some(Stored::Link(link)) => {
                let same_target = match self.checked {
                    Ok(checked) => *checked.target() == link.data.target,
                    Err(draft) => draft.target == link.data.target.as_str(),
                };
                let edited = generated && link.version > Version::FIRST;
                let mine = link.data.owner == owner && link.data.created_at >= self.began_at;
                if mine && (same_target || edited) { Earlier::Ours(link) } else { Earlier::Other }
            }
            Some(Stored::Tombstone(tombstone)) => {
                let mine = tombstone.owner == owner && tombstone.created_at >= self.began_at;
                if mine { Earlier::Gone } else { Earlier::Other }
            }
        }
    }
}

/// Makes the answer of a link that is stored.
type Render = Arc<dyn Fn(&Link) -> StoredAnswer + Send + Sync>;

/// How an attempt began.
enum Start {
    /// It is done: link and answer are stored.
    Made(Box<Link>),
    /// The key row knows of it.
    Begun(Begun),
}

/// Whether the store may know the code that an attempt began with. Else nobody was offered it.
fn may_be_used(start: &Result<Start, LinkError>) -> bool {
    match start {
        Ok(Start::Made(_) | Start::Begun(Begun::Go { resumed: false, .. })) => true,
        Ok(Start::Begun(_)) => false,
        Err(error) => {
            matches!(error, LinkError::Unknown(_) | LinkError::Taken | LinkError::Retired)
        }
    }
}

impl Links {
    /// Creates a link.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn create(
        &self,
        actor: &Actor,
        draft: &Draft,
        deadline: Deadline,
    ) -> Result<Link, LinkError> {
        let domain = self.domain_for_write(actor, draft.domain.as_deref(), deadline).await?;
        let checked = self.check(actor, draft, domain)?;
        let now = self.ports.clock.now();
        if let Some(code) = checked.code.clone() {
            return self.insert(checked.with_code(code, now), deadline).await;
        }
        for attempt in 0.. {
            let code = self.candidate(domain, attempt, deadline).await?;
            let created = self.insert(checked.with_code(code, now), deadline).await;
            if !self.collided(&created) {
                return created;
            }
        }
        Err(LinkError::CodesExhausted)
    }

    /// Creates a link once per idempotency key; `render` makes the answer that is stored.
    ///
    /// Where links and key rows live in one database ([`super::Ports::once`]), both are written in
    /// one transaction. Elsewhere the key row goes first, with the code. An attempt that finds the
    /// row of an earlier one goes on with its code and takes a link under it as its own when owner and
    /// time fit, and the target does or was edited since. A link that was made and deleted again
    /// is [`LinkError::Retired`], never made a second time.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn create_once(
        &self,
        actor: &Actor,
        draft: &Draft,
        once: &Once,
        render: impl Fn(&Link) -> StoredAnswer + Send + Sync + 'static,
        deadline: Deadline,
    ) -> Result<Answer<Link>, LinkError> {
        let domain = self.domain_for_write(actor, draft.domain.as_deref(), deadline).await?;
        let render: Render = Arc::new(render);
        for attempt in 0.. {
            let drawn = match &draft.code {
                // What is no code is told below, after the row was asked for an older answer.
                Some(text) => Ok(Code::parse(text).ok()),
                None => self.candidate(domain, attempt, deadline).await.map(Some),
            };
            let wanted = drawn.as_ref().ok().and_then(Option::as_ref);
            let checked = self.check(actor, draft, domain).ok();
            let start = self.start(checked.as_ref(), once, wanted, &render, deadline).await;
            if let (None, Ok(Some(code)), false) = (&draft.code, &drawn, may_be_used(&start)) {
                self.codes.put_back(vec![code.clone()]);
            }
            let begun = match start {
                Ok(Start::Made(link)) => return Ok(Answer::Now(*link)),
                Ok(Start::Begun(begun)) => begun,
                Err(LinkError::Taken | LinkError::Retired) if draft.code.is_none() => continue,
                Err(error) => return Err(error),
            };
            let (choice, began_at, resumed) = match begun {
                Begun::Done(answer) => return Ok(Answer::Replayed(answer)),
                Begun::Go { choice, began_at, resumed } => (choice, began_at, resumed),
            };
            let result = match drawn {
                // Nothing was drawn, and nobody drew before: there is no code to work with.
                Err(error) if choice.is_empty() => Err(error),
                _ => self.attempt(actor, draft, domain, &choice, began_at, resumed, deadline).await,
            };
            match result {
                Ok(link) => {
                    self.idempotency.complete(once, &render(&link), deadline).await;
                    return Ok(Answer::Now(link));
                }
                Err(LinkError::Taken) if draft.code.is_none() => {
                    // The row must not keep the useless choice; if it may, somebody else goes on.
                    if !self.idempotency.abandon(once, deadline).await {
                        return Err(LinkError::StillRunning);
                    }
                }
                Err(error) => {
                    if !error.is_unknown() {
                        self.idempotency.abandon(once, deadline).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(LinkError::CodesExhausted)
    }

    /// Begins an attempt under the code `wanted`: with the link itself, where one transaction can
    /// hold both and everything about the link is right.
    async fn start(
        &self,
        checked: Option<&Checked>,
        once: &Once,
        wanted: Option<&Code>,
        render: &Render,
        deadline: Deadline,
    ) -> Result<Start, LinkError> {
        let choice = wanted.map(ToString::to_string).unwrap_or_default();
        let (Some(port), Some(checked), Some(code)) = (&self.ports.once, checked, wanted) else {
            return self.idempotency.begin(once, choice, deadline).await.map(Start::Begun);
        };
        let request = self.idempotency.request(once, choice, deadline);
        let link = checked.with_code(code.clone(), request.now);
        let key = link.key.clone();
        let render = Arc::clone(render);
        let stored: RenderCreated = Arc::new(move |link| {
            let answer = render(link);
            (answer.status, answer.response)
        });
        let made = match port.create_once(link, request, stored, deadline).await {
            Outcome::Done(CreatedOnce::Earlier(state)) => {
                return idempotency::judge(state).map(Start::Begun);
            }
            Outcome::Done(CreatedOnce::Created(link)) => Outcome::Done(link),
            Outcome::Refused(refusal) => Outcome::Refused(refusal),
            Outcome::Unknown(cause) => Outcome::Unknown(cause),
        };
        let news = self.noted(&key, Version::FIRST, &made, |link| super::cached(link));
        self.tell(news).await;
        let made = settle(made);
        if checked.code.is_none() {
            self.collided(&made);
        }
        made.map(Start::Made)
    }

    /// One attempt under the code of the key row. [`LinkError::Taken`] for a generated code that
    /// is somebody else's, tombstones included.
    #[expect(clippy::too_many_arguments, reason = "the parts of one attempt")]
    async fn attempt(
        &self,
        actor: &Actor,
        draft: &Draft,
        domain: DomainId,
        choice: &str,
        began_at: Timestamp,
        resumed: bool,
        deadline: Deadline,
    ) -> Result<Link, LinkError> {
        let checked = self.check(actor, draft, domain);
        let code = Code::parse(choice).ok();
        if resumed && let Some(code) = code.clone() {
            let mark = Mark { checked: checked.as_ref().map_err(|_| draft), actor, began_at };
            let row = self.read(&LinkKey::new(domain, code), deadline).await?;
            match mark.judge(row) {
                Earlier::Nothing => {}
                Earlier::Ours(link) => return Ok(*link),
                Earlier::Gone => return Err(LinkError::Retired),
                Earlier::Other if draft.code.is_none() => return Err(LinkError::Taken),
                // The store tells taken from retired.
                Earlier::Other => {}
            }
        }
        let checked = checked?;
        let Some(code) = code else {
            // A row without a code: its first attempt got none. `check` has judged a wanted one.
            return Err(if draft.code.is_none() { LinkError::Taken } else { LinkError::NotFound });
        };
        // Not older than the row, whatever the clock does: a later attempt goes by it.
        let created_at = self.ports.clock.now().max(began_at);
        let created = self.insert(checked.with_code(code, created_at), deadline).await;
        if draft.code.is_none() && self.collided(&created) {
            return Err(LinkError::Taken);
        }
        created
    }

    pub(super) fn check(
        &self,
        actor: &Actor,
        draft: &Draft,
        domain: DomainId,
    ) -> Result<Checked, LinkError> {
        let table = self.domains();
        Ok(draft::check(draft, domain, actor, table.rules(), self.ports.clock.now())?)
    }

    async fn insert(&self, link: NewLink, deadline: Deadline) -> Result<Link, LinkError> {
        let key = link.key.clone();
        let outcome = self.ports.writer.create(link, deadline).await;
        self.tell(self.noted(&key, Version::FIRST, &outcome, super::cached)).await;
        settle(outcome)
    }

    /// Whether a generated code was taken; tells the allocator either way.
    fn collided<T>(&self, created: &Result<T, LinkError>) -> bool {
        let collided = matches!(created, Err(LinkError::Taken | LinkError::Retired));
        if collided || created.is_ok() {
            self.codes.report(1, usize::from(collided));
        }
        collided
    }

    /// A code to try: a plain draw first, later one that is free at this moment.
    pub(super) async fn candidate(
        &self,
        domain: DomainId,
        attempt: usize,
        deadline: Deadline,
    ) -> Result<Code, LinkError> {
        if attempt >= DRAWS + FINDS {
            return Err(LinkError::CodesExhausted);
        }
        if attempt >= DRAWS {
            return self.find_free(domain, deadline).await;
        }
        let drawn = self.codes.draw(1, deadline).await?;
        drawn.into_iter().next().ok_or_else(|| DrawError::Exhausted.into())
    }

    /// At least `needed` candidates and hopefully `n`, or as many as there are. Asks once more
    /// only while some are missing: a source near its end learns from what becomes of the first.
    pub(super) async fn draw_many(
        &self,
        n: usize,
        needed: usize,
        deadline: Deadline,
    ) -> (Vec<Code>, Option<LinkError>) {
        let mut codes = Vec::with_capacity(n);
        loop {
            match self.codes.draw(n - codes.len(), deadline).await {
                Ok(more) if more.is_empty() => return (codes, Some(LinkError::CodesExhausted)),
                Ok(more) => codes.extend(more),
                Err(error) => return (codes, Some(error.into())),
            }
            if codes.len() >= needed {
                return (codes, None);
            }
        }
    }

    /// Looks for a candidate that nobody has, in a space where most are taken. Bounded: 4,096
    /// reads of the store, or the deadline.
    async fn find_free(&self, domain: DomainId, deadline: Deadline) -> Result<Code, LinkError> {
        let mut seen = HashSet::new();
        let mut drawn = 0;
        while seen.len() < FIND_DISTINCT && drawn < FIND_DRAWS {
            Self::time_left(deadline)?;
            let batch = self.codes.draw(FIND_BATCH, deadline).await?;
            if batch.is_empty() {
                break;
            }
            drawn += batch.len();
            let mut tried = 0;
            let mut batch = batch.into_iter();
            while let Some(code) = batch.next() {
                if !seen.insert(code.clone()) {
                    continue;
                }
                tried += 1;
                let key = LinkKey::new(domain, code);
                if self.read(&key, deadline).await?.is_none() {
                    self.codes.report(tried, tried - 1);
                    self.codes.put_back(batch.collect());
                    return Ok(key.code);
                }
            }
            self.codes.report(tried, tried);
        }
        Err(LinkError::CodesExhausted)
    }
}
