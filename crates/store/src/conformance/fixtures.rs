//! Links and other values to test with.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use shunt_domain::ports::{Change, LinkQuery, LinkReader, LinkWriter, ListQuery, NewApiKey};
use shunt_domain::{
    Code, Deadline, DomainId, Link, LinkKey, NewLink, OwnerId, RedirectStatus, Scope, Scopes,
    Stored, Tag, Target, Timestamp, Version,
};

/// When most fixtures were created: 2026-11-22T00:00:00Z.
pub const BIRTH: Timestamp = Timestamp::from_millis(1_795_305_600_000);

/// A deadline far enough away never to matter.
pub fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(60))
}

/// A key on the default domain.
///
/// # Panics
/// When `code` is no code.
pub fn key(code: &str) -> LinkKey {
    LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap())
}

/// A target.
///
/// # Panics
/// When it is none.
pub fn target(text: &str) -> Target {
    Target::from_stored(text, false).unwrap()
}

/// Tags, sorted.
///
/// # Panics
/// When one is none.
pub fn tags(names: &[&str]) -> Vec<Tag> {
    let mut tags: Vec<Tag> = names.iter().map(|name| Tag::parse(name).unwrap()).collect();
    tags.sort();
    tags.dedup();
    tags
}

/// A plain link.
pub fn link(code: &str) -> NewLink {
    NewLink {
        key: key(code),
        target: target(&format!("https://example.com/{code}")),
        title: None,
        tags: Vec::new(),
        owner: OwnerId::ANONYMOUS,
        created_at: BIRTH,
        valid_from: None,
        expires_at: None,
        max_clicks: None,
        status: RedirectStatus::Found,
        forward_query: false,
        enabled: true,
    }
}

/// A link with something in every field.
pub fn full_link(code: &str) -> NewLink {
    NewLink {
        key: LinkKey::new(DomainId(7), key(code).code),
        target: Target::from_stored("https://xn--e1afmkfd.example/a?b=c%20d#e", true).unwrap(),
        title: Some("Ein Titel, \"quoted\" & 'so on' 🎉".into()),
        tags: tags(&["news", "ünïcode", "two words"]),
        owner: OwnerId(42),
        created_at: Timestamp::from_millis(BIRTH.as_millis() + 123),
        valid_from: Some(Timestamp::from_millis(1_000)),
        expires_at: Some(Timestamp::MAX),
        max_clicks: NonZeroU64::new(3),
        status: RedirectStatus::Permanent,
        forward_query: true,
        enabled: false,
    }
}

/// A change by an admin who does not care about versions.
pub fn change(code: &str) -> Change {
    Change { key: key(code), owner: None, expected: None }
}

/// A new API key.
pub fn api_key(hash: u8) -> NewApiKey {
    NewApiKey {
        name: format!("key {hash}"),
        hash: [hash; 32],
        scopes: Scopes::default().with(Scope::Read),
        owner: None,
        created_at: BIRTH,
        expires_at: None,
    }
}

/// Creates a link that must not be refused.
///
/// # Panics
/// When it is.
pub async fn create<S: LinkWriter>(store: &S, link: NewLink) -> Link {
    store.create(link, soon()).await.done().expect("a link is created")
}

/// Reads a row that must be readable.
///
/// # Panics
/// When it is not.
pub async fn get<S: LinkReader>(store: &S, key: &LinkKey) -> Option<Stored> {
    store.get(key, Version::default(), soon()).await.expect("a row is read")
}

/// Pages through a whole list.
///
/// # Panics
/// When a page can't be read or the list does not end.
pub async fn list_all<S: LinkQuery>(store: &S, query: &ListQuery) -> Vec<Link> {
    let mut query = query.clone();
    let mut links = Vec::new();
    for _ in 0..100_000 {
        let page = store.list(query.clone(), soon()).await.expect("a page is read");
        assert!(page.links.len() <= query.limit as usize, "a page is longer than asked for");
        links.extend(page.links);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return links,
        }
    }
    panic!("the list {query:?} does not end");
}

/// Pages through a whole export.
///
/// # Panics
/// When a page can't be read.
pub async fn export_all<S: LinkQuery>(store: &S, limit: u32) -> Vec<Stored> {
    let mut rows = Vec::new();
    let mut cursor = None;
    loop {
        let (page, next) = store.export(cursor, limit, soon()).await.expect("a page is read");
        assert!(page.len() <= limit as usize);
        rows.extend(page);
        match next {
            Some(_) => cursor = next,
            None => return rows,
        }
    }
}

/// The codes of links.
pub fn codes(links: &[Link]) -> Vec<String> {
    links.iter().map(|link| link.code().as_str().to_owned()).collect()
}
