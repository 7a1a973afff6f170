//! Facts about reading and writing links.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use shunt_domain::ports::{Change, ChangeRefusal, Claim, CreateRefusal, LinkReader, LinkWriter};
use shunt_domain::{
    Deadline, DomainId, Link, LinkKey, LinkPatch, Outcome, OwnerId, RedirectStatus, Stored,
    Timestamp, Tombstone, Version,
};

use super::Subject;
use super::fixtures::{BIRTH, change, create, full_link, get, key, link, soon, tags, target};

/// What comes back is what was given, in every field, by `create` and by `get`.
pub async fn created_links_are_read_back_as_they_were_given<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    for new in [link("plain"), full_link("full")] {
        let made = create(subject.store(), new.clone()).await;
        // The store may have moved the creation time, but not by much.
        let moved = made.data.created_at.as_millis() - new.created_at.as_millis();
        assert!((0..1_000).contains(&moved), "moved by {moved} ms");
        let expected = Link {
            data: shunt_domain::NewLink { created_at: made.data.created_at, ..new },
            version: Version::FIRST,
            updated_at: made.data.created_at,
            used: 0,
        };
        assert_eq!(made, expected);
        let found = get(subject.store(), made.key()).await;
        assert_eq!(found, Some(Stored::Link(Box::new(expected))));
    }
}

/// Nobody's code is `None`, not an error.
pub async fn unknown_codes_are_absent<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    create(subject.store(), link("abc")).await;
    for code in ["abcd", "ab", "ABC", "a", "_", &"x".repeat(128)] {
        assert_eq!(get(subject.store(), &key(code)).await, None, "{code}");
    }
}

/// The second create of a code is refused and changes nothing.
pub async fn a_taken_code_is_refused<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let first = create(subject.store(), link("abc")).await;
    let mut second = link("abc");
    second.target = target("https://elsewhere.example/");
    let refused = subject.store().create(second, soon()).await;
    assert_eq!(refused, Outcome::Refused(CreateRefusal::Taken));
    assert_eq!(get(subject.store(), &key("abc")).await, Some(Stored::Link(Box::new(first))));
}

/// The same code on another domain, or in another case, is another link.
pub async fn codes_differ_by_domain_and_by_case<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let mut made = Vec::new();
    for (at, code) in ["abc", "ABC", "aBc"].into_iter().enumerate() {
        for domain in [0, 1, 4_000_000_000] {
            let mut new = link(code);
            new.key.domain = DomainId(domain);
            new.target = target(&format!("https://example.com/{at}/{domain}"));
            made.push(create(subject.store(), new).await);
        }
    }
    for link in made {
        let found = get(subject.store(), link.key()).await;
        assert_eq!(found, Some(Stored::Link(Box::new(link))));
    }
}

/// A tombstone refuses its code for ever, by `create`, in a batch and in a restore.
pub async fn deleted_codes_are_never_given_out_again<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let made = create(store, link("abc")).await;
    store.delete(change("abc"), BIRTH, soon()).await.done().unwrap();
    let retired = Outcome::Refused(CreateRefusal::Retired);
    assert_eq!(store.create(link("abc"), soon()).await, retired);
    let batch = store.create_many(vec![link("abc")], soon()).await;
    assert_eq!(batch, Outcome::Done(vec![Err(CreateRefusal::Retired)]));
    let row = Stored::Link(Box::new(made));
    let restored = store.restore_many(vec![row], soon()).await;
    assert_eq!(restored, Outcome::Done(vec![Err(CreateRefusal::Retired)]));
    let found = get(store, &key("abc")).await;
    assert!(matches!(found, Some(Stored::Tombstone(_))), "{found:?}");
}

/// However many try at once, one gets the code.
pub async fn concurrent_creates_of_one_code_have_one_winner<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    for round in 0..8 {
        let code = format!("race{round}");
        let tries = (0..32).map(|at| {
            let mut new = link(&code);
            new.target = target(&format!("https://example.com/{at}"));
            subject.store().create(new, soon())
        });
        let outcomes = join_all(tries).await;
        let mut winners = Vec::new();
        for outcome in outcomes {
            match outcome {
                Outcome::Done(link) => winners.push(link),
                Outcome::Refused(CreateRefusal::Taken) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners.len(), 1);
        let found = get(subject.store(), &key(&code)).await;
        assert_eq!(found, winners.pop().map(|link| Stored::Link(Box::new(link))));
    }
}

/// A refused row does not hinder the others, and a batch judges its own duplicates.
pub async fn a_batch_answers_row_by_row<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    create(store, link("taken")).await;
    create(store, link("gone")).await;
    store.delete(change("gone"), BIRTH, soon()).await.done().unwrap();
    let names = ["a1", "taken", "a2", "gone", "a1", "a3"];
    let rows = names.iter().map(|code| link(code)).collect();
    let answers = store.create_many(rows, soon()).await.done().unwrap();
    let verdicts: Vec<Option<CreateRefusal>> =
        answers.iter().map(|answer| answer.as_ref().err().cloned()).collect();
    let (taken, retired) = (Some(CreateRefusal::Taken), Some(CreateRefusal::Retired));
    assert_eq!(verdicts, [None, taken.clone(), None, retired, taken, None]);
    for (name, answer) in names.iter().zip(answers) {
        if let Ok(link) = answer {
            assert_eq!(link.code().as_str(), *name);
            assert_eq!(get(store, link.key()).await, Some(Stored::Link(Box::new(link))));
        }
    }
}

/// Nothing to do is done.
pub async fn an_empty_batch_is_done<S: Subject>(subject: S)
where
    S::Store: LinkWriter,
{
    let store = subject.store();
    assert_eq!(store.create_many(Vec::new(), soon()).await, Outcome::Done(Vec::new()));
    assert_eq!(store.restore_many(Vec::new(), soon()).await, Outcome::Done(Vec::new()));
}

/// Many links of the same millisecond get creation times that never decrease.
pub async fn links_of_one_instant_keep_their_order<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let rows = (0..500).map(|at| link(&format!("c{at:04}"))).collect();
    let made = subject.store().create_many(rows, soon()).await.done().unwrap();
    let times: Vec<Timestamp> =
        made.into_iter().map(|link| link.unwrap().data.created_at).collect();
    assert!(times.is_sorted());
}

/// Every field can be changed; the version goes up by one, `updated_at` is the change's time,
/// creation time and used count stay.
pub async fn a_patch_changes_what_it_names_and_nothing_else<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let mut old = create(store, link("abc")).await;
    let patches = [
        LinkPatch { target: Some(target("https://new.example/")), ..LinkPatch::default() },
        LinkPatch { title: Some(Some("new".into())), ..LinkPatch::default() },
        LinkPatch { tags: Some(tags(&["x", "y"])), ..LinkPatch::default() },
        LinkPatch { owner: Some(OwnerId(9)), ..LinkPatch::default() },
        LinkPatch { valid_from: Some(Some(Timestamp::from_millis(5))), ..LinkPatch::default() },
        LinkPatch { expires_at: Some(Some(Timestamp::MAX)), ..LinkPatch::default() },
        LinkPatch { max_clicks: Some(NonZeroU64::new(77)), ..LinkPatch::default() },
        LinkPatch { status: Some(RedirectStatus::Temporary), ..LinkPatch::default() },
        LinkPatch { forward_query: Some(true), ..LinkPatch::default() },
        LinkPatch { enabled: Some(false), ..LinkPatch::default() },
        LinkPatch::default(),
    ];
    for (at, patch) in patches.into_iter().enumerate() {
        let now = Timestamp::from_millis(BIRTH.as_millis() + 1_000 + at as i64);
        let expected = patch.clone().apply(&old, now);
        let new = store.patch(change("abc"), patch, now, soon()).await.done().unwrap();
        assert_eq!(new, expected);
        assert_eq!(new.version, old.version.next());
        assert_eq!(get(store, &key("abc")).await, Some(Stored::Link(Box::new(new.clone()))));
        old = new;
    }
}

/// An inner `None` takes an optional field away.
pub async fn a_patch_can_clear_what_is_optional<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let made = create(store, full_link("abc")).await;
    let patch = LinkPatch {
        title: Some(None),
        tags: Some(Vec::new()),
        valid_from: Some(None),
        expires_at: Some(None),
        max_clicks: Some(None),
        ..LinkPatch::default()
    };
    let whole = Change { key: made.key().clone(), owner: None, expected: None };
    let new = store.patch(whole, patch, BIRTH, soon()).await.done().unwrap();
    assert_eq!((&new.data.title, new.data.tags.len()), (&None, 0));
    assert_eq!((new.data.valid_from, new.data.expires_at), (None, None));
    assert_eq!(new.data.max_clicks, None);
    assert_eq!(new.data.target, made.data.target);
    assert_eq!(get(store, made.key()).await, Some(Stored::Link(Box::new(new))));
}

/// A foreign owner sees nothing to change; a stale version is told the current one.
pub async fn changes_need_the_right_owner_and_version<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let mut new = link("abc");
    new.owner = OwnerId(5);
    let made = create(store, new).await;
    let by = |owner, expected| Change { key: key("abc"), owner, expected };
    let cases = [
        (by(Some(OwnerId(6)), None), ChangeRefusal::NotFound),
        (by(Some(OwnerId(6)), Some(Version(9))), ChangeRefusal::NotFound),
        (by(Some(OwnerId(5)), Some(Version(2))), ChangeRefusal::Stale(Version(1))),
        (by(None, Some(Version(0))), ChangeRefusal::Stale(Version(1))),
        (change("other"), ChangeRefusal::NotFound),
    ];
    for (change, refusal) in cases {
        let patched = store.patch(change.clone(), LinkPatch::default(), BIRTH, soon()).await;
        assert_eq!(patched, Outcome::Refused(refusal.clone()), "{change:?}");
        let deleted = store.delete(change.clone(), BIRTH, soon()).await;
        assert_eq!(deleted, Outcome::Refused(refusal), "{change:?}");
    }
    assert_eq!(get(store, &key("abc")).await, Some(Stored::Link(Box::new(made))));
    let right = by(Some(OwnerId(5)), Some(Version(1)));
    store.patch(right, LinkPatch::default(), BIRTH, soon()).await.done().unwrap();
    let right = by(Some(OwnerId(5)), Some(Version(2)));
    let version = store.delete(right, BIRTH, soon()).await;
    assert_eq!(version, Outcome::Done(Version(3)));
}

/// Of several edits of one version one is done; the others learn the new version.
pub async fn concurrent_patches_with_one_version_have_one_winner<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    create(store, link("abc")).await;
    let tries = (0..16).map(|at| {
        let patch = LinkPatch { owner: Some(OwnerId(at)), ..LinkPatch::default() };
        let change = Change { expected: Some(Version(1)), ..change("abc") };
        store.patch(change, patch, BIRTH, soon())
    });
    let outcomes = join_all(tries).await;
    let done = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
    let stale = Outcome::Refused(ChangeRefusal::Stale(Version(2)));
    assert_eq!(done, 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == stale).count(), 15);
}

/// What is left is key, owner, times and the next version.
pub async fn a_deleted_link_leaves_a_tombstone<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let made = create(store, full_link("abc")).await;
    let change = Change { key: made.key().clone(), owner: None, expected: None };
    let now = Timestamp::from_millis(BIRTH.as_millis() + 9_999);
    let version = store.delete(change.clone(), now, soon()).await;
    assert_eq!(version, Outcome::Done(Version(2)));
    let tombstone = Stored::Tombstone(Tombstone {
        key: made.key().clone(),
        owner: made.data.owner,
        created_at: made.data.created_at,
        deleted_at: now,
        version: Version(2),
    });
    assert_eq!(get(store, made.key()).await, Some(tombstone.clone()));
    let again = store.delete(change.clone(), now, soon()).await;
    assert_eq!(again, Outcome::Refused(ChangeRefusal::NotFound));
    let patched = store.patch(change, LinkPatch::default(), now, soon()).await;
    assert_eq!(patched, Outcome::Refused(ChangeRefusal::NotFound));
    assert_eq!(get(store, made.key()).await, Some(tombstone));
}

/// The limit is the number of grants, and each grant shows the count after it.
pub async fn claims_stop_at_the_limit<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let mut new = link("abc");
    new.max_clicks = NonZeroU64::new(3);
    let made = create(store, new).await;
    for used in 1..=3 {
        let granted = store.claim_click(key("abc"), BIRTH, soon()).await;
        let expected = Link { used, ..made.clone() };
        assert_eq!(granted, Outcome::Done(Claim::Granted(Box::new(expected))));
    }
    let used_up = Stored::Link(Box::new(Link { used: 3, ..made }));
    for _ in 0..2 {
        let denied = store.claim_click(key("abc"), BIRTH, soon()).await;
        assert_eq!(denied, Outcome::Done(Claim::Denied(Box::new(used_up.clone()))));
    }
    assert_eq!(get(store, &key("abc")).await, Some(used_up));
}

/// A hundred at once on a limit of ten: ten are granted, with ten different counts.
pub async fn concurrent_claims_never_exceed_the_limit<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let mut new = link("abc");
    new.max_clicks = NonZeroU64::new(10);
    create(store, new).await;
    let claims = join_all((0..100).map(|_| store.claim_click(key("abc"), BIRTH, soon()))).await;
    let mut granted: Vec<u64> = claims
        .into_iter()
        .filter_map(|claim| match claim.done().unwrap() {
            Claim::Granted(link) => Some(link.used),
            _ => None,
        })
        .collect();
    granted.sort_unstable();
    assert_eq!(granted, (1..=10).collect::<Vec<u64>>());
}

/// Not yet valid, expired, disabled, deleted: denied with the row, nothing used up.
pub async fn claims_are_denied_out_of_force<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let limited = |code: &str| {
        let mut new = link(code);
        new.max_clicks = NonZeroU64::new(5);
        new
    };
    let mut early = limited("early");
    early.valid_from = Some(Timestamp::from_millis(BIRTH.as_millis() + 1));
    let mut late = limited("late");
    late.expires_at = Some(BIRTH);
    let mut off = limited("off");
    off.enabled = false;
    for new in [early, late, off] {
        let made = create(store, new).await;
        let row = Stored::Link(Box::new(made.clone()));
        let denied = store.claim_click(made.key().clone(), BIRTH, soon()).await;
        assert_eq!(denied, Outcome::Done(Claim::Denied(Box::new(row.clone()))));
        assert_eq!(get(store, made.key()).await, Some(row));
    }
    // The first and the last instant in force.
    let at = |offset: i64| Timestamp::from_millis(BIRTH.as_millis() + offset);
    for (code, at) in [("early", at(1)), ("late", at(-1))] {
        let granted = store.claim_click(key(code), at, soon()).await.done().unwrap();
        assert!(matches!(granted, Claim::Granted(_)), "{code}: {granted:?}");
    }
    create(store, limited("gone")).await;
    store.delete(change("gone"), BIRTH, soon()).await.done().unwrap();
    let denied = store.claim_click(key("gone"), BIRTH, soon()).await.done().unwrap();
    assert!(
        matches!(&denied, Claim::Denied(row) if matches!(**row, Stored::Tombstone(_))),
        "{denied:?}"
    );
    let absent = store.claim_click(key("nobody"), BIRTH, soon()).await;
    assert_eq!(absent, Outcome::Done(Claim::Absent));
}

/// A link whose limit was lifted meanwhile is served and not counted.
pub async fn claims_without_a_limit_are_granted_and_not_counted<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let made = create(store, link("abc")).await;
    let granted = store.claim_click(key("abc"), BIRTH, soon()).await;
    assert_eq!(granted, Outcome::Done(Claim::Granted(Box::new(made))));
    let mut off = link("off");
    off.enabled = false;
    create(store, off).await;
    let denied = store.claim_click(key("off"), BIRTH, soon()).await.done().unwrap();
    assert!(matches!(denied, Claim::Denied(_)), "{denied:?}");
}

/// Limits beyond signed numbers work.
pub async fn the_largest_limit_is_kept<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let mut new = link("abc");
    new.max_clicks = Some(NonZeroU64::MAX);
    let made = create(subject.store(), new).await;
    assert_eq!(made.data.max_clicks, Some(NonZeroU64::MAX));
    let granted = subject.store().claim_click(key("abc"), BIRTH, soon()).await;
    let expected = Link { used: 1, ..made };
    assert_eq!(granted, Outcome::Done(Claim::Granted(Box::new(expected))));
}

/// Versions, used counts, times and tombstones come back from an export.
pub async fn restored_rows_are_as_they_were<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    create(store, link("newer")).await;
    let rows = vec![
        Stored::Link(Box::new(Link {
            data: full_link("abc"),
            version: Version(12),
            updated_at: Timestamp::from_millis(BIRTH.as_millis() + 777),
            used: 2,
        })),
        Stored::Tombstone(Tombstone {
            key: key("gone"),
            owner: OwnerId(3),
            created_at: Timestamp::from_millis(1_000_000),
            deleted_at: Timestamp::from_millis(2_000_000),
            version: Version(4),
        }),
    ];
    let done = store.restore_many(rows.clone(), soon()).await;
    assert_eq!(done, Outcome::Done(vec![Ok(()), Ok(())]));
    for row in rows {
        assert_eq!(get(store, row.key()).await, Some(row));
    }
}

/// A row whose key exists in any form is refused, within a batch as well.
pub async fn restored_rows_never_replace_others<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let made = create(store, link("abc")).await;
    create(store, link("gone")).await;
    store.delete(change("gone"), BIRTH, soon()).await.done().unwrap();
    let row = |code: &str| {
        let updated_at = BIRTH;
        let version = Version(9);
        Stored::Link(Box::new(Link { data: link(code), version, updated_at, used: 0 }))
    };
    let rows = vec![row("abc"), row("gone"), row("new"), row("new")];
    let verdicts = store.restore_many(rows, soon()).await;
    let (taken, retired) = (Err(CreateRefusal::Taken), Err(CreateRefusal::Retired));
    assert_eq!(verdicts, Outcome::Done(vec![taken.clone(), retired, Ok(()), taken]));
    assert_eq!(get(store, &key("abc")).await, Some(Stored::Link(Box::new(made))));
}

/// Too late is refused (then nothing happened) or unknown; "done" only if it is there.
pub async fn a_write_whose_deadline_has_passed_is_not_acknowledged<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    let past = Deadline::at(Instant::now() - Duration::from_millis(1));
    for at in 0..20 {
        let code = format!("late{at}");
        let outcome = store.create(link(&code), past).await;
        let found = get(store, &LinkKey::new(DomainId::DEFAULT, key(&code).code)).await;
        match outcome {
            Outcome::Done(_) => assert!(found.is_some()),
            Outcome::Refused(_) => assert_eq!(found, None),
            Outcome::Unknown(_) => {}
        }
    }
}

/// A reader that asks for a version gets a row at least as new.
pub async fn all_versions_answer_a_read_with_a_minimum<S: Subject>(subject: S)
where
    S::Store: LinkReader + LinkWriter,
{
    let store = subject.store();
    create(store, link("abc")).await;
    for _ in 0..3 {
        let patched = store.patch(change("abc"), LinkPatch::default(), BIRTH, soon()).await;
        let version = patched.done().unwrap().version;
        let found = store.get(&key("abc"), version, soon()).await.unwrap().unwrap();
        assert!(found.version() >= version);
    }
}

/// Runs futures side by side on one task; answers in order.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<std::pin::Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in pending.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
