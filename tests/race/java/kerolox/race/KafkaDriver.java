package kerolox.race;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Drives Kafka with kafka-clients. */
final class KafkaDriver {
    private static final Duration POLL = Duration.ofMillis(500);

    private final Task task;
    private final Clock clock = new Clock();

    private KafkaDriver(Task task) {
        this.task = task;
    }

    public static void main(String[] words) {
        try {
            new KafkaDriver(Task.of(words)).run();
        } catch (Throwable error) {
            Clock.fail(error);
        }
    }

    private void run() throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", task.address()))) {
            NewTopic topic = new NewTopic(task.topic(), Task.QUEUES, (short) 1);
            topic.configs(task.sync() ? Map.of("flush.messages", "1") : Map.of());
            admin.createTopics(List.of(topic)).all().get();
        }
        switch (task.leg()) {
            case "single" -> single();
            case "batch10", "batch100", "batch1k", "auto" -> batches();
            case "transactions" -> transactions();
            case "read" -> read();
            case "receive" -> receive();
            case "end-to-end" -> endToEnd();
            default -> throw new IllegalArgumentException(task.leg());
        }
    }

    private KafkaProducer<byte[], byte[]> producer(Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", task.address());
        settings.put("acks", "all");
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", task.address());
        settings.put("group.id", group);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "earliest");
        settings.put("isolation.level", task.leg().equals("transactions") ? "read_committed" : "read_uncommitted");
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private ProducerRecord<byte[], byte[]> record(byte[] body) {
        return new ProducerRecord<>(task.topic(), body);
    }

    /** Records without a key stick to a partition until a batch is full, which is too much for a caller that waits. */
    private ProducerRecord<byte[], byte[]> record(int partition, byte[] body) {
        return new ProducerRecord<>(task.topic(), partition % Task.QUEUES, null, body);
    }

    private static List<TopicPartition> partitions(String topic) {
        return IntStream.range(0, Task.QUEUES).mapToObj(number -> new TopicPartition(topic, number)).toList();
    }

    /** Each caller waits, so a linger would only be a pause. */
    private void single() throws Exception {
        KafkaProducer<byte[], byte[]> producer = producer(Map.of("linger.ms", 0));
        byte[] body = task.body();
        List<Clock.Caller> callers = new ArrayList<>();
        for (int caller = 0; caller < task.callers(); caller++) {
            ProducerRecord<byte[], byte[]> record = record(caller, body);
            callers.add(clock.repeating(() -> {
                producer.send(record).get();
                return 1;
            }));
        }
        sent(clock.run(task, callers));
    }

    /** Batches as the producer makes them with its defaults, of what one thread hands over. */
    private void batches() throws Exception {
        KafkaProducer<byte[], byte[]> producer = producer(Map.of());
        byte[] body = task.body();
        sent(clock.run(task, List.of(tally -> {
            while (!clock.isOver()) {
                long began = System.nanoTime();
                producer.send(record(body), (metadata, error) -> {
                    if (error != null) {
                        Clock.fail(error);
                    }
                    tally.note(clock, began, 1);
                });
            }
            producer.flush();
        })));
    }

    private void transactions() throws Exception {
        byte[] body = task.body();
        List<Clock.Caller> callers = new ArrayList<>();
        for (int caller = 0; caller < task.callers(); caller++) {
            KafkaProducer<byte[], byte[]> producer = producer(Map.of("transactional.id", "race-" + caller, "linger.ms", 0));
            producer.initTransactions();
            ProducerRecord<byte[], byte[]> record = record(caller, body);
            callers.add(clock.repeating(() -> {
                producer.beginTransaction();
                producer.send(record);
                producer.commitTransaction();
                return 1;
            }));
        }
        Tally tally = clock.run(task, callers);
        clock.finish(tally, tally.total, counted());
    }

    private void fill() {
        try (KafkaProducer<byte[], byte[]> producer = producer(Map.of())) {
            byte[] body = task.body();
            for (long number = 0; number < task.backlog(); number++) {
                producer.send(record((int) (number / Task.BATCH), body), (metadata, error) -> {
                    if (error != null) {
                        Clock.fail(error);
                    }
                });
            }
            producer.flush();
        }
    }

    /** One consumer reads all partitions, and begins anew at the end. */
    private void read() throws Exception {
        fill();
        Map<Integer, Long> next = new HashMap<>();
        Tally tally = clock.run(task, List.of(counts -> {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(Task.GROUP)) {
                consumer.assign(partitions(task.topic()));
                consumer.seekToBeginning(consumer.assignment());
                long got = 0;
                while (!clock.isOver()) {
                    long began = System.nanoTime();
                    ConsumerRecords<byte[], byte[]> records = consumer.poll(POLL);
                    for (ConsumerRecord<byte[], byte[]> record : records) {
                        if (next.merge(record.partition(), 1L, Long::sum) != record.offset() + 1) {
                            throw new IllegalStateException("a gap at " + record.offset());
                        }
                    }
                    counts.note(clock, began, records.count());
                    got += records.count();
                    if (got >= task.backlog()) {
                        next.clear();
                        got = 0;
                        consumer.seekToBeginning(consumer.assignment());
                    }
                }
            }
        }));
        clock.finish(tally, task.backlog(), stored());
    }

    /** One consumer polls, and commits what it got before it polls again. */
    private void receive() throws Exception {
        fill();
        consume(new Clock(), Task.WARM_GROUP, task.warmup(), false);
        Tally tally = consume(clock, Task.GROUP, task.seconds(), true);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Task.GROUP)) {
            long committed = consumer.committed(java.util.Set.copyOf(partitions(task.topic()))).values().stream()
                    .mapToLong(offset -> offset == null ? 0 : offset.offset())
                    .sum();
            clock.finish(tally, tally.total, committed);
        }
    }

    private Tally consume(Clock clock, String group, double seconds, boolean race) throws Exception {
        KafkaConsumer<byte[], byte[]> consumer = consumer(group);
        consumer.subscribe(List.of(task.topic()));
        // The first poll joins the group.
        Tally first = new Tally();
        while (first.total == 0) {
            first.note(clock, System.nanoTime(), consumer.poll(POLL).count());
        }
        consumer.commitSync();
        Tally tally = clock.runUntilDone(seconds, race, List.of(counts -> {
            while (!clock.isOver() && first.total + counts.total < task.backlog()) {
                long began = System.nanoTime();
                int count = consumer.poll(POLL).count();
                consumer.commitSync();
                counts.note(clock, began, count);
            }
            consumer.close();
        }));
        tally.add(first);
        return tally;
    }

    private void endToEnd() throws Exception {
        Stream stream = new Stream(clock);
        Thread listener = new Thread(() -> {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(Task.GROUP)) {
                consumer.subscribe(List.of(task.topic()));
                while (true) {
                    ConsumerRecords<byte[], byte[]> records = consumer.poll(POLL);
                    records.forEach(record -> stream.heard(ByteBuffer.wrap(record.value())));
                    consumer.commitAsync();
                }
            }
        });
        listener.setDaemon(true);
        listener.start();
        KafkaProducer<byte[], byte[]> producer = producer(Map.of("linger.ms", 0));
        stream.run(task, body -> {
            CompletableFuture<Void> done = new CompletableFuture<>();
            producer.send(record(body), (metadata, error) -> {
                if (error == null) {
                    done.complete(null);
                } else {
                    done.completeExceptionally(error);
                }
            });
            return done;
        });
    }

    private void sent(Tally tally) {
        clock.finish(tally, tally.total, stored());
    }

    private long stored() {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Task.GROUP)) {
            return consumer.endOffsets(partitions(task.topic())).values().stream().mapToLong(Long::longValue).sum();
        }
    }

    /** Offsets of transactions include those of their ends, so the messages are counted. */
    private long counted() {
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Task.GROUP)) {
            consumer.assign(partitions(task.topic()));
            consumer.seekToBeginning(consumer.assignment());
            Map<TopicPartition, Long> ends = consumer.endOffsets(consumer.assignment());
            long count = 0;
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                count += consumer.poll(POLL).count();
            }
            return count;
        }
    }
}
