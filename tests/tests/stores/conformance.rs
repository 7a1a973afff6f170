//! The conformance suite on PostgreSQL, directly and through PgBouncer.

use std::time::Duration;

use shunt_cluster::Postgres;
use shunt_store::postgres::{ListBudget, PostgresOptions, PostgresRollups, PostgresStore};
use shunt_store::{conformance_durability, conformance_listing, conformance_rollups};

use crate::kit::{Crash, Subjected, subjects};

fn directly() -> impl FnMut() -> Subjected<PostgresStore> {
    subjects(Postgres::setup().fast(), false, Crash::Spares, |options| options)
}

fn through_pgbouncer() -> impl FnMut() -> Subjected<PostgresStore> {
    subjects(Postgres::setup().fast(), true, Crash::Spares, |options| options)
}

shunt_store::conformance_suite!(on_postgres, directly, conformance_together);
shunt_store::conformance_suite!(on_postgres_pooled, through_pgbouncer, conformance_together);

/// What is acknowledged survives a kill of the server, too.
mod on_postgres_killed {
    use super::*;

    fn durable() -> impl FnMut() -> Subjected<PostgresStore> {
        subjects(Postgres::setup(), false, Crash::Kills, |options| options)
    }

    conformance_durability!(durable, conformance_together);

    fn durable_rollups() -> impl FnMut() -> Subjected<PostgresRollups> {
        subjects(Postgres::setup(), false, Crash::Kills, |options| options)
    }

    conformance_rollups!(durable_rollups, conformance_together);
}

/// Each row is a statement of its own, as on a cluster, and every search is read in windows.
mod on_postgres_one_by_one {
    use super::*;

    fn hasty(options: PostgresOptions) -> PostgresOptions {
        PostgresOptions {
            reads_per_statement: 1,
            creates_per_statement: 1,
            list_budget: ListBudget { time: Duration::ZERO, scan_time: Duration::ZERO, window: 3 },
            ..options
        }
    }

    fn hasty_store() -> impl FnMut() -> Subjected<PostgresStore> {
        subjects(Postgres::setup().fast(), false, Crash::Spares, hasty)
    }

    conformance_listing!(hasty_store, conformance_together);
    shunt_store::conformance_links!(hasty_store, conformance_together);
}

mod on_postgres_rollups_pooled {
    use super::*;

    fn pooled_rollups() -> impl FnMut() -> Subjected<PostgresRollups> {
        subjects(Postgres::setup().fast(), true, Crash::Spares, |options| options)
    }

    conformance_rollups!(pooled_rollups, conformance_together);
}

/// Random sequences of operations: every answer is the model's.
mod beside_the_model {
    use std::cell::RefCell;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use shunt_store::conformance::state_machine::{Op, an_op, config, same_answers};
    use shunt_store::conformance::{Restart, Subject};
    use shunt_store::model::ModelStore;

    use super::*;

    struct Model(ModelStore);

    impl Subject for Model {
        type Store = ModelStore;

        fn store(&self) -> &ModelStore {
            &self.0
        }
    }

    impl Restart for Model {
        fn restart(self) -> Self {
            self.0.restart();
            self
        }

        fn crash(self) -> Self {
            self.restart()
        }
    }

    /// Operations that PostgreSQL answers as the model does: the pool has buckets and is no queue,
    /// and places of a batch are given before it is known which of its rows there will be, so its
    /// times go up.
    fn an_op_for_all() -> impl Strategy<Value = Op> {
        an_op().prop_filter_map("the pool", |op| match op {
            Op::AddCodes(..) | Op::ClaimCodes => None,
            Op::CreateMany(mut links) => {
                links.sort_by_key(|link| link.created_at);
                Some(Op::CreateMany(links))
            }
            op => Some(op),
        })
    }

    #[test]
    fn postgres_answers_as_the_model_does() {
        let next = RefCell::new(subjects::<PostgresStore>(
            Postgres::setup().fast(),
            false,
            Crash::Spares,
            |options| options,
        ));
        proptest!(config(), |(ops in vec(an_op_for_all(), 1..60))| {
            let model = Model(ModelStore::default());
            drop(same_answers(model, (next.borrow_mut())(), ops));
        });
    }
}
