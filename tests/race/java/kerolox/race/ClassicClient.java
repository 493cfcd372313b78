package kerolox.race;

import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Apache RocketMQ's classic client, for batches, for reading by offset and for counts. */
final class ClassicClient {
    private static final int PULL = 1024;
    private static final long VISIBLE_NANOS = 10_000_000_000L;

    private final Task task;
    private final Clock clock;
    private final String nameserver;

    ClassicClient(Task task, Clock clock, String nameserver) {
        this.task = task;
        this.clock = clock;
        this.nameserver = nameserver;
    }

    private DefaultMQProducer producer() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("senders");
        producer.setNamesrvAddr(nameserver);
        producer.setSendMsgTimeout(30_000);
        producer.start();
        return producer;
    }

    private DefaultLitePullConsumer consumer() throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(Task.GROUP);
        consumer.setNamesrvAddr(nameserver);
        consumer.setAutoCommit(false);
        consumer.setPullBatchSize(PULL);
        consumer.start();
        return consumer;
    }

    /** A batch, stored to the level that the broker was asked for. */
    private long send(DefaultMQProducer producer, byte[] body) throws Exception {
        List<Message> batch = new java.util.ArrayList<>();
        for (int number = 0; number < Task.BATCH; number++) {
            batch.add(new Message(task.topic(), body));
        }
        SendResult result = producer.send(batch);
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("a batch is " + result.getSendStatus());
        }
        return Task.BATCH;
    }

    void batches() throws Exception {
        DefaultMQProducer producer = producer();
        byte[] body = task.body();
        Clock.Caller caller = clock.repeating(() -> send(producer, body));
        Tally tally = clock.run(task, Collections.nCopies(task.callers(), caller));
        clock.finish(tally, tally.total, stored(tally.total));
    }

    void fill() throws Exception {
        DefaultMQProducer producer = producer();
        byte[] body = task.body();
        AtomicLong left = new AtomicLong(task.backlog() / Task.BATCH);
        new Clock().runUntilDone(3600, false, Collections.nCopies(task.callers(), tally -> {
            while (left.decrementAndGet() >= 0) {
                send(producer, body);
            }
        }));
        producer.shutdown();
    }

    /** One consumer reads all queues, and begins anew at the end. */
    void read() throws Exception {
        fill();
        long there = stored(task.backlog());
        Tally tally = clock.run(task, List.of(counts -> {
            DefaultLitePullConsumer consumer = consumer();
            Collection<MessageQueue> queues = consumer.fetchMessageQueues(task.topic());
            consumer.assign(queues);
            long[] next = new long[Task.QUEUES];
            seekToBegin(consumer, queues);
            long got = 0;
            while (!clock.isOver()) {
                long began = System.nanoTime();
                List<MessageExt> messages = consumer.poll(500);
                for (MessageExt message : messages) {
                    if (message.getQueueOffset() != next[message.getQueueId()]++) {
                        throw new IllegalStateException("a gap at " + message.getQueueOffset());
                    }
                }
                counts.note(clock, began, messages.size());
                got += messages.size();
                if (got >= there) {
                    got = 0;
                    next = new long[Task.QUEUES];
                    seekToBegin(consumer, queues);
                }
            }
        }));
        clock.finish(tally, task.backlog(), there);
    }

    private static void seekToBegin(DefaultLitePullConsumer consumer, Collection<MessageQueue> queues) throws Exception {
        for (MessageQueue queue : queues) {
            consumer.seekToBegin(queue);
        }
    }

    /** Messages of the topic, once they are as many as were acknowledged. */
    @SuppressWarnings("deprecation")
    long stored(long acknowledged) throws Exception {
        DefaultMQProducer producer = producer();
        long asked = System.nanoTime();
        while (true) {
            long stored = 0;
            for (MessageQueue queue : producer.fetchPublishMessageQueues(task.topic())) {
                stored += producer.getDefaultMQProducerImpl().maxOffset(queue)
                        - producer.getDefaultMQProducerImpl().minOffset(queue);
            }
            if (stored >= acknowledged || System.nanoTime() - asked > VISIBLE_NANOS) {
                return stored;
            }
            Thread.sleep(100);
        }
    }
}
