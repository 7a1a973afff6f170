//! What the tests share: counts, an admin, links, and the figures that a run leaves behind.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use shunt_cluster::{Connection, Request, Response, Shunt, until};
pub(crate) use shunt_tests::switch::{count, figure, full};

/// The bound of a wait whose condition is expected at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The setup link that a fresh server prints.
pub(crate) fn setup_link(shunt: &Shunt) -> String {
    until(SOON, "the setup link", || {
        let said = shunt.said();
        let word = said.split_whitespace().find(|word| word.contains("setup_"))?;
        Some(word.to_owned())
    })
    .unwrap()
}

/// Opens the setup link as its page's form does and answers the first admin key.
pub(crate) fn admin(shunt: &Shunt) -> String {
    let link = setup_link(shunt);
    let secret = link.get(link.find("setup_").unwrap()..).unwrap();
    let secret: String =
        secret.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
    let form = Request::new("POST", "/setup")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("token={secret}"));
    let answer = shunt.ask(&form).unwrap();
    key_in(&answer.text()).unwrap_or_else(|| panic!("no key in {answer:?}"))
}

/// The first API key in a text.
pub(crate) fn key_in(text: &str) -> Option<String> {
    let at = text.find("shunt_")?;
    let word = text.get(at..)?;
    let key: String =
        word.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
    (key.len() > 40).then_some(key)
}

/// Creates a link as the anonymous caller on loopback may.
pub(crate) fn create(shunt: &Shunt, link: &Value) -> Response {
    shunt.ask(&Request::post_json("/api/v1/links", link)).unwrap()
}

/// Creates a link to `target` with this code, or fails.
pub(crate) fn link(shunt: &Shunt, code: &str, target: &str) {
    let answer = create(shunt, &json!({"code": code, "target": target}));
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// Creates a link to `target` and answers its code.
pub(crate) fn shorten(connection: &mut Connection, target: &str) -> String {
    let answer =
        connection.ask(&Request::post_json("/api/v1/links", &json!({"target": target}))).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json().unwrap()["code"].as_str().unwrap().to_owned()
}

/// `GET` of a path of the main listener.
pub(crate) fn get(shunt: &Shunt, path: &str) -> Response {
    shunt.ask(&Request::get(path)).unwrap()
}

/// Asserts that a code leads to a target.
#[track_caller]
pub(crate) fn leads(shunt: &Shunt, code: &str, target: &str) {
    let answer = get(shunt, &format!("/{code}"));
    assert_eq!((answer.status, answer.location()), (302, target), "{code}: {answer:?}");
}

/// One server for tests of one process that change nothing of one another's.
pub(crate) fn shared() -> &'static Shunt {
    static SHARED: OnceLock<Shunt> = OnceLock::new();
    SHARED.get_or_init(|| Shunt::started().unwrap())
}

/// A small pseudo-random sequence (SplitMix64): the same for the same seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

/// The click ledger of all boots together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Clicks numbered by the redirect path.
    pub(crate) served: u64,
    /// Clicks in the roll-ups.
    pub(crate) counted: u64,
    /// Clicks reported lost.
    pub(crate) lost: u64,
    /// Boots whose last figures are not known.
    pub(crate) unknown: u64,
}

/// The ledger as it is stored: read from the file itself, so that no figure of the server's own
/// making can hide a difference.
pub(crate) fn ledger(shunt: &Shunt) -> Ledger {
    let file = shunt.data().join("clicks.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let mut db = rusqlite::Connection::open_with_flags(file, flags).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    let moment = db.transaction().unwrap();
    let sum = |sql: &str| {
        let sum: i64 = moment.query_row(sql, [], |row| row.get(0)).unwrap();
        u64::try_from(sum).unwrap()
    };
    let ledger = Ledger {
        served: sum("SELECT coalesce(sum(served), 0) FROM ledger"),
        counted: sum("SELECT coalesce(sum(clicks + heads), 0) FROM totals"),
        lost: sum("SELECT coalesce(sum(lost), 0) FROM ledger"),
        unknown: sum("SELECT coalesce(sum(unknown), 0) FROM ledger"),
    };
    // Marks and roll-ups are one transaction: at no moment does one know more than the other.
    let marked = sum("SELECT coalesce(sum(last - first + 1), 0) FROM marks");
    let hours = sum("SELECT coalesce(sum(clicks + heads), 0) FROM hours");
    assert_eq!((marked, hours), (ledger.counted, ledger.counted), "{ledger:?}");
    ledger
}

/// Waits until at least `served` clicks are in the ledger and it balances.
#[track_caller]
pub(crate) fn balanced(shunt: &Shunt, served: u64) -> Ledger {
    let ledger = until(Duration::from_secs(60), "the ledger to balance", || {
        let ledger = ledger(shunt);
        let complete = ledger.served >= served && ledger.counted + ledger.lost == ledger.served;
        complete.then_some(ledger)
    });
    ledger.unwrap_or_else(|error| panic!("{error} with {served}: {:?}", self::ledger(shunt)))
}
