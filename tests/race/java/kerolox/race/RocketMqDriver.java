package kerolox.race;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CompletableFuture;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * Drives Kerolox and Apache RocketMQ with the official SDK. What this has no calls for, {@link ClassicClient} does with Apache
 * RocketMQ: the address then has a comma and that of the nameserver. Kerolox's backlog is there already.
 */
final class RocketMqDriver {
    /** Messages of a receive: the protocol's limit. */
    private static final int RECEIVE = 32;
    /** Longer than a leg. */
    private static final Duration INVISIBLE = Duration.ofMinutes(10);
    private static final Duration AWAIT = Duration.ofSeconds(1);

    private final ClientServiceProvider provider = ClientServiceProvider.loadService();
    private final Clock clock = new Clock();
    private final Task task;
    private final ClientConfiguration configuration;
    private final ClassicClient classic;

    private RocketMqDriver(Task task) {
        this.task = task;
        String[] places = task.address().split(",");
        configuration = ClientConfiguration.newBuilder().setEndpoints(places[0]).enableSsl(false).build();
        classic = places.length > 1 ? new ClassicClient(task, clock, places[1]) : null;
    }

    public static void main(String[] words) {
        try {
            new RocketMqDriver(Task.of(words)).run();
        } catch (Throwable error) {
            Clock.fail(error);
        }
    }

    private void run() throws Exception {
        switch (task.leg()) {
            case "single" -> single();
            case "batch10", "batch100", "batch1k" -> classic.batches();
            case "read" -> classic.read();
            case "transactions" -> transactions();
            case "receive" -> receive();
            case "end-to-end" -> endToEnd();
            default -> throw new IllegalArgumentException(task.leg());
        }
    }

    private Producer producer() throws Exception {
        return provider.newProducerBuilder()
                .setClientConfiguration(configuration)
                .setTopics(task.topic())
                .setTransactionChecker(message -> TransactionResolution.UNKNOWN)
                .build();
    }

    private Message message(byte[] body) {
        return provider.newMessageBuilder().setTopic(task.topic()).setBody(body).build();
    }

    private void single() throws Exception {
        Producer producer = producer();
        byte[] body = task.body();
        sent(clock.run(task, Collections.nCopies(task.callers(), clock.repeating(() -> {
            producer.send(message(body));
            return 1;
        }))));
    }

    private void transactions() throws Exception {
        Producer producer = producer();
        byte[] body = task.body();
        sent(clock.run(task, Collections.nCopies(task.callers(), clock.repeating(() -> {
            Transaction transaction = producer.beginTransaction();
            producer.send(message(body), transaction);
            transaction.commit();
            return 1;
        }))));
    }

    private void receive() throws Exception {
        if (classic != null) {
            classic.fill();
        }
        consume(new Clock(), Task.WARM_GROUP, task.warmup(), false);
        Set<Object> seen = ConcurrentHashMap.newKeySet();
        Tally tally = consume(clock, Task.GROUP, task.seconds(), true, seen);
        clock.finish(tally, tally.total, (long) seen.size());
    }

    private void consume(Clock clock, String group, double seconds, boolean race) throws Exception {
        consume(clock, group, seconds, race, ConcurrentHashMap.newKeySet());
    }

    private Tally consume(Clock clock, String group, double seconds, boolean race, Set<Object> seen) throws Exception {
        SimpleConsumer consumer = provider.newSimpleConsumerBuilder()
                .setClientConfiguration(configuration)
                .setConsumerGroup(group)
                .setAwaitDuration(AWAIT)
                .setSubscriptionExpressions(Map.of(task.topic(), FilterExpression.SUB_ALL))
                .build();
        return clock.runUntilDone(seconds, race, Collections.nCopies(task.callers(), tally -> {
            while (!clock.isOver() && seen.size() < task.backlog()) {
                long began = System.nanoTime();
                List<MessageView> received = consumer.receive(RECEIVE, INVISIBLE);
                List<CompletableFuture<Void>> acks = new ArrayList<>();
                for (MessageView message : received) {
                    acks.add(consumer.ackAsync(message));
                }
                for (CompletableFuture<Void> ack : acks) {
                    ack.get();
                }
                for (MessageView message : received) {
                    seen.add(message.getMessageId());
                }
                tally.note(clock, began, received.size());
            }
        }));
    }

    private void endToEnd() throws Exception {
        Stream stream = new Stream(clock);
        PushConsumer consumer = provider.newPushConsumerBuilder()
                .setClientConfiguration(configuration)
                .setConsumerGroup(Task.GROUP)
                .setSubscriptionExpressions(Map.of(task.topic(), FilterExpression.SUB_ALL))
                .setMessageListener(message -> {
                    stream.heard(message.getBody());
                    return ConsumeResult.SUCCESS;
                })
                .build();
        Producer producer = producer();
        stream.run(task, body -> producer.sendAsync(message(body)));
        consumer.close();
    }

    /** What Kerolox has, the program that started this one counts. */
    private void sent(Tally tally) throws Exception {
        clock.finish(tally, tally.total, classic == null ? null : classic.stored(tally.total));
    }
}
