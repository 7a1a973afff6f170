//! The macros that make tests of facts.

/// One `#[test]` per named fact of a port's module.
#[macro_export]
macro_rules! conformance_facts {
    ($port:ident, $make:expr, [$($fact:ident),* $(,)?]) => {
        mod $port {
            #[allow(unused_imports, reason = "the expression may name anything around the suite")]
            use super::*;
            $(
                #[test]
                fn $fact() {
                    $crate::conformance::check(async {
                        $crate::conformance::$port::$fact($make()).await;
                    });
                }
            )*
        }
    };
}

/// One `#[test]` for all facts of a port, one after the other: for stores that need a server, which
/// all of them share. `make` gives what makes subjects: a function with state.
#[macro_export]
macro_rules! conformance_together {
    ($port:ident, $make:expr, [$($fact:ident),* $(,)?]) => {
        #[test]
        fn $port() {
            let mut next = $make();
            let mut facts = $crate::conformance::Facts::default();
            $(
                facts.check(stringify!($fact), async {
                    $crate::conformance::$port::$fact(next()).await;
                });
            )*
            facts.end();
        }
    };
}

/// The same without `#[test]`: for stores whose servers are too dear to be started for each port.
#[macro_export]
macro_rules! conformance_function {
    ($port:ident, $make:expr, [$($fact:ident),* $(,)?]) => {
        pub fn $port() {
            let mut next = $make();
            let mut facts = $crate::conformance::Facts::default();
            $(
                facts.check(stringify!($fact), async {
                    $crate::conformance::$port::$fact(next()).await;
                });
            )*
            facts.end();
        }
    };
}

/// The facts of every port that the embedded store has. `how` is `conformance_facts` unless said
/// otherwise.
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $make:expr) => {
        $crate::conformance_suite!($name, $make, conformance_facts);
    };
    ($name:ident, $make:expr, $how:ident) => {
        mod $name {
            use super::*;
            $crate::conformance_links!($make, $how);
            $crate::conformance_listing!($make, $how);
            $crate::conformance_domains!($make, $how);
            $crate::conformance_idempotency!($make, $how);
            $crate::conformance_once!($make, $how);
            $crate::conformance_keys!($make, $how);
            $crate::conformance_pool!($make, $how);
            $crate::conformance_ranges!($make, $how);
            $crate::conformance_meta!($make, $how);
            $crate::conformance_durability!($make, $how);
        }
    };
}

/// `LinkReader` and `LinkWriter`.
#[macro_export]
macro_rules! conformance_links {
    ($make:expr) => {
        $crate::conformance_links!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            links,
            $make,
            [
                created_links_are_read_back_as_they_were_given,
                unknown_codes_are_absent,
                a_taken_code_is_refused,
                codes_differ_by_domain_and_by_case,
                deleted_codes_are_never_given_out_again,
                concurrent_creates_of_one_code_have_one_winner,
                a_batch_answers_row_by_row,
                an_empty_batch_is_done,
                links_of_one_instant_keep_their_order,
                a_patch_changes_what_it_names_and_nothing_else,
                a_patch_can_clear_what_is_optional,
                changes_need_the_right_owner_and_version,
                concurrent_patches_with_one_version_have_one_winner,
                a_deleted_link_leaves_a_tombstone,
                claims_stop_at_the_limit,
                concurrent_claims_never_exceed_the_limit,
                claims_are_denied_out_of_force,
                claims_without_a_limit_are_granted_and_not_counted,
                the_largest_limit_is_kept,
                restored_rows_are_as_they_were,
                restored_rows_never_replace_others,
                a_write_whose_deadline_has_passed_is_not_acknowledged,
                all_versions_answer_a_read_with_a_minimum,
            ]
        );
    };
}

/// `LinkQuery`.
#[macro_export]
macro_rules! conformance_listing {
    ($make:expr) => {
        $crate::conformance_listing!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            listing,
            $make,
            [
                every_filter_and_order_lists_exactly_its_links,
                text_is_found_without_regard_to_case,
                text_is_literal,
                changed_links_are_found_by_their_new_words_only,
                deleted_links_are_not_listed,
                a_cursor_of_another_query_is_refused,
                paging_misses_and_repeats_nothing_while_links_come,
                paging_goes_on_when_the_last_link_was_deleted,
                limits_are_kept,
                exports_hold_everything_in_order_of_creation,
                the_count_follows,
            ]
        );
    };
}

/// `DomainStore`.
#[macro_export]
macro_rules! conformance_domains {
    ($make:expr) => {
        $crate::conformance_domains!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(domains, $make, [hosts_get_numbers_once, concurrent_registrations_agree,]);
    };
}

/// `IdempotencyStore`.
#[macro_export]
macro_rules! conformance_idempotency {
    ($make:expr) => {
        $crate::conformance_idempotency!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            idempotency,
            $make,
            [
                the_first_attempt_is_fresh_and_others_wait,
                a_completed_write_is_answered_again,
                another_request_under_the_same_key_is_a_mismatch,
                an_attempt_whose_lease_ran_out_is_resumed_with_its_choice,
                an_abandoned_attempt_is_forgotten,
                a_completed_write_can_not_be_abandoned_or_completed_anew,
                scopes_are_apart,
                old_keys_are_purged,
                concurrent_attempts_have_one_first,
            ]
        );
    };
}

/// `CreateOnce`, beside `LinkReader`, `LinkWriter` and `IdempotencyStore`.
#[macro_export]
macro_rules! conformance_once {
    ($make:expr) => {
        $crate::conformance_once!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            once,
            $make,
            [
                the_link_and_its_answer_are_made_together,
                a_refused_create_leaves_the_key_free,
                other_attempts_are_seen_and_nothing_is_made,
                concurrent_creates_under_one_key_make_one_link,
            ]
        );
    };
}

/// `KeyStore`.
#[macro_export]
macro_rules! conformance_keys {
    ($make:expr) => {
        $crate::conformance_keys!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            keys,
            $make,
            [
                keys_are_found_by_their_hash,
                a_key_without_owner_founds_one,
                a_repeated_key_is_the_same_key,
                keys_are_revoked_once,
                the_setup_secret_works_once,
                concurrent_setups_make_one_key,
            ]
        );
    };
}

/// `CodePool`.
#[macro_export]
macro_rules! conformance_pool {
    ($make:expr) => {
        $crate::conformance_pool!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            pool,
            $make,
            [an_empty_pool_gives_nothing, rows_come_out_once, concurrent_claims_share_nothing,]
        );
    };
}

/// `RangeLeases` and `HighWater`.
#[macro_export]
macro_rules! conformance_ranges {
    ($make:expr) => {
        $crate::conformance_ranges!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            ranges,
            $make,
            [
                leases_do_not_overlap,
                rests_come_back_once,
                only_what_was_leased_can_be_given_back,
                concurrent_leases_do_not_overlap,
                a_proposal_is_leased_only_above_the_mark,
                rests_of_proposals_come_back_once,
                one_of_equal_proposals_wins,
            ]
        );
    };
}

/// `MetaStore`.
#[macro_export]
macro_rules! conformance_meta {
    ($make:expr) => {
        $crate::conformance_meta!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            meta,
            $make,
            [
                settings_are_kept,
                the_first_of_two_inserts_wins,
                a_day_has_one_secret,
                secrets_are_destroyed_two_days_later,
            ]
        );
    };
}

/// Everything that must survive a restart or a crash, over all ports.
#[macro_export]
macro_rules! conformance_durability {
    ($make:expr) => {
        $crate::conformance_durability!($make, conformance_facts);
    };
    ($make:expr, $how:ident) => {
        $crate::$how!(
            durability,
            $make,
            [
                acknowledged_writes_survive_a_crash,
                acknowledged_writes_survive_a_restart,
                claimed_clicks_survive_a_crash,
                ranges_are_never_leased_again_after_a_crash,
                rests_given_back_survive_a_restart_and_come_out_once,
                claimed_codes_do_not_come_back,
                running_attempts_are_resumed_after_a_crash,
                order_goes_on_after_a_restart,
            ]
        );
    };
}
