use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use shunt_domain::click::codec::decode;

use super::*;
use crate::tests::support::click;

thread_local! {
    /// Stores until this thread's producer dies; `None` lives for ever.
    static STEPS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What the ring calls before each store.
pub(super) fn step() {
    if let Some(left) = STEPS_LEFT.get() {
        if left == 0 {
            // Without the panic hook's message: this is no failure.
            std::panic::resume_unwind(Box::new("killed here"));
        }
        STEPS_LEFT.set(Some(left - 1));
    }
}

const ID: RingId = RingId { node: NodeId(1), boot: BootId(2), core: 0, cores: 1 };

fn small_ring(dir: &std::path::Path) -> Arc<Ring> {
    let mapping = Mapping::create(&dir.join("ring"), mapping_words(1)).expect("a mapping");
    Arc::new(Ring::init(mapping, ID, 99))
}

/// Everything between the consumer's position and the head, as code and time of each event.
fn drain(consumer: &mut RingConsumer) -> Vec<(String, i64)> {
    consumer.look();
    let mut out = Vec::new();
    while let Some(entry) = consumer.next() {
        let mut bytes = vec![0xaa; entry.bytes as usize];
        consumer.copy(entry, &mut bytes);
        let (len, event) = bytes.split_first_chunk::<PREFIX>().expect("a prefix");
        assert_eq!(usize::from(u16::from_le_bytes(*len)), event.len());
        let click = decode(event).expect("a click");
        assert_eq!(entry.lane, Lane::of(click.domain, click.code.as_bytes()));
        out.push((click.code.to_owned(), click.at.as_millis()));
    }
    out
}

#[test]
fn a_producer_is_given_out_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let ring = small_ring(dir.path());
    assert!(ring.is_done());
    let producer = ring.producer().expect("the first one");
    assert!(ring.producer().is_none());
    assert!(!ring.is_done());
    drop(producer);
    assert!(ring.is_done());
    assert!(ring.producer().is_none());
}

#[test]
fn a_full_ring_loses_with_a_number_and_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let ring = small_ring(dir.path());
    let mut producer = ring.producer().expect("a producer");
    let mut consumer = RingConsumer::new(Arc::clone(&ring), 0);
    let long = "x".repeat(500);
    for i in 0..1000 {
        producer.record(&click("abc", i, &long));
    }
    assert_eq!(ring.numbered(), 1000);
    let lost = ring.lost();
    assert!(lost > 800, "64 KiB hold about 110 such events, lost {lost}");
    assert!(ring.depth() <= ring.size());
    let got = drain(&mut consumer);
    assert_eq!(got.len() as u64 + lost, 1000);
    // The first ones stayed: what is full drops what is new.
    assert_eq!(got.last().map(|(_, at)| *at), Some(got.len() as i64 - 1));
    producer.record(&click("abc", 5000, &long));
    assert_eq!(ring.lost(), lost + 1, "nothing was given back yet");
    consumer.release(consumer.position());
    assert_eq!(ring.depth(), 0);
    producer.record(&click("abc", 5001, &long));
    assert_eq!(drain(&mut consumer), [("abc".to_owned(), 5001)]);
}

#[test]
fn only_whole_rings_of_this_life_of_the_machine_are_adopted() {
    let dir = tempfile::tempdir().expect("a directory");
    let ring = small_ring(dir.path());
    let path = dir.path().join("ring");
    let adopt = |machine| Ring::adopt(Mapping::open(&path).expect("it is there"), machine);
    assert_eq!(adopt(99).expect("a ring").id(), ID);
    assert!(adopt(98).is_none(), "another life of the machine");
    for at in 0..=AT_CHECK {
        let was = ring.word(at).load(Relaxed);
        ring.word(at).store(was ^ 4, Relaxed);
        assert!(adopt(99).is_none(), "word {at} is damaged");
        ring.word(at).store(was, Relaxed);
    }
    assert!(adopt(99).is_some());
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a file");
    file.set_len(file.metadata().expect("a length").len() - 8).expect("cut");
    assert!(adopt(99).is_none(), "cut short");
    std::fs::write(&path, vec![0; 1 << 16]).expect("zeros");
    assert!(adopt(99).is_none(), "never begun");
}

/// Dies before each store of `record` in turn, with the ring in every alignment, full and not.
#[test]
fn killed_at_any_store_an_event_is_whole_or_lost() {
    let agent = "a user agent of some length, so that there are many words";
    let mut deaths = 0;
    for fill in [0, 3, 40, 500] {
        for steps in 0.. {
            let dir = tempfile::tempdir().expect("a directory");
            let ring = small_ring(dir.path());
            let mut producer = ring.producer().expect("a producer");
            for i in 0..fill {
                producer.record(&click("before", i, agent));
            }
            let before = drain(&mut RingConsumer::new(Arc::clone(&ring), 0)).len() as u64;
            let lost_before = ring.lost();
            STEPS_LEFT.set(Some(steps));
            let run = catch_unwind(AssertUnwindSafe(|| producer.record(&click("last", 7, agent))));
            STEPS_LEFT.set(None);
            // The process is gone: what counts is the file.
            std::mem::forget(producer);
            drop(ring);
            let mapping = Mapping::open(&dir.path().join("ring")).expect("it is there");
            let ring = Arc::new(Ring::adopt(mapping, 99).expect("a ring"));
            let mut consumer = RingConsumer::new(Arc::clone(&ring), 0);
            let got = drain(&mut consumer);
            let events = got.len() as u64;
            let missing = ring.numbered() - events - ring.lost();
            assert!(events >= before && ring.lost() >= lost_before);
            assert!(missing <= 1, "fill {fill}, step {steps}: {missing} missing");
            if events > before {
                assert_eq!(got.last(), Some(&("last".to_owned(), 7)));
            }
            if run.is_ok() {
                assert_eq!(ring.numbered(), fill as u64 + 1);
                assert_eq!(missing, 0);
                break;
            }
            deaths += 1;
            assert!(ring.numbered() >= fill as u64);
        }
    }
    assert!(deaths > 50, "it died {deaths} times only");
}

proptest! {
    /// Against a queue: any sizes, any moments of draining and giving back.
    #[test]
    fn behaves_like_a_bounded_queue(
        actions in proptest::collection::vec((0_u8..8, 0_usize..700), 1..400),
    ) {
        let ring = Arc::new(Ring::init(
            Mapping::in_memory(mapping_words(1)).expect("memory"), ID, 99,
        ));
        let mut producer = ring.producer().expect("a producer");
        let mut consumer = RingConsumer::new(Arc::clone(&ring), 0);
        let mut queue = VecDeque::new();
        let (mut lost, mut at) = (0, 0);
        for (what, len) in actions {
            match what {
                0 => {
                    let got = drain(&mut consumer);
                    prop_assert_eq!(got, queue.drain(..).collect::<Vec<_>>());
                }
                1 => consumer.release(consumer.position()),
                _ => {
                    // Bursts, so that the ring wraps and fills.
                    for _ in 0..4 {
                        let agent = "y".repeat(len);
                        let code = format!("c{}", at % 1000);
                        producer.record(&click(&code, at, &agent));
                        if ring.lost() == lost {
                            queue.push_back((code, at));
                        } else {
                            lost += 1;
                        }
                        at += 1;
                    }
                }
            }
            prop_assert_eq!(ring.numbered(), at as u64);
            prop_assert_eq!(ring.lost(), lost);
        }
        prop_assert_eq!(drain(&mut consumer), queue.into_iter().collect::<Vec<_>>());
    }
}
