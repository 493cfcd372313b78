//! The functions that run for every message. `cargo bench -p kerolox-bench` measures them; without `--bench` each runs
//! once.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has nothing else to say")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kerolox_bench::engine::SALT;
use kerolox_bench::messages::{MessageMaker, MessageShape};
use kerolox_core::record::{MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::{Frame, NewFrame, frame};
use kerolox_store::kv::MemKv;
use kerolox_store::state::StateMachine;

/// Sizes of message bodies, bytes.
const BODIES: [usize; 3] = [10, 100, 1024];
/// A block of queue entries.
const BLOCK: u64 = 256;

fn main() {
    divan::main();
}

fn record(body: usize) -> NewFrame {
    MessageMaker::new(MessageShape::plain(body), 0).next(1, 0).into_frame()
}

#[divan::bench(args = BODIES)]
fn crc(bencher: Bencher, body: usize) {
    let bytes = record(body).body;
    bencher.counter(BytesCount::new(bytes.len())).bench(|| crc32c::crc32c(black_box(&bytes)));
}

#[divan::bench(args = BODIES)]
fn frame_encode(bencher: Bencher, body: usize) {
    let record = record(body);
    let mut out = Vec::with_capacity(4096);
    bencher.counter(BytesCount::new(frame::frame_len(record.body.len()))).bench_local(|| {
        out.clear();
        frame::encode(black_box(&record), 64, 1, 1, SALT, &mut out);
    });
}

#[divan::bench(args = BODIES)]
fn frame_decode(bencher: Bencher, body: usize) {
    let mut bytes = Vec::new();
    frame::encode(&record(body), 64, 1, 1, SALT, &mut bytes);
    let bytes = Bytes::from(bytes);
    let counter = BytesCount::new(bytes.len());
    bencher.counter(counter).bench(|| frame::decode(black_box(&bytes), 64, SALT).unwrap());
}

#[divan::bench(args = BODIES)]
fn message_encode(bencher: Bencher, body: usize) {
    let record = MessageMaker::new(MessageShape::plain(body), 0).next(1, 0).into_record();
    bencher.counter(ItemsCount::new(1u32)).bench(|| black_box(&record).encode());
}

#[divan::bench(args = BODIES)]
fn message_decode(bencher: Bencher, body: usize) {
    let bytes = record(body).body;
    bencher
        .counter(ItemsCount::new(1u32))
        .bench(|| MessageRecord::decode(black_box(&bytes).clone()).unwrap());
}

/// The fold of as many messages as fill a block, one queue after the other, and what a flush of the index encodes then.
#[divan::bench(args = [1, 64])]
fn fold_messages(bencher: Bencher, queues: u32) {
    let frames = frames(queues);
    let mut events = Vec::new();
    bencher.counter(ItemsCount::new(frames.len())).with_inputs(|| index(queues)).bench_local_refs(|index| {
        for frame in &frames {
            index.apply(frame, &mut events).unwrap();
        }
        events.clear();
    });
}

#[divan::bench(args = [1, 64])]
fn encode_blocks(bencher: Bencher, queues: u32) {
    let (frames, mut events) = (frames(queues), Vec::new());
    let mut index = index(queues);
    for frame in &frames {
        index.apply(frame, &mut events).unwrap();
    }
    bencher.counter(ItemsCount::new(frames.len())).bench_local(|| black_box(&index).changes());
}

/// An index that knows one topic.
fn index(queues: u32) -> StateMachine {
    let mut index = StateMachine::empty(Arc::new(MemKv::default())).unwrap();
    let change = MetaChange::PutTopic(Topic::new("orders", queues));
    let record = Record::Meta(MetaRecord { change: Some(change) });
    index.apply(&stored(record.kind() as u8, record.encode().into(), 64), &mut Vec::new()).unwrap();
    index
}

/// A block of messages for every queue.
fn frames(queues: u32) -> Vec<Frame> {
    let mut maker = MessageMaker::new(MessageShape::plain(100), 0);
    let numbers = (0..BLOCK * u64::from(queues)).zip((0..queues).cycle());
    let frames = numbers.map(|(number, queue)| {
        let NewFrame { kind, body } = maker.next(1, queue).into_frame();
        stored(kind, body, 4096 + number * 1024)
    });
    frames.collect()
}

fn stored(kind: u8, body: Bytes, position: u64) -> Frame {
    let len = u32::try_from(frame::frame_len(body.len())).unwrap();
    Frame { position, len, kind, epoch: 1, store_ms: 1_700_000_000_000, body }
}
