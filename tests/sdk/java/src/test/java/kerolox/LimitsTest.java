package kerolox;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.time.Duration;
import java.util.List;
import java.util.Random;
import java.util.function.UnaryOperator;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.java.exception.BadRequestException;
import org.apache.rocketmq.client.java.exception.RequestHeaderFieldsTooLargeException;

/** TLS, bad input that the SDK lets through, and what it refuses by itself. */
class LimitsTest {
    private static final Cluster CLUSTER = Cluster.shared();
    private static final int MIB = 1024 * 1024;
    private static final Duration PATIENT = Duration.ofSeconds(10);

    @EachAccessPoint
    void a_topic_that_does_not_exist(Access access) {
        var refused = assertThrows(Exception.class, () -> Sdk.producer(CLUSTER.endpoint(access), "no-such-topic"));
        Sdk.assertMentions(refused, "no-such-topic");
    }

    /** The route tells the SDK the type of a topic. */
    @EachAccessPoint
    void a_message_of_another_type_than_its_topic_is_refused_by_the_sdk(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic, message -> null);
        List<UnaryOperator<MessageBuilder>> types = List.of(
            message -> message.setMessageGroup("a"),
            message -> message.setDeliveryTimestamp(System.currentTimeMillis() + 60_000),
            message -> message.setPriority(1),
            message -> message.setLiteTopic("a"));
        for (var type : types) {
            var message = type.apply(Sdk.message(topic, "x")).build();
            assertThrows(IllegalArgumentException.class, () -> producer.send(message));
        }
        var half = Sdk.message(topic, "half").build();
        assertThrows(IllegalArgumentException.class, () -> producer.send(half, producer.beginTransaction()));
    }

    @EachAccessPoint
    void the_largest_body_goes_through(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var patient = ClientConfiguration.newBuilder().setEndpoints(CLUSTER.endpoint(access)).enableSsl(false)
            .setRequestTimeout(PATIENT).build();
        var producer = Sdk.producer(patient, topic);
        var consumer = Sdk.simple(patient, topic, CLUSTER.group(), FilterExpression.SUB_ALL);
        var body = new byte[4 * MIB];
        new Random(1).nextBytes(body);
        producer.send(Sdk.message(topic, body).build());
        assertArrayEquals(body, Sdk.bytes(Sdk.receive(consumer, 1).get(0)));
        // The settings tell the SDK the limit.
        var larger = Sdk.message(topic, new byte[4 * MIB + 1]).build();
        assertThrows(ClientException.class, () -> producer.send(larger));
    }

    @EachAccessPoint
    void bad_properties_are_refused(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        List<UnaryOperator<MessageBuilder>> bad = List.of(
            message -> message.setTag("a\nb"),
            message -> message.setKeys("a\tb"),
            message -> message.addProperty("a\nb", "c"),
            message -> message.addProperty("a", "b\0c"),
            message -> message.addProperty("UNIQ_KEY", "x"));
        for (var each : bad) {
            var message = each.apply(Sdk.message(topic, "x")).build();
            assertThrows(BadRequestException.class, () -> producer.send(message));
        }
        var large = Sdk.message(topic, "x").addProperty("a", "v".repeat(17_000)).build();
        assertThrows(RequestHeaderFieldsTooLargeException.class, () -> producer.send(large));
        var many = Sdk.message(topic, "x");
        for (var number = 0; number < 129; number++) many.addProperty("key-" + number, "value");
        var tooMany = many.build();
        assertThrows(RequestHeaderFieldsTooLargeException.class, () -> producer.send(tooMany));
        producer.send(Sdk.message(topic, "sound").build());
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group());
        assertEquals(List.of("sound"), Sdk.texts(Sdk.receive(consumer, 1)));
        assertEquals(List.of(), Sdk.nothing(consumer, 1));
    }

    @EachAccessPoint
    void bad_message_groups_times_and_priorities_are_refused(Access access) throws Exception {
        var endpoint = CLUSTER.endpoint(access);
        var fifo = CLUSTER.topic("FIFO");
        var ordered = Sdk.producer(endpoint, fifo);
        var group = Sdk.message(fifo, "x").setMessageGroup("g".repeat(65)).build();
        assertThrows(BadRequestException.class, () -> ordered.send(group));
        var delay = CLUSTER.topic("DELAY");
        var scheduled = Sdk.producer(endpoint, delay);
        var never = Sdk.message(delay, "x").setDeliveryTimestamp(Long.MAX_VALUE / 1_000_000).build();
        assertThrows(BadRequestException.class, () -> scheduled.send(never));
        var consumer = Sdk.simple(endpoint, delay, CLUSTER.group());
        assertThrows(BadRequestException.class, () -> consumer.receive(1, Duration.ofSeconds(1)));
        assertThrows(BadRequestException.class, () -> consumer.receive(1, Duration.ofHours(13)));
    }

    /** It accepts every certificate, also those that the servers make for themselves. */
    @EachAccessPoint
    void the_sdk_speaks_tls_by_default(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var encrypted = ClientConfiguration.newBuilder().setEndpoints(CLUSTER.endpoint(access))
            .setRequestTimeout(PATIENT).build();
        var consumer = Sdk.simple(encrypted, topic, CLUSTER.group(), FilterExpression.SUB_ALL);
        Sdk.producer(encrypted, topic).send(Sdk.message(topic, "encrypted").build());
        assertEquals(List.of("encrypted"), Sdk.texts(Sdk.receive(consumer, 1)));
    }
}
