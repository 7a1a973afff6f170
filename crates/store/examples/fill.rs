//! Fills a store with links and measures it: `fill <directory> <links> [bare]`.
//!
//! Prints the rate of `create_many` in batches of 1,000 (with `bare` also that of a loop over
//! rusqlite that inserts the same rows into the same tables), then the latency of point reads and
//! of pages of lists and searches. The directory is made if it is missing and is kept.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use shunt_domain::ports::{LinkQuery, LinkReader, LinkWriter, ListQuery, Sort};
use shunt_domain::{
    Code, Deadline, DomainId, LinkKey, NewLink, OwnerId, RedirectStatus, Tag, Target, Timestamp,
    Version,
};
use shunt_store::sqlite::{Db, DbOptions, LINKS_DB, SqliteOptions, SqliteStore};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rows in one transaction.
const BATCH: u64 = 1_000;

/// SplitMix64: the same links at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn word(&mut self) -> String {
        // A few thousand words, some of them far more common than others.
        let rank = (self.next() % 64) * (self.next() % 64);
        let mut of = Random(rank);
        let syllables = ["ba", "co", "di", "fu", "ge", "ha", "ki", "lo", "mu", "ne", "po", "ra"];
        (0..2 + of.next() % 3)
            .filter_map(|_| syllables.get(of.next() as usize % syllables.len()))
            .copied()
            .collect()
    }
}

fn code(at: u64) -> Result<Code> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = Random(at).next() % 62_u64.pow(7);
    let mut text = String::new();
    for _ in 0..7 {
        text.push(char::from(ALPHABET.get(number as usize % 62).copied().unwrap_or(b'0')));
        number /= 62;
    }
    Ok(Code::parse(&text)?)
}

fn link(at: u64, now: Timestamp) -> Result<NewLink> {
    let mut random = Random(at ^ 0xABCD_EF01_2345);
    let rare = if at % 100_000 == 7 { "-quizzical" } else { "" };
    let target = format!(
        "https://www.{}{}.com/{}/{}-{}{rare}?id={at}",
        random.word(),
        random.word(),
        random.word(),
        random.word(),
        random.word()
    );
    let tag = |name: String| Tag::parse(&name).into_iter();
    Ok(NewLink {
        key: LinkKey::new(DomainId::DEFAULT, code(at)?),
        target: Target::from_stored(&target, false).ok_or("a target")?,
        title: at.is_multiple_of(4).then(|| random.word().into()),
        tags: if at.is_multiple_of(10) {
            tag(format!("t{}", at % 1_000)).collect()
        } else {
            Vec::new()
        },
        owner: OwnerId(at % 50),
        created_at: now,
        valid_from: None,
        expires_at: None,
        max_clicks: None,
        status: RedirectStatus::Found,
        forward_query: false,
        enabled: true,
    })
}

fn batch(from: u64, to: u64) -> Result<Vec<NewLink>> {
    let now = Timestamp::from_millis(1_795_305_600_000 + (from / BATCH) as i64 * 7);
    (from..to).map(|at| link(at, now)).collect()
}

fn soon() -> Deadline {
    Deadline::after(Instant::now(), Duration::from_secs(600))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: fill <directory> <links> [bare]")?;
    let links: u64 = arguments.next().ok_or("usage: fill <directory> <links> [bare]")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    if arguments.next().is_some() {
        bare(&Path::new(&dir).join("bare"), links)?;
    }
    let started = Instant::now();
    let store = SqliteStore::open(Path::new(&dir), SqliteOptions::default())?;
    println!("open: {:?}", started.elapsed());
    runtime.block_on(async {
        fill(&store, links).await?;
        reads(&store, links).await?;
        lists(&store).await
    })?;
    println!("{:?} {:?}", store.file_sizes(), store.writer_stats());
    let started = Instant::now();
    store.close();
    println!("close: {:?}", started.elapsed());
    Ok(())
}

async fn fill(store: &SqliteStore, links: u64) -> Result<()> {
    let there = store.approximate_count(soon()).await?;
    let mut spent = Duration::ZERO;
    let mut slowest = Duration::ZERO;
    for from in (there..links).step_by(BATCH as usize) {
        let rows = batch(from, (from + BATCH).min(links))?;
        let started = Instant::now();
        store.create_many(rows, soon()).await.done().ok_or("a batch was refused")?;
        spent += started.elapsed();
        slowest = slowest.max(started.elapsed());
    }
    let rate = (links.saturating_sub(there)) as f64 / spent.as_secs_f64();
    println!("create_many: {rate:.0} rows/s, slowest batch {slowest:?}");
    Ok(())
}

/// The same rows in the same tables by the shortest loop there is.
fn bare(dir: &Path, links: u64) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let (_, mut connection) = Db::open(&LINKS_DB, dir, DbOptions::default())?;
    connection.execute_batch("PRAGMA wal_autocheckpoint = 4096")?;
    let mut spent = Duration::ZERO;
    let mut id = 0_i64;
    for from in (0..links).step_by(BATCH as usize) {
        let rows = batch(from, (from + BATCH).min(links))?;
        let started = Instant::now();
        let transaction = connection.transaction()?;
        {
            let mut row = transaction.prepare_cached(
                "INSERT INTO links (id, code, domain, owner, version, state, flags, status, used,
                     target, title, tags) VALUES (?1, ?2, 0, ?3, 1, 0, 1, 302, 0, ?4, ?5, ?6)",
            )?;
            let mut text = transaction.prepare_cached(
                "INSERT INTO links_fts (rowid, code, title, target) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let mut tag =
                transaction.prepare_cached("INSERT INTO link_tags (tag, link) VALUES (?1, ?2)")?;
            for link in &rows {
                id = (id + 1).max(link.created_at.as_millis() << 16);
                let (code, target) = (link.key.code.as_str(), link.target.as_str());
                let first = link.tags.first().map(Tag::as_str);
                let owner = link.owner.0.cast_signed();
                row.execute((id, code, owner, target, &link.title, first))?;
                text.execute((id, code, &link.title, target))?;
                if let Some(name) = first {
                    tag.execute((name, id))?;
                }
            }
        }
        transaction.commit()?;
        spent += started.elapsed();
    }
    println!("bare loop: {:.0} rows/s", links as f64 / spent.as_secs_f64());
    Ok(())
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).copied();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| at(share).unwrap_or_default());
    println!("{what}: p50 {p50:?} p99 {p99:?} max {max:?} (n={})", times.len());
}

async fn reads(store: &SqliteStore, links: u64) -> Result<()> {
    let mut random = Random(99);
    let mut times = Vec::new();
    for _ in 0..50_000 {
        let key = LinkKey::new(DomainId::DEFAULT, code(random.next() % links)?);
        let started = Instant::now();
        store.get(&key, Version::default(), soon()).await?.ok_or("a link is missing")?;
        times.push(started.elapsed());
    }
    report("get, one at a time", times);
    let inside = store.reader_stats().point_micros.sum() as f64;
    println!("get, inside the reader: {:.2} us on average", inside / 50_000.0);
    Ok(())
}

async fn lists(store: &SqliteStore) -> Result<()> {
    let texts = [
        None,
        Some("quizzical"),
        Some("bacodi"),
        Some("www"),
        Some("com/"),
        Some("xyzzyx"),
        Some("babababababa.com"),
        Some("1234"),
        Some("comwww"),
    ];
    let mut shapes: Vec<ListQuery> = Vec::new();
    for sort in [Sort::CreatedDesc, Sort::CodeAsc] {
        for text in texts {
            let text = text.map(str::to_owned);
            shapes.push(ListQuery { text, sort, limit: 50, ..ListQuery::default() });
        }
        for name in ["t0", "t999"] {
            shapes.push(ListQuery {
                tag: Tag::parse(name),
                sort,
                limit: 50,
                ..ListQuery::default()
            });
        }
        let owner = Some(OwnerId(7));
        shapes.push(ListQuery { owner, sort, limit: 50, ..ListQuery::default() });
        let text = Some("quizzical".to_owned());
        shapes.push(ListQuery { owner, text, sort, limit: 50, ..ListQuery::default() });
        let text = Some("com/".to_owned());
        shapes.push(ListQuery { owner, text, sort, limit: 50, ..ListQuery::default() });
    }
    for shape in shapes {
        let mut first = Vec::new();
        for _ in 0..30 {
            let started = Instant::now();
            store.list(shape.clone(), soon()).await.map_err(|error| format!("{error:?}"))?;
            first.push(started.elapsed());
        }
        let mut query = shape.clone();
        let (mut pages, mut found, mut later) = (0, 0, Vec::new());
        while pages < 1_005 {
            let started = Instant::now();
            let page = store.list(query.clone(), soon()).await.map_err(|e| format!("{e:?}"))?;
            later.push(started.elapsed());
            pages += 1;
            found += page.links.len();
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        let last = later.last().copied().unwrap_or_default();
        let what = format!(
            "{:?} text={:?} tag={:?} owner={:?}",
            shape.sort,
            shape.text.as_deref().unwrap_or("-"),
            shape.tag.as_ref().map_or("-", Tag::as_str),
            shape.owner.map_or(-1, |owner| owner.0.cast_signed())
        );
        report(&format!("{what} page 1"), first);
        report(&format!("{what} {pages} pages, {found} links, last {last:?}"), later);
    }
    Ok(())
}
