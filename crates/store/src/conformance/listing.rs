//! Facts about lists, searches and exports.

use shunt_domain::ports::{LinkQuery, LinkReader, LinkWriter, ListError, ListQuery, Sort};
use shunt_domain::{DomainId, Link, LinkPatch, NewLink, OwnerId, Stored, Timestamp, Version};

use super::Subject;
use super::fixtures::{
    BIRTH, change, codes, create, export_all, key, link, list_all, soon, tags, target,
};

const SORTS: [Sort; 4] = [Sort::CreatedDesc, Sort::CreatedAsc, Sort::CodeAsc, Sort::CodeDesc];

fn text(text: &str) -> ListQuery {
    ListQuery { text: Some(text.to_owned()), limit: 10, ..ListQuery::default() }
}

/// Links of several owners, domains, tags and words, some of the same millisecond.
fn mixed(count: usize) -> Vec<NewLink> {
    let words = ["Apple pie", "pineapple", "banana split", "cherry"];
    (0..count)
        .map(|at| {
            // Codes in another order than creation.
            let mut new = link(&format!("{:02x}-{at}", at * 37 % 256));
            new.owner = OwnerId([0, 1, 1, 2][at % 4]);
            new.key.domain = DomainId([0, 0, 3][at % 3]);
            new.created_at = Timestamp::from_millis(BIRTH.as_millis() + (at as i64 / 5) * 10);
            new.tags = match at % 5 {
                0 => tags(&["red"]),
                1 => tags(&["red", "blue"]),
                2 => tags(&["redder"]),
                _ => Vec::new(),
            };
            if at % 2 == 0 {
                new.title = words.get(at % words.len()).map(|&word| word.into());
            }
            if at % 7 == 0 {
                new.target = target(&format!("https://APPLE.example/{at}"));
            }
            new
        })
        .collect()
}

/// Every combination of filters, in every order and with pages of several sizes, is exactly the
/// links that it should be.
pub async fn every_filter_and_order_lists_exactly_its_links<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let made = store.create_many(mixed(60), soon()).await.done().unwrap();
    let all: Vec<Link> = made.into_iter().map(Result::unwrap).collect();
    let owners = [None, Some(OwnerId(1)), Some(OwnerId(99))];
    let domains = [None, Some(DomainId(0)), Some(DomainId(3))];
    let tag_names = [None, Some("red"), Some("none")];
    let texts = [None, Some("apple"), Some("example"), Some("zzzz")];
    for owner in owners {
        for domain in domains {
            for name in tag_names {
                let tag = name.and_then(|name| tags(&[name]).pop());
                for words in texts {
                    let has = |link: &&Link| {
                        let hay = format!(
                            "{}\n{}\n{}",
                            link.code(),
                            link.data.title.as_deref().unwrap_or_default(),
                            link.data.target
                        );
                        owner.is_none_or(|owner| link.data.owner == owner)
                            && domain.is_none_or(|domain| link.domain() == domain)
                            && tag.as_ref().is_none_or(|tag| link.data.tags.contains(tag))
                            && words.is_none_or(|word| hay.to_lowercase().contains(word))
                    };
                    let created: Vec<Link> = all.iter().filter(has).cloned().collect();
                    for sort in SORTS {
                        let mut expected = created.clone();
                        if matches!(sort, Sort::CodeAsc | Sort::CodeDesc) {
                            expected.sort_by_key(|link| link.key().clone());
                        }
                        if matches!(sort, Sort::CreatedDesc | Sort::CodeDesc) {
                            expected.reverse();
                        }
                        for limit in [7, 1_000] {
                            let query = ListQuery {
                                owner,
                                domain,
                                tag: tag.clone(),
                                text: words.map(str::to_owned),
                                sort,
                                cursor: None,
                                limit,
                            };
                            let listed = list_all(store, &query).await;
                            assert_eq!(codes(&listed), codes(&expected), "{query:?}");
                            assert_eq!(listed, expected);
                        }
                    }
                }
            }
        }
    }
}

/// In code, title and target, in several scripts.
pub async fn text_is_found_without_regard_to_case<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let mut new = link("MyCode");
    new.title = Some("Überraschung ПРИВЕТ Σίσυφος 日本語".into());
    new.target = target("https://Example.com/Some/PATH%20x");
    create(store, new).await;
    create(store, link("other")).await;
    for found in [
        "mycode",
        "YCOD",
        "überraschung",
        "ÜBERRASCH",
        "привет",
        "ΣΊΣ",
        "日本語",
        "example.COM/some",
        "path%20X",
    ] {
        assert_eq!(codes(&list_all(store, &text(found)).await), ["MyCode"], "{found}");
    }
    for absent in ["mycodex", "uberraschung", "some path", "日本x"] {
        assert!(list_all(store, &text(absent)).await.is_empty(), "{absent}");
    }
}

/// Nothing in a text is query syntax, a wildcard or an escape.
pub async fn text_is_literal<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let titles = [
        "one \"two\" three",
        "50% off",
        "50_ off",
        "it's a 'quote'",
        "a AND b OR c NOT d",
        "near(x, y)",
        "star* ^caret",
        "col:on {br} [ack]",
        "back\\slash",
        "-minus +plus",
        "semi; DROP TABLE links;--",
    ];
    for (at, title) in titles.iter().enumerate() {
        let mut new = link(&format!("t{at}"));
        new.title = Some((*title).into());
        create(store, new).await;
    }
    for (at, title) in titles.iter().enumerate() {
        assert_eq!(codes(&list_all(store, &text(title)).await), [format!("t{at}")], "{title}");
    }
    for none in ["50__off", "%%%", "___", "***", "\"\"\"", "'''", "t1 OR t2", "title:one", "\\\\\\"]
    {
        assert!(list_all(store, &text(none)).await.is_empty(), "{none}");
    }
}

/// After an edit the old words, tags and owner find nothing.
pub async fn changed_links_are_found_by_their_new_words_only<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let mut new = link("abc");
    new.title = Some("before".into());
    new.tags = tags(&["old", "both"]);
    new.owner = OwnerId(1);
    create(store, new).await;
    let patch = LinkPatch {
        title: Some(Some("after".into())),
        target: Some(target("https://moved.example/")),
        tags: Some(tags(&["new", "both"])),
        owner: Some(OwnerId(2)),
        ..LinkPatch::default()
    };
    store.patch(change("abc"), patch, BIRTH, soon()).await.done().unwrap();
    let tag = |name| ListQuery { tag: tags(&[name]).pop(), limit: 10, ..ListQuery::default() };
    let owner = |id| ListQuery { owner: Some(OwnerId(id)), limit: 10, ..ListQuery::default() };
    for gone in [text("before"), text("example.com"), tag("old"), owner(1)] {
        assert!(list_all(store, &gone).await.is_empty(), "{gone:?}");
    }
    for there in [text("after"), text("moved"), text("abc"), tag("new"), tag("both"), owner(2)] {
        assert_eq!(codes(&list_all(store, &there).await), ["abc"], "{there:?}");
    }
}

/// By no filter and in no order.
pub async fn deleted_links_are_not_listed<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let mut new = link("gone");
    new.tags = tags(&["tag"]);
    create(store, new).await;
    create(store, link("stays")).await;
    store.delete(change("gone"), BIRTH, soon()).await.done().unwrap();
    for sort in SORTS {
        let all = ListQuery { sort, limit: 10, ..ListQuery::default() };
        assert_eq!(codes(&list_all(store, &all).await), ["stays"]);
        let tag = ListQuery { tag: tags(&["tag"]).pop(), ..all.clone() };
        assert!(list_all(store, &tag).await.is_empty());
        let word = ListQuery { text: Some("gone".to_owned()), ..all.clone() };
        assert!(list_all(store, &word).await.is_empty());
        let owner = ListQuery { owner: Some(OwnerId::ANONYMOUS), ..all };
        assert_eq!(codes(&list_all(store, &owner).await), ["stays"]);
    }
}

/// A cursor only fits the query that gave it.
pub async fn a_cursor_of_another_query_is_refused<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    store.create_many(mixed(10), soon()).await.done().unwrap();
    let query = ListQuery { limit: 2, ..ListQuery::default() };
    let cursor = store.list(query.clone(), soon()).await.unwrap().next.unwrap();
    let base = ListQuery { cursor: Some(cursor.clone()), ..query.clone() };
    assert!(store.list(base.clone(), soon()).await.is_ok());
    // Another page size is the same query.
    assert!(store.list(ListQuery { limit: 5, ..base.clone() }, soon()).await.is_ok());
    let others = [
        ListQuery { sort: Sort::CodeAsc, ..base.clone() },
        ListQuery { sort: Sort::CreatedAsc, ..base.clone() },
        ListQuery { owner: Some(OwnerId(1)), ..base.clone() },
        ListQuery { domain: Some(DomainId(0)), ..base.clone() },
        ListQuery { tag: tags(&["red"]).pop(), ..base.clone() },
        ListQuery { text: Some("apple".to_owned()), ..base.clone() },
        ListQuery { cursor: Some(String::new()), ..base.clone() },
        ListQuery { cursor: Some("nonsense".to_owned()), ..base.clone() },
        ListQuery { cursor: Some(format!("{cursor}x")), ..base.clone() },
    ];
    for other in others {
        let refused = store.list(other.clone(), soon()).await;
        assert_eq!(refused, Err(ListError::BadCursor), "{other:?}");
    }
    for cursor in [cursor, String::new(), "nonsense".to_owned()] {
        let refused = store.export(Some(cursor), 2, soon()).await;
        assert_eq!(refused, Err(ListError::BadCursor));
    }
}

/// Links that were there from the start are seen exactly once, whatever comes meanwhile.
pub async fn paging_misses_and_repeats_nothing_while_links_come<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let made = store.create_many(mixed(40), soon()).await.done().unwrap();
    let mut before: Vec<_> = made.into_iter().map(|link| link.unwrap().data.key).collect();
    before.sort();
    for (round, sort) in SORTS.into_iter().enumerate() {
        let mut query = ListQuery { sort, limit: 3, ..ListQuery::default() };
        let mut seen = Vec::new();
        let mut turn = 0;
        loop {
            let page = store.list(query.clone(), soon()).await.unwrap();
            seen.extend(page.links.into_iter().map(|link| link.data.key));
            let Some(next) = page.next else { break };
            query.cursor = Some(next);
            // One new link in front, one behind, by time and by code.
            turn += 1;
            if turn < 20 {
                let mut early = link(&format!("-{round}-{turn}"));
                early.created_at = Timestamp::from_millis(1_000 + turn);
                let mut late = link(&format!("z-{round}-{turn}"));
                late.created_at = Timestamp::from_millis(BIRTH.as_millis() + 100_000 + turn);
                store.create_many(vec![early, late], soon()).await.done().unwrap();
            }
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "a link was listed twice by {sort:?}");
        seen.retain(|key| before.binary_search(key).is_ok());
        assert_eq!(seen, before, "{sort:?}");
    }
}

/// The link a cursor stands behind need not be there any more.
pub async fn paging_goes_on_when_the_last_link_was_deleted<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let rows = (0..6).map(|at| link(&format!("c{at}"))).collect();
    store.create_many(rows, soon()).await.done().unwrap();
    let query = ListQuery { sort: Sort::CodeAsc, limit: 2, ..ListQuery::default() };
    // One link or two: a store may answer short.
    let page = store.list(query.clone(), soon()).await.unwrap();
    let mut expected: Vec<String> = (0..6).map(|at| format!("c{at}")).collect();
    let rest = expected.split_off(page.links.len());
    assert_eq!(codes(&page.links), expected);
    store.delete(change(expected.last().unwrap()), BIRTH, soon()).await.done().unwrap();
    let query = ListQuery { cursor: page.next, ..query };
    assert_eq!(codes(&list_all(store, &query).await), rest);
}

/// 0 counts as 1; nothing beyond 1,000 comes at once.
pub async fn limits_are_kept<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    let rows = (0..1_100).map(|at| link(&format!("c{at:05}"))).collect();
    store.create_many(rows, soon()).await.done().unwrap();
    for (limit, most) in [(0, 1), (1, 1), (1_000, 1_000), (u32::MAX, 1_000)] {
        let query = ListQuery { limit, ..ListQuery::default() };
        let page = store.list(query, soon()).await.unwrap();
        assert!(page.links.len() <= most, "{limit}");
        assert!(page.next.is_some());
    }
    assert_eq!(
        list_all(store, &ListQuery { limit: 400, ..ListQuery::default() }).await.len(),
        1_100
    );
}

/// Tombstones and restored rows stand at their own time of creation.
pub async fn exports_hold_everything_in_order_of_creation<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter + LinkQuery,
{
    let store = subject.store();
    store.create_many(mixed(25), soon()).await.done().unwrap();
    create(store, link("gone")).await;
    store.delete(change("gone"), BIRTH, soon()).await.done().unwrap();
    let mut old = link("old");
    old.created_at = Timestamp::from_millis(1_000);
    let (version, updated_at) = (Version(5), BIRTH);
    let row = Stored::Link(Box::new(Link { data: old, version, updated_at, used: 0 }));
    store.restore_many(vec![row.clone()], soon()).await.done().unwrap();
    for limit in [1, 4, 1_000] {
        let rows = export_all(store, limit).await;
        assert_eq!(rows.len(), 27);
        assert_eq!(rows.first(), Some(&row));
        assert_eq!(rows.iter().filter(|row| *row.key() == key("gone")).count(), 1);
        assert!(rows.iter().any(|row| matches!(row, Stored::Tombstone(_))));
        let time = |row: &Stored| match row {
            Stored::Link(link) => link.data.created_at,
            Stored::Tombstone(tombstone) => tombstone.created_at,
        };
        assert!(rows.is_sorted_by_key(time));
        for row in rows {
            let found = store.get(row.key(), Version::default(), soon()).await.unwrap();
            assert_eq!(found, Some(row));
        }
    }
}

/// Created, restored and deleted links move the count.
pub async fn the_count_follows<S: Subject>(subject: S)
where
    S::Store: LinkWriter + LinkQuery,
{
    let store = subject.store();
    assert_eq!(store.approximate_count(soon()).await, Ok(0));
    store.create_many(mixed(10), soon()).await.done().unwrap();
    create(store, link("a")).await;
    assert_eq!(store.approximate_count(soon()).await, Ok(11));
    store.delete(change("a"), BIRTH, soon()).await.done().unwrap();
    assert_eq!(store.approximate_count(soon()).await, Ok(10));
}
