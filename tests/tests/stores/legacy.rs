//! Links that were elsewhere before: in another service's tables, on real servers, and in an
//! earlier store of our own.

use std::sync::Arc;
use std::time::Duration;

use shunt_cluster::{Postgres, until};
use shunt_domain::ports::{
    ChangeRefusal, CreateRefusal, DomainStore, LinkQuery, LinkReader, LinkWriter,
};
use shunt_domain::ring::{Ring, RingNode};
use shunt_domain::target::Reason;
use shunt_domain::{
    DomainId, LinkKey, LinkPatch, Outcome, OwnerId, StoreError, Stored, Target, TargetRules,
    Timestamp, Version,
};
use shunt_store::conformance::check;
use shunt_store::conformance::fixtures::{change, get, key, link, soon, target};
use shunt_store::earlier::{Renumbered, WithEarlier};
use shunt_store::postgres::legacy::{
    LegacyKeys, LegacyNames, LegacyOptions, LegacyPlace, LegacyRow, LegacyTable, LegacyTargets,
};
use shunt_store::postgres::{PostgresError, PostgresOptions};
use shunt_store::sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

use crate::kit::{options, within};

const DATABASE: &str = "shortener";

/// The first schema: links and keys made in advance. The server's zone is not UTC, which the times
/// must not show.
const USERS: &str = "
    CREATE TABLE urls (
        short_url_id varchar(16) PRIMARY KEY, long_url text, user_id integer,
        created_at timestamptz NOT NULL
    );
    CREATE TABLE keys (short_url_id varchar(16) PRIMARY KEY, used boolean NOT NULL);
    INSERT INTO urls SELECT 'k' || n, 'https://site' || n % 40 || '.example/p/' || n || '?a=b%20c#d',
        n % 5, timestamptz '2024-03-01 12:00:00+00' + n * interval '1 minute'
        FROM generate_series(1, 700) n;
    INSERT INTO urls VALUES
        ('script', 'javascript:alert(1)', 1, now()), ('nothing', NULL, 1, now()),
        ('a.b', 'https://example.com/', 1, now()), ('api', 'https://example.com/', 1, now()),
        ('forever', 'https://example.com/forever', NULL, 'infinity');
    INSERT INTO keys SELECT short_url_id, true FROM urls WHERE short_url_id LIKE 'k%';
    INSERT INTO keys SELECT 'free' || n, false FROM generate_series(1, 1500) n;";

/// The second one, on each of several shards.
const SHARD: &str = "
    CREATE TABLE urls (
        short_code varchar(10) PRIMARY KEY, long_url text NOT NULL, created_at timestamp NOT NULL,
        click_count integer NOT NULL DEFAULT 0, category text
    );";

/// Links that can be links here, of the first schema.
const GOOD: u64 = 701;

struct Rules;

impl LegacyTargets for Rules {
    fn target(&self, _: &str, text: &str) -> Result<Target, Reason> {
        Target::parse(text, &TargetRules::default())
    }
}

fn server(schema: &str) -> Postgres {
    let postgres =
        Postgres::setup().fast().setting("timezone", "America/New_York").start().unwrap();
    postgres.create_database(DATABASE).unwrap();
    postgres.config().psql(DATABASE, schema).unwrap();
    postgres
}

fn users() -> LegacyNames {
    LegacyNames {
        table: "public.urls".to_owned(),
        code: "short_url_id".to_owned(),
        target: "long_url".to_owned(),
        created: Some("created_at".to_owned()),
        owner: Some("user_id".to_owned()),
        keys: Some(LegacyKeys { table: "keys".to_owned(), used: "used".to_owned() }),
    }
}

fn one(server: &Postgres, names: LegacyNames) -> LegacyTable {
    let shards = vec![(String::new(), options(server.config(), DATABASE))];
    LegacyTable::open(LegacyOptions { shards, names }, Arc::new(Rules)).unwrap()
}

/// A store of our own in a directory of its own.
fn own() -> (Arc<SqliteStore>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path(), SqliteOptions::default()).unwrap();
    (Arc::new(store), dir)
}

fn behind(own: &Arc<SqliteStore>, earlier: impl LinkReader + 'static) -> WithEarlier {
    WithEarlier::new(own.clone(), own.clone(), Some(own.clone()), Arc::new(earlier))
}

fn patch(to: &str) -> LinkPatch {
    LinkPatch { target: Some(target(to)), ..LinkPatch::default() }
}

const LATER: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[test]
fn links_of_another_service_are_read_where_they_are() {
    let server = server(USERS);
    let table = one(&server, users());
    assert_eq!(table.check(), []);
    let (store, _dir) = own();
    let both = behind(&store, table);
    check(async {
        // As it stands there, with whose it was as a tag and the time in UTC.
        let Some(Stored::Link(found)) = get(&both, &key("k7")).await else { panic!("no k7") };
        assert_eq!(found.data.target.as_str(), "https://site7.example/p/7?a=b%20c#d");
        assert_eq!(found.data.created_at.as_millis(), 1_709_294_400_000 + 7 * 60_000);
        assert_eq!((found.version, found.data.owner), (Version::FIRST, OwnerId::ANONYMOUS));
        assert_eq!(found.data.tags[0].as_str(), "owner:2");
        assert_eq!(get(&both, &key("k701")).await, None);
        assert_eq!(get(&both, &LinkKey::new(DomainId(1), key("k7").code)).await, None);
        // What the parser refuses is gone, and not given to anybody.
        for code in ["script", "nothing"] {
            assert!(matches!(get(&both, &key(code)).await, Some(Stored::Tombstone(_))), "{code}");
            let refused = both.create(link(code), soon()).await;
            assert_eq!(refused, Outcome::Refused(CreateRefusal::Retired), "{code}");
        }

        // Its codes are taken, one by one and in batches.
        let taken = both.create(link("k1"), soon()).await;
        assert_eq!(taken, Outcome::Refused(CreateRefusal::Taken));
        let batch = vec![link("fresh1"), link("k2"), link("fresh2"), link("script")];
        let verdicts = both.create_many(batch, soon()).await.done().unwrap();
        let refusals: Vec<_> = verdicts.into_iter().map(Result::err).collect();
        let taken = [None, Some(CreateRefusal::Taken), None, Some(CreateRefusal::Retired)];
        assert_eq!(refusals, taken);
        assert_eq!(get(&*store, &key("k2")).await, None, "nothing was made");

        // A change takes the link over first; whoever may not change it doesn't.
        let stranger = shunt_domain::ports::Change { owner: Some(OwnerId(2)), ..change("k7") };
        let refused = both.patch(stranger, patch("https://x.example/"), LATER, soon()).await;
        assert_eq!(refused, Outcome::Refused(ChangeRefusal::NotFound));
        assert_eq!(get(&*store, &key("k7")).await, None, "it was taken over for nobody");
        let changed = both.patch(change("k7"), patch("https://new.example/"), LATER, soon()).await;
        let changed = changed.done().unwrap();
        assert_eq!((changed.version, changed.data.created_at), (Version(2), found.data.created_at));
        assert_eq!(get(&both, &key("k7")).await, Some(Stored::Link(Box::new(changed))));
        assert_eq!(both.delete(change("k8"), LATER, soon()).await, Outcome::Done(Version(2)));
        assert!(matches!(get(&both, &key("k8")).await, Some(Stored::Tombstone(_))));
        let absent = both.delete(change("k9999"), LATER, soon()).await;
        assert_eq!(absent, Outcome::Refused(ChangeRefusal::NotFound));
        // What is the store's own is not adopted again, nor brought back from there.
        let gone = both.patch(change("k8"), patch("https://new.example/"), LATER, soon()).await;
        assert_eq!(gone, Outcome::Refused(ChangeRefusal::NotFound));

        // An export goes back only where it is newer.
        let older = Stored::Link(Box::new(shunt_domain::Link {
            data: link("k9"),
            version: Version::FIRST,
            updated_at: LATER,
            used: 0,
        }));
        let mut newer = older.clone();
        if let Stored::Link(link) = &mut newer {
            link.version = Version(2);
        }
        let restored = both.restore_many(vec![older, newer.clone()], soon()).await.done().unwrap();
        assert_eq!(restored, [Err(CreateRefusal::Taken), Ok(())]);
        assert_eq!(get(&both, &key("k9")).await, Some(newer));
    });
}

#[test]
fn all_rows_of_another_service_come_page_by_page() {
    let server = server(USERS);
    let table = one(&server, users());
    check(async {
        let (mut place, mut links, mut refused) = (Some(LegacyPlace::default()), 0, Vec::new());
        while let Some(at) = place {
            let (rows, next) = table.page(&at, 100, soon()).await.unwrap();
            for row in rows {
                match row {
                    LegacyRow::Link(_) => links += 1,
                    LegacyRow::Refused { code, why } => refused.push((code, why)),
                }
            }
            place = next;
        }
        assert_eq!(links, GOOD);
        let words = [("a.b", "bad-code"), ("api", "reserved"), ("nothing", "missing")];
        let all = words.into_iter().chain([("script", "scheme")]);
        refused.sort();
        for ((code, why), (expected, word)) in refused.iter().zip(all) {
            assert!(code == expected && why.contains(word), "{code}: {why}");
        }
        assert_eq!(refused.len(), 4);
        assert_eq!(table.count(soon()).await, Ok(GOOD + 4));

        let (mut place, mut keys) = (Some(LegacyPlace::default()), 0);
        while let Some(at) = place {
            let (codes, next) = table.unused_keys(&at, 400, soon()).await.unwrap();
            assert!(codes.iter().all(|code| code.as_str().starts_with("free")));
            (keys, place) = (keys + codes.len(), next);
        }
        assert_eq!(keys, 1_500);
    });
}

#[test]
fn wrong_names_are_said_and_never_run() {
    let server = server(USERS);
    let wrong = |names: LegacyNames| one(&server, names).check().pop().unwrap();
    for (names, word) in [
        (LegacyNames { table: "links".to_owned(), ..users() }, "links"),
        (LegacyNames { code: "id".to_owned(), ..users() }, "id"),
        (LegacyNames { created: Some("long_url".to_owned()), ..users() }, "isfinite"),
        (LegacyNames { table: "urls\"; DROP TABLE urls; --".to_owned(), ..users() }, "DROP"),
    ] {
        let said = wrong(names).to_string();
        assert!(said.contains(word) && said.contains("[legacy]"), "{said}");
        assert!(!said.contains("migrate"), "{said}");
    }
    let left = server.config().psql(DATABASE, "SELECT count(*) FROM urls").unwrap();
    assert_eq!(left, "705");
    let nobody =
        PostgresOptions { user: "nobody".to_owned(), ..options(server.config(), DATABASE) };
    let shards = vec![(String::new(), nobody)];
    let table = LegacyTable::open(LegacyOptions { shards, names: users() }, Arc::new(Rules));
    let said = table.unwrap().check().pop().unwrap();
    assert!(matches!(said, PostgresError::Denied { .. }), "{said}");
}

/// The three-shard schema: a code is looked for where the ring says, and a shard that is down
/// takes its own codes along and nobody else's.
#[test]
fn each_code_is_found_on_its_shard_and_a_shard_down_harms_no_other() {
    let names = ["shard0", "shard1", "shard2"];
    let mut servers = names.map(|_| server(SHARD));
    let ring = Ring::new(names.map(RingNode::new).to_vec()).unwrap();
    let codes: Vec<String> = (0..600).map(|n| format!("c{}", n * 7_919)).collect();
    let mut rows = vec![Vec::new(); names.len()];
    for code in &codes {
        let row =
            |n| format!("('{code}','https://s{n}.example/{code}','2024-03-01 12:00:00',1,'x')");
        let owner = ring.owner(code);
        rows[owner].push(row(owner));
    }
    // One that no ring would look for there.
    let lost = (0..).map(|n| format!("lost{n}")).find(|code| ring.owner(code) == 1).unwrap();
    rows[0].push(format!("('{lost}','https://lost.example/','2024-03-01 12:00:00',0,NULL)"));
    for (server, rows) in servers.iter().zip(&rows) {
        assert!(rows.len() > 100, "an uneven ring");
        let sql = format!("INSERT INTO urls VALUES {}", rows.join(","));
        server.config().psql(DATABASE, &sql).unwrap();
    }
    let shards = names.iter().zip(&servers);
    let shards =
        shards.map(|(name, server)| ((*name).to_owned(), options(server.config(), DATABASE)));
    let columns = LegacyNames {
        table: "urls".to_owned(),
        code: "short_code".to_owned(),
        target: "long_url".to_owned(),
        created: Some("created_at".to_owned()),
        ..LegacyNames::default()
    };
    let options = LegacyOptions { shards: shards.collect(), names: columns };
    let table = Arc::new(LegacyTable::open(options, Arc::new(Rules)).unwrap());
    assert_eq!(table.check(), []);
    let (store, _dir) = own();
    let both = WithEarlier::new(store.clone(), store, None, table.clone());
    check(async {
        for code in &codes {
            let Some(Stored::Link(found)) = get(&both, &key(code)).await else { panic!("{code}") };
            let at = format!("https://s{}.example/{code}", ring.owner(code));
            assert_eq!(found.data.target.as_str(), at);
            // A timestamp without a zone is taken for UTC.
            assert_eq!(found.data.created_at.as_millis(), 1_709_294_400_000);
        }
        assert_eq!(get(&both, &key(&lost)).await, None);
        let (mut place, mut links, mut refused) = (Some(LegacyPlace::default()), 0, Vec::new());
        while let Some(at) = place {
            let (rows, next) = table.page(&at, 64, soon()).await.unwrap();
            for row in rows {
                match row {
                    LegacyRow::Link(_) => links += 1,
                    LegacyRow::Refused { code, .. } => refused.push(code),
                }
            }
            place = next;
        }
        assert_eq!((links, refused), (codes.len(), vec![lost.clone()]));
    });

    servers[1].kill().unwrap();
    check(async {
        let (mut down, mut up) = (0, 0);
        for code in &codes {
            let found = both.get(&key(code), Version::default(), within(5_000)).await;
            if ring.owner(code) == 1 {
                assert!(matches!(found, Err(StoreError::Unavailable(_))), "{code}: {found:?}");
                down += 1;
            } else {
                assert!(matches!(found, Ok(Some(_))), "{code}: {found:?}");
                up += 1;
            }
        }
        assert!(down > 100 && up > 200, "{down} {up}");
        // Nobody knows whether its codes are taken, so they are given to nobody.
        let refused = both.create(link(&lost), within(5_000)).await;
        assert!(
            matches!(refused, Outcome::Refused(CreateRefusal::Store(StoreError::Unavailable(_)))),
            "{refused:?}"
        );
    });
    servers[1].restart().unwrap();
    let mine = codes.iter().find(|code| ring.owner(code) == 1).unwrap();
    until(Duration::from_secs(30), "the shard", || {
        let mut found = None;
        check(async { found = both.get(&key(mine), Version::default(), soon()).await.ok() });
        found.flatten()
    })
    .unwrap();
}

/// An earlier store of our own numbers its domains as it likes.
#[test]
fn an_earlier_store_is_asked_by_its_own_numbers_of_domains() {
    let ((old, _old), (new, _new)) = (own(), own());
    check(async {
        let mut numbers = Vec::new();
        for host in ["a.example", "b.example"] {
            numbers.push(old.ensure_domain(host.to_owned(), soon()).await.done().unwrap());
        }
        let here = new.ensure_domain("b.example".to_owned(), soon()).await.done().unwrap();
        assert_ne!(here, numbers[1], "the test would prove nothing");
        let mut there = link("x");
        there.key.domain = numbers[1];
        there.max_clicks = std::num::NonZeroU64::new(1);
        old.create(there, soon()).await.done().unwrap();
        let both = behind(&new, Renumbered::new(old.clone(), old.clone(), new.clone()));
        let on = LinkKey::new(here, key("x").code);
        let Some(Stored::Link(found)) = get(&both, &on).await else { panic!("not found") };
        assert_eq!(found.key(), &on);
        assert_eq!(get(&both, &key("x")).await, None);
        // A click of a limited link is a change: the link is taken over, and the limit holds.
        let now = found.data.created_at;
        for granted in [true, false] {
            let claim = both.claim_click(on.clone(), now, soon()).await.done().unwrap();
            assert_eq!(matches!(claim, shunt_domain::ports::Claim::Granted(_)), granted);
        }
        assert!(get(&*new, &on).await.is_some());
        let (rows, _) = old.export(None, 10, soon()).await.unwrap();
        let Stored::Link(left) = &rows[0] else { panic!("{rows:?}") };
        assert_eq!(left.used, 0, "nothing is written there");
    });
}
