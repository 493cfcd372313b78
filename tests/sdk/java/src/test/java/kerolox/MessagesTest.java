package kerolox;

import static kerolox.Sdk.INVISIBLE;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.java.exception.BadRequestException;

/** Normal messages and simple consumers: send, receive, acknowledge, redelivery. */
class MessagesTest {
    private static final Cluster CLUSTER = Cluster.shared();

    /** A topic, a group, and one client of each kind for them. */
    private record Clients(String topic, Producer producer, SimpleConsumer consumer) {
        static Clients open(Access access, int queues) throws ClientException {
            var topic = CLUSTER.topic("NORMAL", queues);
            var endpoint = CLUSTER.endpoint(access);
            return new Clients(topic, Sdk.producer(endpoint, topic), Sdk.simple(endpoint, topic, CLUSTER.group()));
        }
    }

    @EachAccessPoint
    void a_message_arrives_as_it_was_sent(Access access) throws Exception {
        var clients = Clients.open(access, 1);
        var body = "Grüße, 你好\0".repeat(500).getBytes(StandardCharsets.UTF_8);
        var before = System.currentTimeMillis();
        var receipt = clients.producer.send(Sdk.message(clients.topic, body).setTag("paid")
            .setKeys("order-1", "order-2").addProperty("city", "Zürich").build());
        var message = Sdk.receive(clients.consumer, 1).get(0);
        assertArrayEquals(body, Sdk.bytes(message));
        assertEquals(clients.topic, message.getTopic());
        assertEquals(Optional.of("paid"), message.getTag());
        assertEquals(List.of("order-1", "order-2"), List.copyOf(message.getKeys()));
        assertEquals(Map.of("city", "Zürich"), message.getProperties());
        assertEquals(receipt.getMessageId(), message.getMessageId());
        assertEquals(1, message.getDeliveryAttempt());
        assertFalse(message.getBornHost().isEmpty());
        assertTrue(before <= message.getBornTimestamp() && message.getBornTimestamp() <= System.currentTimeMillis());
        assertEquals(Optional.empty(), message.getMessageGroup());
        assertEquals(Optional.empty(), message.getLiteTopic());
        assertEquals(Optional.empty(), message.getPriority());
        assertEquals(Optional.empty(), message.getDeliveryTimestamp());
    }

    @EachAccessPoint
    void nothing_is_left_after_the_acknowledgement(Access access) throws Exception {
        var clients = Clients.open(access, 4);
        var sent = Sdk.numbered(50, "message");
        var receipts = new ArrayList<CompletableFuture<SendReceipt>>();
        for (var body : sent) receipts.add(clients.producer.sendAsync(Sdk.message(clients.topic, body).build()));
        var ids = new HashSet<>();
        for (var receipt : receipts) ids.add(receipt.get().getMessageId());
        assertEquals(sent.size(), ids.size());
        assertEquals(Sdk.sorted(sent), Sdk.sorted(Sdk.texts(Sdk.receive(clients.consumer, sent.size()))));
        // Longer than the invisible duration: whatever was not acknowledged would come back.
        assertEquals(List.of(), Sdk.nothing(clients.consumer, INVISIBLE.plusSeconds(3)));
    }

    @EachAccessPoint
    void two_groups_each_get_every_message(Access access) throws Exception {
        var clients = Clients.open(access, 1);
        var other = Sdk.simple(CLUSTER.endpoint(access), clients.topic, CLUSTER.group());
        var sent = Sdk.numbered(10, "message");
        for (var body : sent) clients.producer.send(Sdk.message(clients.topic, body).build());
        for (var consumer : List.of(clients.consumer, other)) {
            assertEquals(sent, Sdk.sorted(Sdk.texts(Sdk.receive(consumer, sent.size()))));
        }
    }

    @EachAccessPoint
    void an_unacknowledged_message_comes_back_with_a_higher_attempt(Access access) throws Exception {
        var clients = Clients.open(access, 1);
        clients.producer.send(Sdk.message(clients.topic, "again").build());
        var asked = System.nanoTime();
        var first = Sdk.hold(clients.consumer, 1).get(0);
        assertEquals(1, first.getDeliveryAttempt());
        var second = Sdk.hold(clients.consumer, 1).get(0);
        assertTrue(System.nanoTime() - asked >= INVISIBLE.toNanos(), "it came back too early");
        assertEquals(first.getMessageId(), second.getMessageId());
        assertEquals(2, second.getDeliveryAttempt());

        assertThrows(BadRequestException.class, () -> clients.consumer.ack(first));
        clients.consumer.ack(second);
        clients.consumer.ack(second); // Repeated by a client that missed the answer: no error.
        assertEquals(List.of(), Sdk.nothing(clients.consumer, INVISIBLE.plusSeconds(3)));
    }

    @EachAccessPoint
    void the_invisible_duration_can_be_shortened_and_extended(Access access) throws Exception {
        var clients = Clients.open(access, 1);
        for (var body : List.of("sooner", "later")) clients.producer.send(Sdk.message(clients.topic, body).build());
        Map<String, MessageView> held =
            Sdk.hold(clients.consumer, 2).stream().collect(Collectors.toMap(Sdk::text, Function.identity()));
        var received = System.nanoTime();
        clients.consumer.changeInvisibleDuration(held.get("later"), Duration.ofSeconds(30));
        clients.consumer.changeInvisibleDuration(held.get("sooner"), Duration.ofSeconds(1));
        var again = Sdk.receive(clients.consumer, 1).get(0);
        assertEquals("sooner", Sdk.text(again));
        assertEquals(2, again.getDeliveryAttempt());
        assertTrue(System.nanoTime() - received < INVISIBLE.minusSeconds(1).toNanos(), "it came back too late");
        // The extended one stays away beyond the duration that it was received with, and its new handle is good.
        assertEquals(List.of(), Sdk.nothing(clients.consumer, INVISIBLE.plusSeconds(3)));
        clients.consumer.ack(held.get("later"));
    }
}
