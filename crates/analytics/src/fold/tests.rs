use proptest::prelude::*;
use shunt_domain::Timestamp;
use shunt_domain::click::Network;

use super::*;

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";

fn click<'a>(code: &'a str, hour: i64, user_agent: &'a str) -> Click<'a> {
    Click {
        domain: DomainId(0),
        code,
        at: Timestamp::from_millis(hour * 3_600_000 + 17),
        kind: ClickKind::Served,
        flags: ClickFlags::default(),
        visitor: 1,
        network: Network::Unknown,
        referrer: "",
        user_agent,
        language: "",
        utm: "",
        rule: 0,
    }
}

fn run(lane: u8, first: u64, last: u64) -> SeqRange {
    let lane = Lane::new(lane).expect("a lane");
    SeqRange { node: NodeId(1), boot: BootId(2), lane, first, last }
}

#[test]
fn people_bots_previews_and_heads_are_kept_apart() {
    let mut folder = Folder::new(7);
    let person = click("a", 5, BROWSER);
    let head = Click { kind: ClickKind::Head, ..person.clone() };
    let prefetch = Click { flags: ClickFlags::PREFETCH, ..person.clone() };
    let preview = Click { flags: ClickFlags::PREVIEW, ..person.clone() };
    let gpc = Click { flags: ClickFlags::GPC, ..person.clone() };
    for one in [&person, &head, &prefetch, &preview, &gpc] {
        folder.fold(one).expect("a good code");
    }
    for agent in ["Googlebot/2.1", "curl/8.0", ""] {
        folder.fold(&click("a", 5, agent)).expect("a good code");
    }
    folder.mark(run(3, 0, 7));
    assert_eq!((folder.rows(), folder.folded()), (1, 8));
    let batch = folder.take(Vec::new());
    let row = batch.rows.first().expect("one row");
    assert_eq!((row.clicks, row.humans, row.heads), (7, 2, 1));
    assert_eq!(batch.marks, [run(3, 0, 7)]);
    assert!(folder.is_empty() && folder.rows() == 0 && folder.folded() == 0);
    assert!(folder.take(Vec::new()).rows.is_empty());
}

#[test]
fn a_click_without_a_code_is_refused_and_changes_nothing() {
    let mut folder = Folder::new(7);
    assert_eq!(folder.fold(&click("", 0, "")), Err(FoldError::Code(CodeError::Empty)));
    assert_eq!(folder.fold(&click("a b", 0, "")), Err(FoldError::Code(CodeError::BadCharacter)));
    assert_eq!(folder.rows(), 0);
}

#[test]
fn marks_of_lanes_and_boots_do_not_mix() {
    let mut folder = Folder::new(7);
    folder.mark(run(1, 0, 4));
    folder.mark(run(1, 5, 9));
    folder.mark(run(1, 20, 29));
    folder.mark(run(0, 0, 0));
    folder.mark(SeqRange { boot: BootId(1), ..run(9, 3, 3) });
    let batch = folder.take(Vec::new());
    assert_eq!(
        batch.marks,
        [SeqRange { boot: BootId(1), ..run(9, 3, 3) }, run(0, 0, 0), run(1, 0, 9), run(1, 20, 29),]
    );
}

proptest! {
    /// Against a plain map, over enough keys that the table grows.
    #[test]
    fn folds_like_a_map(
        events in proptest::collection::vec(
            ("[a-c]{1,2}|[a-b]{9}", 0_u32..3, -2_i64..3, any::<bool>(), any::<bool>()),
            0..300,
        ),
        many in 0_u32..1500,
        seed in any::<u64>(),
    ) {
        let mut folder = Folder::new(seed);
        let mut model: BTreeMap<(String, u32, i64), (u64, u64, u64)> = BTreeMap::new();
        let numbered = (0..many).map(|i| (format!("n{i}"), 0, 1, false, true));
        for (code, domain, hour, head, person) in events.into_iter().chain(numbered) {
            let agent = if person { BROWSER } else { "bingbot/2.0" };
            let kind = if head { ClickKind::Head } else { ClickKind::Served };
            let event = Click { domain: DomainId(domain), kind, ..click(&code, hour, agent) };
            prop_assert_eq!(folder.fold(&event), Ok(()));
            let row = model.entry((code, domain, hour)).or_default();
            if head {
                row.2 += 1;
            } else {
                row.0 += 1;
                row.1 += u64::from(person);
            }
        }
        let rows: Vec<_> = folder
            .take(Vec::new())
            .rows
            .into_iter()
            .map(|row| {
                let key = (row.key.code.as_str().to_owned(), row.key.domain.0, row.hour);
                (key, (row.clicks, row.humans, row.heads))
            })
            .collect();
        prop_assert_eq!(rows, model.into_iter().collect::<Vec<_>>());
    }
}
