package kerolox;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;

/** Short spellings for the official SDK, and the waiting that tests need. */
final class Sdk {
    /** The shortest that a simple consumer may ask for. */
    static final Duration INVISIBLE = Duration.ofSeconds(10);

    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    /** How long a receive waits for messages. */
    private static final Duration POLL = Duration.ofSeconds(1);
    /** Threads of a push consumer. */
    private static final int THREADS = 4;

    private Sdk() {}

    static ClientConfiguration configuration(String endpoint) {
        return ClientConfiguration.newBuilder().setEndpoints(endpoint).enableSsl(false).build();
    }

    static MessageBuilder message(String topic, String body) {
        return message(topic, body.getBytes(StandardCharsets.UTF_8));
    }

    static MessageBuilder message(String topic, byte[] body) {
        return PROVIDER.newMessageBuilder().setTopic(topic).setBody(body);
    }

    static Producer producer(String endpoint, String topic) throws ClientException {
        return producer(configuration(endpoint), topic);
    }

    static Producer producer(ClientConfiguration configuration, String topic) throws ClientException {
        return PROVIDER.newProducerBuilder().setClientConfiguration(configuration).setTopics(topic).build();
    }

    static Producer producer(String endpoint, String topic, TransactionChecker checker) throws ClientException {
        return PROVIDER.newProducerBuilder().setClientConfiguration(configuration(endpoint)).setTopics(topic)
            .setTransactionChecker(checker).build();
    }

    static Transaction sendHalf(Producer producer, Message message) throws ClientException {
        var transaction = producer.beginTransaction();
        producer.send(message, transaction);
        return transaction;
    }

    static SimpleConsumer simple(String endpoint, String topic, String group) throws ClientException {
        return simple(endpoint, topic, group, FilterExpression.SUB_ALL);
    }

    static SimpleConsumer simple(String endpoint, String topic, String group, FilterExpression filter)
            throws ClientException {
        return simple(configuration(endpoint), topic, group, filter);
    }

    static SimpleConsumer simple(ClientConfiguration configuration, String topic, String group, FilterExpression filter)
            throws ClientException {
        // The SDK keeps the map, and puts later subscriptions into it.
        var subscriptions = new HashMap<>(Map.of(topic, filter));
        return PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration).setConsumerGroup(group)
            .setAwaitDuration(POLL).setSubscriptionExpressions(subscriptions).build();
    }

    static PushConsumer push(String endpoint, String topic, String group, MessageListener listener)
            throws ClientException {
        return push(endpoint, topic, group, listener, FilterExpression.SUB_ALL);
    }

    static PushConsumer push(String endpoint, String topic, String group, MessageListener listener,
            FilterExpression filter) throws ClientException {
        return PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration(endpoint)).setConsumerGroup(group)
            .setSubscriptionExpressions(Map.of(topic, filter)).setMessageListener(listener)
            .setConsumptionThreadCount(THREADS).build();
    }

    static LitePushConsumer lite(String endpoint, String topic, String group, MessageListener listener)
            throws ClientException {
        return PROVIDER.newLitePushConsumerBuilder().setClientConfiguration(configuration(endpoint)).bindTopic(topic)
            .setConsumerGroup(group).setMessageListener(listener).setConsumptionThreadCount(THREADS).build();
    }

    static FilterExpression sql(String expression) {
        return new FilterExpression(expression, FilterExpressionType.SQL92);
    }

    /** Receives until that many messages came or time is up, acknowledging each. */
    static List<MessageView> receive(SimpleConsumer consumer, int count) throws ClientException {
        return receive(consumer, count, Duration.ofSeconds(20), true);
    }

    /** Receives messages that stay invisible for a while. */
    static List<MessageView> hold(SimpleConsumer consumer, int count) throws ClientException {
        return receive(consumer, count, Duration.ofSeconds(20), false);
    }

    static List<MessageView> receive(SimpleConsumer consumer, int count, Duration within, boolean acknowledge)
            throws ClientException {
        var got = new ArrayList<MessageView>();
        var deadline = System.nanoTime() + within.toNanos();
        while (got.size() < count && System.nanoTime() < deadline) {
            for (var message : consumer.receive(32, INVISIBLE)) {
                if (acknowledge) consumer.ack(message);
                got.add(message);
            }
        }
        return got;
    }

    /** Polls for a while; returns the bodies that came although none should. */
    static List<String> nothing(SimpleConsumer consumer, Duration duration) throws ClientException {
        return texts(receive(consumer, Integer.MAX_VALUE, duration, false));
    }

    static List<String> nothing(SimpleConsumer consumer, int seconds) throws ClientException {
        return nothing(consumer, Duration.ofSeconds(seconds));
    }

    static byte[] bytes(MessageView message) {
        var buffer = message.getBody();
        var bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        return bytes;
    }

    static String text(MessageView message) {
        return new String(bytes(message), StandardCharsets.UTF_8);
    }

    static List<String> texts(List<MessageView> messages) {
        return messages.stream().map(Sdk::text).toList();
    }

    /** What came of a lite topic: the SDK sends to all broker groups in turn, and each keeps the order for itself. */
    static List<String> inOrder(List<String> texts) {
        return "1".equals(System.getenv().getOrDefault("KEROLOX_SDK_GROUPS", "1")) ? texts : sorted(texts);
    }

    static List<String> sorted(List<String> texts) {
        return texts.stream().sorted().toList();
    }

    static List<String> numbered(int count, String prefix) {
        return IntStream.range(0, count).mapToObj(number -> prefix + "-" + number).toList();
    }

    /** Waits until the condition holds; what it throws while waiting is not an answer yet. */
    static void eventually(int seconds, String what, Callable<Boolean> condition) {
        var deadline = System.nanoTime() + Duration.ofSeconds(seconds).toNanos();
        Exception last = null;
        while (true) {
            try {
                if (condition.call()) return;
            } catch (Exception error) {
                last = error;
            }
            if (System.nanoTime() > deadline) {
                throw new AssertionError("after " + seconds + " s still not: " + what, last);
            }
            pause(0.05);
        }
    }

    static void pause(double seconds) {
        try {
            Thread.sleep((long) (seconds * 1000));
        } catch (InterruptedException interruption) {
            throw new AssertionError("interrupted", interruption);
        }
    }

    /** The reason that the SDK gives must say what was wrong. */
    static void assertMentions(Throwable error, String word) {
        for (var cause = error; cause != null; cause = cause.getCause()) {
            if (String.valueOf(cause.getMessage()).contains(word)) return;
        }
        throw new AssertionError("nothing of this says '" + word + "'", error);
    }
}
