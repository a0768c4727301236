//! The steps of an event's way, each by itself.

use bytes::Bytes;
use divan::{Bencher, black_box};
use pgoutbox::testing::core::event::pgoutput::{self, RelationMessage, Tuple};
use pgoutbox::testing::core::event::relation::Mapping;
use pgoutbox::testing::core::event::{Event, Position, Row};
use pgoutbox::testing::core::message::Message;
use pgoutbox::testing::core::relay::window::{Answer, InFlight, Return, Window};
use postgres_types::PgLsn;

use model::defaults::table;
use model::journey::{LIMITS, insert, relation};

fn shape() -> RelationMessage {
    match pgoutput::decode(&relation()) {
        Ok(pgoutput::Message::Relation(relation)) => relation,
        other => panic!("{other:?}"),
    }
}

fn mapping() -> Mapping {
    Mapping::compile(0, &table(), &shape().columns, false).expect("all columns are there")
}

fn tuple(bytes: &Bytes) -> Tuple {
    match pgoutput::decode(bytes) {
        Ok(pgoutput::Message::Insert { tuple, .. }) => tuple,
        other => panic!("{other:?}"),
    }
}

#[divan::bench(sample_size = 1_000)]
fn decode_an_insert(bencher: Bencher<'_, '_>) {
    let bytes = insert(1, 0);
    bencher.bench_local(|| pgoutput::decode(black_box(&bytes)));
}

/// Once per relation and session, not per event.
#[divan::bench(sample_size = 1_000)]
fn compile_a_mapping(bencher: Bencher<'_, '_>) {
    let (table, shape) = (table(), shape());
    bencher.bench_local(|| Mapping::compile(0, black_box(&table), &shape.columns, false));
}

#[divan::bench(sample_size = 1_000)]
fn read_an_event(bencher: Bencher<'_, '_>) {
    let (mapping, tuple) = (mapping(), tuple(&insert(1, 0)));
    let mut cells = Vec::new();
    bencher.bench_local(|| {
        black_box(&tuple).read_into(&mut cells).expect("a tuple");
        let row = Row { tuple: &tuple, cells: &cells };
        black_box(Event::read(&mapping, row, 0, usize::MAX).is_ok())
    });
}

#[divan::bench(args = [0, 3, 10], sample_size = 1_000)]
fn build_a_message_with_headers(bencher: Bencher<'_, '_>, headers: usize) {
    let (table, mapping, tuple) = (table(), mapping(), tuple(&insert(1, headers)));
    let mut cells = Vec::new();
    tuple.read_into(&mut cells).expect("a tuple");
    let row = Row { tuple: &tuple, cells: &cells };
    let event = Event::read(&mapping, row, 0, usize::MAX).expect("an event");
    let position = Position { commit_lsn: PgLsn::from(0x1_2345_6789), index: 7 };
    bencher
        .bench_local(|| Message::build(black_box(&event), row, position, &mapping, &table, LIMITS));
}

struct Item;

impl InFlight for Item {
    fn is(&self, _: &Return) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        500
    }
}

/// With so many messages in flight, each one confirmed by itself or all of them together.
#[divan::bench(args = [1, 64, 1_000], sample_size = 1_000)]
fn push_and_settle_in_a_window_of(bencher: Bencher<'_, '_>, in_flight: u64) {
    let mut window = Window::default();
    let (mut pushed, mut settled) = (0, 0);
    bencher.bench_local(|| {
        window.push(Item);
        pushed += 1;
        if pushed - settled < in_flight {
            return;
        }
        for number in settled..pushed {
            window.take(Answer::Confirm { number, is_ack: true }).expect("in flight");
        }
        window.settle(|item, outcome| {
            settled += 1;
            black_box((item, outcome));
        });
    });
    assert_eq!(pushed - settled, u64::try_from(window.len()).expect("few"));
}
