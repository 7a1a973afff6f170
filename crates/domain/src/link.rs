//! A link and the ways it changes.

use std::fmt;
use std::num::NonZeroU64;

use crate::code::{Code, DomainId, LinkKey};
use crate::key::OwnerId;
use crate::target::Target;
use crate::time::Timestamp;

/// How often a link has been changed: 1 when created, one more at each change and at its deletion.
///
/// It is the strong `ETag` of a link and what every cache compares: a higher version always wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The version of a link just created.
    pub const FIRST: Self = Self(1);

    /// The version after one more change.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The status code a link redirects with (RFC 9110, section 15.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RedirectStatus {
    /// 301 Moved Permanently: browsers may keep it; edits reach them late.
    MovedPermanently,
    /// 302 Found: the default; every visit asks again and is counted.
    #[default]
    Found,
    /// 307 Temporary Redirect: 302 that keeps method and body.
    Temporary,
    /// 308 Permanent Redirect: 301 that keeps method and body.
    Permanent,
}

impl RedirectStatus {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::Temporary => 307,
            Self::Permanent => 308,
        }
    }

    /// The status with this number.
    pub const fn from_code(code: u16) -> Option<Self> {
        match code {
            301 => Some(Self::MovedPermanently),
            302 => Some(Self::Found),
            307 => Some(Self::Temporary),
            308 => Some(Self::Permanent),
            _ => None,
        }
    }
}

/// A tag: 1 to 64 characters, no control characters, no commas, trimmed, lower-cased.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// The longest tag, in characters.
    pub const MAX_CHARS: usize = 64;

    /// The most tags one link can have.
    pub const MAX_PER_LINK: usize = 32;

    /// Trims, lower-cases and checks a tag; `None` when it breaks a rule.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        let fits = (1..=Self::MAX_CHARS).contains(&text.chars().count());
        let clean = !text.chars().any(|c| c.is_control() || c == ',');
        (fits && clean).then(|| Self(text.into()))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest title, in characters.
pub const MAX_TITLE_CHARS: usize = 512;

/// Trims and checks a title: at most [`MAX_TITLE_CHARS`] characters, no control characters.
/// An empty title is no title: `Some(None)`. `None` means that it breaks a rule.
pub fn parse_title(text: &str) -> Option<Option<Box<str>>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    let fits = text.chars().count() <= MAX_TITLE_CHARS && !text.chars().any(char::is_control);
    fits.then(|| Some(text.into()))
}

/// What a link needs to be created; the store adds version 1 and the creation time if none is
/// given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLink {
    /// Code and domain.
    pub key: LinkKey,
    /// Where it leads.
    pub target: Target,
    /// A name for people.
    pub title: Option<Box<str>>,
    /// Sorted, without duplicates.
    pub tags: Vec<Tag>,
    /// Who may see and change it.
    pub owner: OwnerId,
    /// When it was created; the store may move it by milliseconds to keep its order total.
    pub created_at: Timestamp,
    /// Before this it answers as if it did not exist.
    pub valid_from: Option<Timestamp>,
    /// From this on it is gone (410).
    pub expires_at: Option<Timestamp>,
    /// How many redirects it serves in all.
    pub max_clicks: Option<NonZeroU64>,
    /// The redirect's status code.
    pub status: RedirectStatus,
    /// Whether the visitor's query is appended to the target's.
    pub forward_query: bool,
    /// A disabled link answers as one that is gone.
    pub enabled: bool,
}

/// A link as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it was created or changed to.
    pub data: NewLink,
    /// How often it was changed.
    pub version: Version,
    /// When it was last changed; the creation time at version 1.
    pub updated_at: Timestamp,
    /// Redirects used up of `max_clicks`; counted only for links that have that limit. Not part of
    /// the link as seen by its version: it moves without an edit.
    pub used: u64,
}

impl Link {
    /// Code and domain.
    pub const fn key(&self) -> &LinkKey {
        &self.data.key
    }

    /// Code alone.
    pub const fn code(&self) -> &Code {
        &self.data.key.code
    }

    /// Domain alone.
    pub const fn domain(&self) -> DomainId {
        self.data.key.domain
    }
}

/// What is left of a deleted link: its code is never given to anybody again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Code and domain.
    pub key: LinkKey,
    /// Whose it was.
    pub owner: OwnerId,
    /// When the link had been created.
    pub created_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// One more than the link's last version.
    pub version: Version,
}

/// A row of the links table: a link, or the tombstone that keeps its code from being reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A link, enabled or not, expired or not.
    Link(Box<Link>),
    /// A deleted link.
    Tombstone(Tombstone),
}

impl Stored {
    /// Code and domain.
    pub fn key(&self) -> &LinkKey {
        match self {
            Self::Link(link) => link.key(),
            Self::Tombstone(tombstone) => &tombstone.key,
        }
    }

    /// The row's version.
    pub fn version(&self) -> Version {
        match self {
            Self::Link(link) => link.version,
            Self::Tombstone(tombstone) => tombstone.version,
        }
    }

    /// Redirects used up; none of a deleted link.
    pub fn used(&self) -> u64 {
        match self {
            Self::Link(link) => link.used,
            Self::Tombstone(_) => 0,
        }
    }

    /// The link, unless it was deleted.
    pub fn into_link(self) -> Option<Link> {
        match self {
            Self::Link(link) => Some(*link),
            Self::Tombstone(_) => None,
        }
    }
}

/// A change of a link: every field that is `Some` replaces the old value (JSON merge patch,
/// RFC 7396: an inner `None` clears it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkPatch {
    /// A new target.
    pub target: Option<Target>,
    /// A new title, or none.
    pub title: Option<Option<Box<str>>>,
    /// All tags anew.
    pub tags: Option<Vec<Tag>>,
    /// A new owner (admin only).
    pub owner: Option<OwnerId>,
    /// A new start, or none.
    pub valid_from: Option<Option<Timestamp>>,
    /// A new end, or none.
    pub expires_at: Option<Option<Timestamp>>,
    /// A new limit, or none.
    pub max_clicks: Option<Option<NonZeroU64>>,
    /// A new status code.
    pub status: Option<RedirectStatus>,
    /// Query forwarding on or off.
    pub forward_query: Option<bool>,
    /// Enabled or disabled.
    pub enabled: Option<bool>,
}

impl LinkPatch {
    /// The link with this change applied at `now`, one version further. `used` stays.
    #[must_use]
    pub fn apply(self, link: &Link, now: Timestamp) -> Link {
        let mut data = link.data.clone();
        if let Some(target) = self.target {
            data.target = target;
        }
        if let Some(title) = self.title {
            data.title = title;
        }
        if let Some(tags) = self.tags {
            data.tags = tags;
        }
        if let Some(owner) = self.owner {
            data.owner = owner;
        }
        if let Some(valid_from) = self.valid_from {
            data.valid_from = valid_from;
        }
        if let Some(expires_at) = self.expires_at {
            data.expires_at = expires_at;
        }
        if let Some(max_clicks) = self.max_clicks {
            data.max_clicks = max_clicks;
        }
        if let Some(status) = self.status {
            data.status = status;
        }
        if let Some(forward_query) = self.forward_query {
            data.forward_query = forward_query;
        }
        if let Some(enabled) = self.enabled {
            data.enabled = enabled;
        }
        Link { data, version: link.version.next(), updated_at: now, used: link.used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_trimmed_lowered_and_bounded() {
        assert_eq!(Tag::parse("  News ").map(|t| t.as_str().to_owned()), Some("news".to_owned()));
        for bad in ["", "  ", "a,b", "a\nb", &"x".repeat(65)] {
            assert_eq!(Tag::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn titles_are_trimmed_and_bounded() {
        assert_eq!(parse_title("  "), Some(None));
        assert_eq!(parse_title(" a "), Some(Some("a".into())));
        assert_eq!(parse_title("a\u{7}"), None);
        assert_eq!(parse_title(&"ä".repeat(513)), None);
        assert!(parse_title(&"ä".repeat(512)).is_some());
    }

    #[test]
    fn redirect_status_codes_round_trip() {
        for code in 0..1000 {
            if let Some(status) = RedirectStatus::from_code(code) {
                assert_eq!(status.code(), code);
            } else {
                assert!(![301, 302, 307, 308].contains(&code));
            }
        }
    }
}
