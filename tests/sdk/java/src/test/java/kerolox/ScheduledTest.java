package kerolox;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;

/** Scheduled messages: in their time, once, recalled or delivered but never both. */
class ScheduledTest {
    private static final Cluster CLUSTER = Cluster.shared();

    private static SendReceipt send(Producer producer, String topic, String body, long delayMs) throws ClientException {
        var due = System.currentTimeMillis() + delayMs;
        return producer.send(Sdk.message(topic, body).setDeliveryTimestamp(due).build());
    }

    @EachAccessPoint
    void scheduled_messages_come_in_the_order_of_their_times(Access access) throws Exception {
        var topic = CLUSTER.topic("DELAY");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group());
        assertFalse(send(producer, topic, "late", 5000).getRecallHandle().isEmpty());
        assertFalse(send(producer, topic, "soon", 2500).getRecallHandle().isEmpty());
        assertTrue(send(producer, topic, "past", -60_000).getRecallHandle().isEmpty());
        for (var body : List.of("past", "soon", "late")) {
            var message = Sdk.receive(consumer, 1).get(0);
            assertEquals(body, Sdk.text(message));
            assertTrue(System.currentTimeMillis() >= message.getDeliveryTimestamp().get(), body + " came early");
        }
        assertEquals(List.of(), Sdk.nothing(consumer, 2));
    }

    @EachAccessPoint
    void a_scheduled_message_is_pushed_in_its_time(Access access) throws Exception {
        var topic = CLUSTER.topic("DELAY");
        var recorder = new Recorder();
        Sdk.push(CLUSTER.endpoint(access), topic, CLUSTER.group(), recorder);
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var due = System.currentTimeMillis() + 3000;
        producer.send(Sdk.message(topic, "later").setDeliveryTimestamp(due).build());
        Sdk.eventually(30, "it was pushed", () -> !recorder.got().isEmpty());
        assertTrue(System.currentTimeMillis() >= due, "it came early");
        Sdk.pause(2);
        assertEquals(List.of("later 1"), recorder.got());
    }

    @EachAccessPoint
    void a_recalled_message_never_comes(Access access) throws Exception {
        var topic = CLUSTER.topic("DELAY");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group());
        var delivered = send(producer, topic, "delivered", 1000);
        var recalled = send(producer, topic, "recalled", 6000);
        assertEquals(recalled.getMessageId(), producer.recallMessage(topic, recalled.getRecallHandle()).getMessageId());
        assertEquals(List.of("delivered"), Sdk.texts(Sdk.receive(consumer, 1)));
        assertRefused(producer, topic, recalled.getRecallHandle(), "recalled before");
        assertRefused(producer, topic, delivered.getRecallHandle(), "delivered before");
        assertRefused(producer, topic, "nonsense", "recall handle");
        assertEquals(List.of(), Sdk.nothing(consumer, 7));
    }

    private static void assertRefused(Producer producer, String topic, String handle, String reason) {
        var refused = assertThrows(ClientException.class, () -> producer.recallMessage(topic, handle));
        Sdk.assertMentions(refused, reason);
    }
}
