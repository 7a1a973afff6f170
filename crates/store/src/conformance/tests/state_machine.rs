//! Random sequences of operations on SQLite and on the model.

use proptest::collection::vec;
use proptest::prelude::*;
use shunt_domain::{NewLink, Timestamp};

use super::super::fixtures::{BIRTH, export_all, link};
use super::super::state_machine::{Op, an_op, answer, config, same_answers};
use super::super::{Subject, check};
use super::{Sqlite, hasty_sqlite, model, sqlite};

/// Index, counts and rows fit together.
fn sound(sqlite: &Sqlite) {
    let diagnosis = sqlite.store().diagnose(&mut |_| {}).unwrap();
    assert_eq!(diagnosis.problems, Vec::<String>::new());
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn sqlite_answers_as_the_model_does(ops in vec(an_op(), 1..120)) {
        sound(&same_answers(model(), sqlite(), ops));
    }

    #[test]
    fn sqlite_with_short_pages_answers_as_the_model_does(ops in vec(an_op(), 1..60)) {
        sound(&same_answers(model(), hasty_sqlite(), ops));
    }
}

/// A millisecond has 65,536 places; what comes after them stands in the next one, in both.
#[test]
fn a_full_millisecond_runs_over_into_the_next() {
    let rows = |name: &str, from: u32, to: u32, ms: i64| -> Vec<NewLink> {
        let created_at = Timestamp::from_millis(BIRTH.as_millis() + ms);
        let new = |at| NewLink { created_at, ..link(&format!("{name}{at}")) };
        (from..to).map(new).collect()
    };
    check(async {
        let (model, sqlite) = (model(), sqlite());
        let mut ops = vec![Op::CreateMany(rows("late", 0, 1, 10_000))];
        let chunks = (0..66_u32).map(|at| rows("c", at * 1_000, at * 1_000 + 1_000, 0));
        ops.extend(chunks.map(Op::CreateMany));
        ops.push(Op::CreateMany(rows("again", 0, 2, 0)));
        ops.push(Op::CreateMany(rows("next", 0, 2, 1)));
        for op in ops {
            let expected = answer(model.store(), &op, &mut Vec::new()).await;
            assert_eq!(answer(sqlite.store(), &op, &mut Vec::new()).await, expected);
        }
        let expected = export_all(model.store(), 1_000).await;
        assert_eq!(export_all(sqlite.store(), 1_000).await, expected);
    });
}
