//! Random sequences of operations on two stores: every answer must be the same. One of them is the
//! model.

use std::num::NonZeroU64;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use shunt_domain::ports::{
    Change, CodePool, DomainStore, IdempotencyScope, IdempotencyStore, IdempotentBegin, KeyStore,
    LinkQuery, LinkReader, LinkWriter, ListQuery, MetaStore, Range, RangeLeases, Sort,
};
use shunt_domain::{
    ApiKeyId, DomainId, Link, LinkKey, LinkPatch, NewLink, OwnerId, RedirectStatus, Stored, Tag,
    Timestamp, Tombstone, Version,
};

use super::fixtures::{BIRTH, api_key, export_all, key, list_all, soon, tags, target};
use super::{Restart, check};

/// One operation.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a call of the port that it is named after")]
pub enum Op {
    Get(LinkKey),
    Create(NewLink),
    CreateMany(Vec<NewLink>),
    Restore(Vec<Stored>),
    Patch(Change, Box<LinkPatch>, Timestamp),
    Delete(Change, Timestamp),
    Claim(LinkKey, Timestamp),
    List(ListQuery),
    Export(u32),
    Count,
    Domain(u8),
    Begin(IdempotentBegin),
    Complete(u8, u16),
    Abandon(u8),
    Purge(Timestamp),
    AddKey(u8),
    RevokeKey(u64),
    SetSetup(Option<u8>),
    RedeemSetup(u8, u8),
    AddCodes(u8, usize),
    ClaimCodes,
    Lease(u64),
    /// Gives back a part of the n-th lease so far.
    GiveBack(usize, u64, u64),
    Meta(u8),
    Secret(i64, u8),
    Restart,
    Crash,
}

const NAMES: [&str; 3] = ["one", "two", "three"];

fn time() -> impl Strategy<Value = Timestamp> {
    // Near each other, so that ties, slack and the past all happen.
    prop_oneof![
        4 => 0..40_i64,
        1 => 0..5_000_i64,
        1 => -1_000_000..0_i64,
    ]
    .prop_map(|offset| Timestamp::from_millis(BIRTH.as_millis() + offset))
}

fn a_key() -> impl Strategy<Value = LinkKey> {
    let codes = select(&["aaa", "aab", "AAA", "b", "b-c", "_x", "zzz", "Zz9"][..]);
    (codes, 0..3_u32).prop_map(|(code, domain)| LinkKey::new(DomainId(domain), key(code).code))
}

fn some_tags() -> impl Strategy<Value = Vec<Tag>> {
    vec(select(&["red", "blue", "réd", "red2"][..]), 0..3).prop_map(|names| tags(&names))
}

/// Words of characters whose case everybody folds alike.
fn words() -> impl Strategy<Value = String> {
    "[a-cA-CäÄßжЖ%_\"*' -]{3,9}".prop_map(|text| text.trim().to_owned())
}

fn a_target() -> impl Strategy<Value = String> {
    "https://[a-c]{1,3}\\.example/[a-cA-C%_'*-]{0,6}"
}

fn a_link() -> impl Strategy<Value = NewLink> {
    let texts = (a_target(), proptest::option::of(words()), some_tags());
    let limits = (
        proptest::option::of(time()),
        proptest::option::of(time()),
        proptest::option::of(select(vec![1, 2, 3, u64::MAX])),
    );
    let rest = (0..3_u64, time(), any::<bool>(), prop::bool::weighted(0.8), 0..4_usize);
    (a_key(), texts, limits, rest).prop_map(|(key, texts, limits, rest)| NewLink {
        key,
        target: target(&texts.0),
        title: texts.1.filter(|title| !title.is_empty()).map(Into::into),
        tags: texts.2,
        owner: OwnerId(rest.0),
        created_at: rest.1,
        valid_from: limits.0,
        expires_at: limits.1,
        max_clicks: limits.2.and_then(NonZeroU64::new),
        status: RedirectStatus::from_code([301, 302, 307, 308][rest.4]).unwrap(),
        forward_query: rest.2,
        enabled: rest.3,
    })
}

fn a_row() -> impl Strategy<Value = Stored> {
    (a_link(), 1..5_u64, time(), 0..4_u64, prop::bool::weighted(0.3)).prop_map(
        |(data, version, at, used, dead)| {
            let version = Version(version);
            if dead {
                Stored::Tombstone(Tombstone {
                    key: data.key,
                    owner: data.owner,
                    created_at: data.created_at,
                    deleted_at: at,
                    version,
                })
            } else {
                Stored::Link(Box::new(Link { data, version, updated_at: at, used }))
            }
        },
    )
}

fn a_change() -> impl Strategy<Value = Change> {
    let owner = proptest::option::weighted(0.3, (0..3_u64).prop_map(OwnerId));
    let expected = proptest::option::weighted(0.3, (1..4_u64).prop_map(Version));
    (a_key(), owner, expected).prop_map(|(key, owner, expected)| Change { key, owner, expected })
}

fn a_patch() -> impl Strategy<Value = LinkPatch> {
    (a_link(), any::<[bool; 10]>()).prop_map(|(data, on)| LinkPatch {
        target: on[0].then_some(data.target),
        title: on[1].then_some(data.title),
        tags: on[2].then_some(data.tags),
        owner: on[3].then_some(data.owner),
        valid_from: on[4].then_some(data.valid_from),
        expires_at: on[5].then_some(data.expires_at),
        max_clicks: on[6].then_some(data.max_clicks),
        status: on[7].then_some(data.status),
        forward_query: on[8].then_some(data.forward_query),
        enabled: on[9].then_some(data.enabled),
    })
}

fn a_query() -> impl Strategy<Value = ListQuery> {
    let sorts = vec![Sort::CreatedDesc, Sort::CreatedAsc, Sort::CodeAsc, Sort::CodeDesc];
    (
        proptest::option::weighted(0.3, (0..3_u64).prop_map(OwnerId)),
        proptest::option::weighted(0.3, (0..3_u32).prop_map(DomainId)),
        proptest::option::weighted(0.3, select(tags(&["red", "blue", "réd"]))),
        proptest::option::weighted(0.5, words()),
        select(sorts),
        select(vec![1, 2, 5, 100]),
    )
        .prop_map(|(owner, domain, tag, text, sort, limit)| ListQuery {
            owner,
            domain,
            tag,
            text: text.filter(|text| text.chars().count() >= 3),
            sort,
            cursor: None,
            limit,
        })
}

fn a_begin() -> impl Strategy<Value = IdempotentBegin> {
    (0..2_u64, 0..3_u8, 0..2_u8, time(), 0..20_i64).prop_map(
        |(scope, hash, request, now, lease)| IdempotentBegin {
            scope: scope_of(scope),
            key_hash: [hash; 32],
            request_hash: [request; 32],
            choice: format!("c{lease}"),
            now,
            lease_until: Timestamp::from_millis(now.as_millis() + lease),
        },
    )
}

fn scope_of(number: u64) -> IdempotencyScope {
    if number == 0 { IdempotencyScope::Anonymous } else { IdempotencyScope::Key(ApiKeyId(number)) }
}

/// Any operation, those that happen often in life more often.
pub fn an_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => a_key().prop_map(Op::Get),
        8 => a_link().prop_map(Op::Create),
        2 => vec(a_link(), 0..5).prop_map(Op::CreateMany),
        2 => vec(a_row(), 0..4).prop_map(Op::Restore),
        6 => (a_change(), a_patch(), time())
            .prop_map(|(change, patch, at)| Op::Patch(change, Box::new(patch), at)),
        3 => (a_change(), time()).prop_map(|(change, at)| Op::Delete(change, at)),
        4 => (a_key(), time()).prop_map(|(key, at)| Op::Claim(key, at)),
        8 => a_query().prop_map(Op::List),
        1 => select(vec![1, 3, 100]).prop_map(Op::Export),
        1 => Just(Op::Count),
        1 => (0..3_u8).prop_map(Op::Domain),
        3 => a_begin().prop_map(Op::Begin),
        1 => (0..3_u8, 200..300_u16).prop_map(|(key, status)| Op::Complete(key, status)),
        1 => (0..3_u8).prop_map(Op::Abandon),
        1 => time().prop_map(Op::Purge),
        1 => (0..4_u8).prop_map(Op::AddKey),
        1 => (0..5_u64).prop_map(Op::RevokeKey),
        1 => proptest::option::of(0..2_u8).prop_map(Op::SetSetup),
        1 => (0..2_u8, 4..8_u8).prop_map(|(secret, hash)| Op::RedeemSetup(secret, hash)),
        1 => (0..3_u8, 0..4_usize).prop_map(|(row, len)| Op::AddCodes(row, len)),
        1 => Just(Op::ClaimCodes),
        2 => (0..50_u64).prop_map(Op::Lease),
        2 => (0..4_usize, 0..30_u64, 0..30_u64).prop_map(|(n, from, len)| Op::GiveBack(n, from, len)),
        1 => (0..3_u8).prop_map(Op::Meta),
        1 => (0..6_i64, any::<u8>()).prop_map(|(day, fresh)| Op::Secret(day, fresh)),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ]
}

/// A store with every port that the embedded one has for links.
pub trait Whole:
    LinkReader
    + LinkWriter
    + LinkQuery
    + DomainStore
    + IdempotencyStore
    + KeyStore
    + CodePool
    + RangeLeases
    + MetaStore
{
}

impl<S> Whole for S where
    S: LinkReader
        + LinkWriter
        + LinkQuery
        + DomainStore
        + IdempotencyStore
        + KeyStore
        + CodePool
        + RangeLeases
        + MetaStore
{
}

/// Does one operation and writes down all that came back. `leases` are those given so far.
pub async fn answer<S: Whole>(store: &S, op: &Op, leases: &mut Vec<Range>) -> String {
    let hash = |n: u8| [n; 32];
    match op.clone() {
        Op::Get(key) => format!("{:?}", store.get(&key, Version::default(), soon()).await),
        Op::Create(link) => format!("{:?}", store.create(link, soon()).await),
        Op::CreateMany(links) => format!("{:?}", store.create_many(links, soon()).await),
        Op::Restore(rows) => format!("{:?}", store.restore_many(rows, soon()).await),
        Op::Patch(change, patch, at) => {
            format!("{:?}", store.patch(change, *patch, at, soon()).await)
        }
        Op::Delete(change, at) => format!("{:?}", store.delete(change, at, soon()).await),
        Op::Claim(key, at) => format!("{:?}", store.claim_click(key, at, soon()).await),
        Op::List(query) => format!("{:?}", list_all(store, &query).await),
        Op::Export(limit) => format!("{:?}", export_all(store, limit).await),
        Op::Count => format!("{:?}", store.approximate_count(soon()).await),
        Op::Domain(n) => {
            let host = format!("{n}.example");
            let number = store.ensure_domain(host, soon()).await;
            format!("{number:?} {:?}", store.domains(soon()).await)
        }
        Op::Begin(request) => format!("{:?}", store.begin(request, soon()).await),
        Op::Complete(n, status) => {
            let scope = scope_of(u64::from(n % 2));
            format!("{:?}", store.complete(scope, hash(n), status, vec![n], soon()).await)
        }
        Op::Abandon(n) => {
            format!("{:?}", store.abandon(scope_of(u64::from(n % 2)), hash(n), soon()).await)
        }
        Op::Purge(before) => format!("{:?}", store.purge(before, soon()).await),
        Op::AddKey(n) => {
            let added = store.add_key(api_key(n), soon()).await;
            format!("{added:?} {:?}", store.key_by_hash(hash(n), soon()).await)
        }
        Op::RevokeKey(id) => {
            let revoked = store.revoke_key(ApiKeyId(id), BIRTH, soon()).await;
            format!("{revoked:?} {:?}", store.keys(soon()).await)
        }
        Op::SetSetup(secret) => {
            format!("{:?}", store.set_setup_secret(secret.map(hash), soon()).await)
        }
        Op::RedeemSetup(secret, n) => {
            format!("{:?}", store.redeem_setup(hash(secret), api_key(n), soon()).await)
        }
        Op::AddCodes(row, len) => {
            let codes = (0..len).map(|at| key(&format!("p{row}{at}")).code).collect();
            let added = store.add_codes(vec![codes], soon()).await;
            format!("{added:?} {:?}", store.pool_size(soon()).await)
        }
        Op::ClaimCodes => format!("{:?}", store.claim_codes(soon()).await),
        Op::Lease(len) => {
            let lease = store.lease(len, soon()).await;
            leases.extend(lease.clone().done());
            format!("{lease:?}")
        }
        Op::GiveBack(n, from, len) => {
            let Some(lease) = leases.get(n) else { return String::new() };
            let start = lease.start + from;
            format!("{:?}", store.give_back(Range { start, end: start + len }, soon()).await)
        }
        Op::Meta(n) => {
            let name = NAMES[usize::from(n)];
            let before = store.meta(name, soon()).await;
            let first = store.meta_or_insert(name, vec![n], soon()).await;
            let set = store.set_meta(name, vec![n, n], soon()).await;
            format!("{before:?} {first:?} {set:?}")
        }
        Op::Secret(day, fresh) => {
            format!("{:?}", store.visitor_secret(day, hash(fresh), soon()).await)
        }
        Op::Restart | Op::Crash => String::new(),
    }
}

/// Does all operations on both.
///
/// # Panics
/// When an answer, or what is exported in the end, differs; it answers the second store otherwise.
pub fn same_answers<A, B>(mut model: A, mut other: B, ops: Vec<Op>) -> B
where
    A: Restart,
    B: Restart,
    A::Store: Whole,
    B::Store: Whole,
{
    let mut last = None;
    check(async {
        let (mut model_leases, mut other_leases) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Restart => (model, other) = (model.restart(), other.restart()),
                Op::Crash => (model, other) = (model.crash(), other.crash()),
                _ => {}
            }
            let expected = answer(model.store(), &op, &mut model_leases).await;
            let answered = answer(other.store(), &op, &mut other_leases).await;
            assert_eq!(answered, expected, "{op:?}");
        }
        let expected = export_all(model.store(), 100).await;
        assert_eq!(export_all(other.store(), 100).await, expected);
        last = Some(other);
    });
    last.unwrap()
}

/// How many sequences are tried: `PROPTEST_CASES`, or few enough for every run.
pub fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    // 256 is what proptest takes when nobody asks for anything.
    let cases = if asked.cases == 256 { 48 } else { asked.cases };
    ProptestConfig { cases, max_shrink_iters: 2_000, ..asked }
}
