package kerolox;

import static org.apache.rocketmq.client.apis.producer.TransactionResolution.COMMIT;
import static org.apache.rocketmq.client.apis.producer.TransactionResolution.ROLLBACK;
import static org.apache.rocketmq.client.apis.producer.TransactionResolution.UNKNOWN;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Transactional messages: commit, rollback, check-back, and producers that are gone. */
class TransactionsTest {
    private static final Cluster CLUSTER = Cluster.shared();

    private record Desk(String endpoint, String topic, SimpleConsumer consumer) {
        static Desk open(Access access) throws ClientException {
            var topic = CLUSTER.topic("TRANSACTION");
            var endpoint = CLUSTER.endpoint(access);
            return new Desk(endpoint, topic, Sdk.simple(endpoint, topic, CLUSTER.group()));
        }

        Producer producer(Checker checker) throws ClientException {
            return Sdk.producer(endpoint, topic, checker);
        }
    }

    @EachAccessPoint
    void a_committed_message_is_delivered_once(Access access) throws Exception {
        var desk = Desk.open(access);
        var checker = new Checker(UNKNOWN);
        var transaction = Sdk.sendHalf(desk.producer(checker), Sdk.message(desk.topic, "order-1").setTag("paid")
            .setKeys("k").addProperty("city", "Zürich").build());
        assertEquals(List.of(), Sdk.nothing(desk.consumer, 1), "a half message must be invisible");
        transaction.commit();
        transaction.commit(); // Repeating a decision is no error and makes no second message.
        var message = Sdk.receive(desk.consumer, 1).get(0);
        var asked = checker.asked().size();
        assertEquals("order-1", Sdk.text(message));
        assertEquals(Optional.of("paid"), message.getTag());
        assertEquals(List.of("k"), List.copyOf(message.getKeys()));
        assertEquals(Map.of("city", "Zürich"), message.getProperties());
        assertEquals(1, message.getDeliveryAttempt());
        assertEquals(List.of(), Sdk.nothing(desk.consumer, 4));
        assertEquals(asked, checker.asked().size(), "a decided transaction must not be checked back");
    }

    @EachAccessPoint
    void a_rolled_back_message_is_never_delivered(Access access) throws Exception {
        var desk = Desk.open(access);
        var checker = new Checker(COMMIT);
        var transaction = Sdk.sendHalf(desk.producer(checker), Sdk.message(desk.topic, "order-2").build());
        transaction.rollback();
        transaction.rollback();
        assertEquals(List.of(), Sdk.nothing(desk.consumer, 6));
        assertEquals(List.of(), checker.asked(), "a decided transaction must not be checked back");
    }

    @EachAccessPoint
    void check_back_commits_an_undecided_transaction(Access access) throws Exception {
        assertCheckBack(access, COMMIT, List.of("order-3"));
    }

    @EachAccessPoint
    void check_back_rolls_back_an_undecided_transaction(Access access) throws Exception {
        assertCheckBack(access, ROLLBACK, List.of());
    }

    private static void assertCheckBack(Access access, TransactionResolution answer, List<String> delivered)
            throws Exception {
        var desk = Desk.open(access);
        var checker = new Checker(UNKNOWN, answer);
        Sdk.sendHalf(desk.producer(checker), Sdk.message(desk.topic, "order-3").build());
        var got = Sdk.receive(desk.consumer, 1, Duration.ofSeconds(12), true);
        assertEquals(delivered, Sdk.texts(got));
        assertEquals(List.of("order-3", "order-3"), checker.asked());
        assertEquals(List.of(), Sdk.nothing(desk.consumer, 5));
        assertEquals(2, checker.asked().size(), "a settled transaction must not be checked back again");
    }

    @EachAccessPoint
    void another_producer_is_asked_when_the_first_one_is_gone(Access access) throws Exception {
        var desk = Desk.open(access);
        var gone = desk.producer(new Checker(UNKNOWN));
        Sdk.sendHalf(gone, Sdk.message(desk.topic, "order-4").build());
        gone.close();
        var checker = new Checker(COMMIT);
        desk.producer(checker);
        assertEquals(List.of("order-4"), Sdk.texts(Sdk.receive(desk.consumer, 1)));
        assertFalse(checker.asked().isEmpty(), "the second producer was not asked");
        assertEquals(List.of(), Sdk.nothing(desk.consumer, 4));
    }
}
