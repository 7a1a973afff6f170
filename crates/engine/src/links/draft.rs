//! What comes from outside to make or change a link, and the rules it is held to.

use std::num::NonZeroU64;

use shunt_domain::link::{MAX_TITLE_CHARS, parse_title};
use shunt_domain::reserved::is_reserved;
use shunt_domain::{
    Code, DomainId, Link, LinkKey, LinkPatch, NewLink, OwnerId, RedirectStatus, Tag, Target,
    TargetRules, Timestamp,
};

use super::error::FieldError;
use crate::auth::Actor;

/// The largest `max_clicks`: what a signed 64-bit column holds.
pub const MAX_CLICKS: u64 = i64::MAX as u64;

/// A link as somebody asks for it, nothing checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Where it leads.
    pub target: String,
    /// The wanted code; `None` for a generated one.
    pub code: Option<String>,
    /// The host name it lives on; `None` for the default domain.
    pub domain: Option<String>,
    /// A name for people.
    pub title: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Before this it answers as if it did not exist.
    pub valid_from: Option<Timestamp>,
    /// From this on it is gone.
    pub expires_at: Option<Timestamp>,
    /// How many redirects it serves in all.
    pub max_clicks: Option<u64>,
    /// The redirect's status code; `None` for 302.
    pub status_code: Option<u16>,
    /// Whether the visitor's query is appended to the target's.
    pub forward_query: bool,
    /// A disabled link answers as one that is gone.
    pub enabled: bool,
    /// Whose link it is: admins only; `None` for the caller's own.
    pub owner: Option<OwnerId>,
}

impl Draft {
    /// A link with everything but its target left to the defaults.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            code: None,
            domain: None,
            title: None,
            tags: Vec::new(),
            valid_from: None,
            expires_at: None,
            max_clicks: None,
            status_code: None,
            forward_query: false,
            enabled: true,
            owner: None,
        }
    }
}

/// A checked draft that only lacks its code (unless it asked for one).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) code: Option<Code>,
    link: NewLink,
}

impl Checked {
    /// The link under a code.
    pub(super) fn with_code(&self, code: Code, created_at: Timestamp) -> NewLink {
        let mut link = self.link.clone();
        link.key.code = code;
        link.created_at = created_at;
        link
    }

    /// Whether an existing link is what this draft asks for, whenever it was made.
    pub(super) fn describes(&self, link: &Link) -> bool {
        let wanted = self.with_code(link.code().clone(), link.data.created_at);
        wanted == link.data
    }

    pub(super) fn owner(&self) -> OwnerId {
        self.link.owner
    }

    pub(super) fn target(&self) -> &Target {
        &self.link.target
    }

    pub(super) fn domain(&self) -> DomainId {
        self.link.key.domain
    }
}

/// Checks everything but the domain, which is looked up by the caller. `now` judges `expires_at`.
pub(super) fn check(
    draft: &Draft,
    domain: DomainId,
    actor: &Actor,
    rules: &TargetRules,
    now: Timestamp,
) -> Result<Checked, FieldError> {
    let target = Target::parse(&draft.target, rules).map_err(FieldError::target)?;
    let code = draft.code.as_deref().map(parse_code).transpose()?;
    if draft.owner.is_some() && !actor.is_admin() {
        return Err(owner_refused());
    }
    check_window(draft.valid_from, draft.expires_at)?;
    if draft.expires_at.is_some_and(|at| at <= now) {
        return Err(FieldError::new(
            "expires_at",
            "already-expired",
            "the link would have expired already; give a time in the future",
        ));
    }
    let link = NewLink {
        // Overwritten by `with_code`; any code will do until then.
        key: LinkKey::new(domain, code.clone().unwrap_or_else(placeholder)),
        target,
        title: draft.title.as_deref().map(check_title).transpose()?.flatten(),
        tags: check_tags(&draft.tags)?,
        owner: draft.owner.unwrap_or_else(|| actor.owner()),
        created_at: now,
        valid_from: draft.valid_from,
        expires_at: draft.expires_at,
        max_clicks: draft.max_clicks.map(check_max_clicks).transpose()?,
        status: draft.status_code.map(check_status).transpose()?.unwrap_or_default(),
        forward_query: draft.forward_query,
        enabled: draft.enabled,
    };
    Ok(Checked { code, link })
}

fn placeholder() -> Code {
    Code::parse("-").unwrap_or_else(|_| unreachable!("a hyphen is a code"))
}

fn owner_refused() -> FieldError {
    FieldError::new("owner", "admin-only", "only an admin key may name an owner; leave it out")
}

/// A code that somebody asks for.
///
/// # Errors
/// A [`FieldError`] on `code`.
pub fn parse_code(text: &str) -> Result<Code, FieldError> {
    let code = Code::parse(text)
        .map_err(|error| FieldError::new("code", "bad-code", error.to_string()))?;
    if is_reserved(code.as_str()) {
        return Err(FieldError::new(
            "code",
            "reserved-code",
            "this word belongs to the service itself; choose another code",
        ));
    }
    Ok(code)
}

fn check_title(text: &str) -> Result<Option<Box<str>>, FieldError> {
    // Also what trimming would take away: the description of the API promises a plain rule.
    let plain = text.chars().count() <= MAX_TITLE_CHARS && !text.chars().any(char::is_control);
    let title = if plain { parse_title(text) } else { None };
    title.ok_or_else(|| {
        FieldError::new(
            "title",
            "bad-title",
            format!("a title has at most {MAX_TITLE_CHARS} characters and no control characters"),
        )
    })
}

fn check_tags(texts: &[String]) -> Result<Vec<Tag>, FieldError> {
    if texts.len() > Tag::MAX_PER_LINK {
        return Err(FieldError::new(
            "tags",
            "too-many-tags",
            format!("a link has at most {} tags", Tag::MAX_PER_LINK),
        ));
    }
    let mut tags = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let plain = text.chars().count() <= Tag::MAX_CHARS && !text.chars().any(char::is_control);
        let tag = if plain { Tag::parse(text) } else { None };
        tags.push(tag.ok_or_else(|| {
            FieldError::new(
                format!("tags[{at}]"),
                "bad-tag",
                "a tag has 1 to 64 characters, no commas and no control characters",
            )
        })?);
    }
    tags.sort();
    tags.dedup();
    Ok(tags)
}

fn check_max_clicks(clicks: u64) -> Result<NonZeroU64, FieldError> {
    NonZeroU64::new(clicks).filter(|clicks| clicks.get() <= MAX_CLICKS).ok_or_else(|| {
        FieldError::new(
            "max_clicks",
            "bad-max-clicks",
            format!("max_clicks is 1 to {MAX_CLICKS}; leave it out for no limit"),
        )
    })
}

fn check_status(code: u16) -> Result<RedirectStatus, FieldError> {
    RedirectStatus::from_code(code).ok_or_else(|| {
        FieldError::new("status_code", "bad-status-code", "status_code is 301, 302, 307 or 308")
    })
}

fn check_window(
    valid_from: Option<Timestamp>,
    expires_at: Option<Timestamp>,
) -> Result<(), FieldError> {
    match (valid_from, expires_at) {
        (Some(from), Some(to)) if to <= from => Err(FieldError::new(
            "expires_at",
            "empty-window",
            "expires_at must be later than valid_from",
        )),
        _ => Ok(()),
    }
}

/// A change as somebody asks for it (JSON merge patch: an inner `None` clears).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchDraft {
    /// A new target.
    pub target: Option<String>,
    /// A new title, or none.
    pub title: Option<Option<String>>,
    /// All tags anew.
    pub tags: Option<Vec<String>>,
    /// A new owner: admins only.
    pub owner: Option<OwnerId>,
    /// A new start, or none.
    pub valid_from: Option<Option<Timestamp>>,
    /// A new end, or none. May lie in the past: the link is gone at once.
    pub expires_at: Option<Option<Timestamp>>,
    /// A new limit, or none.
    pub max_clicks: Option<Option<u64>>,
    /// A new status code; an inner `None` is the default, 302.
    pub status_code: Option<Option<u16>>,
    /// Query forwarding on or off.
    pub forward_query: Option<bool>,
    /// Enabled or disabled.
    pub enabled: Option<bool>,
}

/// Checks a change by itself; whether the window fits is only known beside the link.
pub(super) fn check_patch(
    draft: &PatchDraft,
    actor: &Actor,
    rules: &TargetRules,
) -> Result<LinkPatch, FieldError> {
    if draft.owner.is_some() && !actor.is_admin() {
        return Err(owner_refused());
    }
    let target = draft.target.as_deref();
    let title = draft.title.as_ref();
    let max_clicks = draft.max_clicks;
    Ok(LinkPatch {
        target: target
            .map(|text| Target::parse(text, rules).map_err(FieldError::target))
            .transpose()?,
        title: title
            .map(|title| title.as_deref().map(check_title).transpose().map(Option::flatten))
            .transpose()?,
        tags: draft.tags.as_deref().map(check_tags).transpose()?,
        owner: draft.owner,
        valid_from: draft.valid_from,
        expires_at: draft.expires_at,
        max_clicks: max_clicks
            .map(|clicks| clicks.map(check_max_clicks).transpose())
            .transpose()?,
        status: draft
            .status_code
            .map(|status| status.map_or(Ok(RedirectStatus::default()), check_status))
            .transpose()?,
        forward_query: draft.forward_query,
        enabled: draft.enabled,
    })
}

/// Checks the window that a change leaves the link with.
pub(super) fn check_patched_window(link: &Link, patch: &LinkPatch) -> Result<(), FieldError> {
    if patch.valid_from.is_none() && patch.expires_at.is_none() {
        return Ok(());
    }
    check_window(
        patch.valid_from.unwrap_or(link.data.valid_from),
        patch.expires_at.unwrap_or(link.data.expires_at),
    )
}
