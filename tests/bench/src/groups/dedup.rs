//! Append to topics with deduplication by id, against topics without.

use kerolox_core::dedup::{DEDUP_ATTRIBUTE, DEDUP_WINDOW_ATTRIBUTE};
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_store::{ApplyOutcome, Store};

use crate::engine::{self, LoadProducer, QueueId};
use crate::messages::{MessageMaker, MessageShape};
use crate::report::{FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::RoundRates;

const QUEUES: u32 = 8;
const IN_FLIGHT: usize = 16;
const OFF: usize = 0;
const ON: usize = 1;

/// # Errors
/// When a disk or the engine fails.
pub fn run(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape::plain(settings.body);
    let mut group = FigureGroup::new(
        "dedup",
        format!(
            "async and sync flush, batches of {}, topics with dedup=id against topics without",
            settings.batch
        ),
    );
    group.note(shape.describe());
    group.note(
        "no message is a repeat; each is looked up before it is proposed, and again when it is applied",
    );
    for (word, flush) in [("async", FlushRequirement::Async), ("sync", FlushRequirement::Sync)] {
        let rounds = compete(settings, shape, flush)?;
        group.add(FigureLine::new(format!("{word}: off"), rounds.median(OFF), FigureUnit::PerSecond));
        let on = FigureLine::new(format!("{word}: on"), rounds.median(ON), FigureUnit::PerSecond);
        group.add(on.against_with_ratio("off", rounds.median(OFF), rounds.ratio(ON, OFF)));
    }
    Ok(group)
}

/// Messages per second of each contestant in every round. Both stores grow from round to round.
fn compete(
    settings: &BenchSettings,
    shape: MessageShape,
    flush: FlushRequirement,
) -> anyhow::Result<RoundRates> {
    let scratch = settings.scratch(8 << 30)?;
    let open = |name: &str| engine::open(&scratch.path().join(name));
    let (off, on) = (open("off")?, open("on")?);
    let queues = engine::create_queues(&off, QUEUES)?;
    let mut plain = LoadProducer::new(off, MessageMaker::new(shape, 0), queues, flush, IN_FLIGHT);
    let queues = create_queues_that_remember(&on)?;
    let mut once = LoadProducer::new(on, MessageMaker::new(shape, 0), queues, flush, IN_FLIGHT).once();
    let mut rounds = RoundRates::default();
    for _ in 0..settings.rounds() {
        let turn = |producer: &mut LoadProducer| {
            let begin = std::time::Instant::now();
            producer.run(settings.batch, |_| begin.elapsed() >= settings.turn())
        };
        rounds.add(vec![turn(&mut plain)?, turn(&mut once)?]);
    }
    Ok(rounds)
}

fn create_queues_that_remember(store: &Store) -> anyhow::Result<Vec<QueueId>> {
    let mut topic = Topic::new("orders-once", QUEUES);
    topic.attributes.insert(DEDUP_ATTRIBUTE.to_owned(), "id".to_owned());
    topic.attributes.insert(DEDUP_WINDOW_ATTRIBUTE.to_owned(), "1h".to_owned());
    let (sender, answer) = std::sync::mpsc::channel();
    let record = Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) });
    store.propose(&record, FlushRequirement::Sync, Box::new(move |applied| drop(sender.send(applied))));
    match answer.recv()??.outcome {
        ApplyOutcome::Topic(topic, _) => Ok((0..QUEUES).map(|queue| (topic.id, queue)).collect()),
        other => anyhow::bail!("creating a topic led to {other:?}"),
    }
}
