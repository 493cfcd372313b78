package kerolox;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.java.exception.BadRequestException;

/** Filters by tag and by SQL-92 expressions. */
class FiltersTest {
    private static final Cluster CLUSTER = Cluster.shared();

    private static void send(Producer producer, String topic, String body, String tag, Map<String, String> properties)
            throws ClientException {
        var message = Sdk.message(topic, body);
        if (tag != null) message.setTag(tag);
        properties.forEach(message::addProperty);
        producer.send(message.build());
    }

    @EachAccessPoint
    void tags_select_messages(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var filter = new FilterExpression("a || c");
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group(), filter);
        var tags = new String[] {"a", "b", "c", null, "a"};
        for (var number = 0; number < tags.length; number++) {
            send(producer, topic, "" + (number + 1), tags[number], Map.of());
        }
        assertEquals(List.of("1", "3", "5"), Sdk.sorted(Sdk.texts(Sdk.receive(consumer, 3))));
        assertEquals(List.of(), Sdk.nothing(consumer, 2));
    }

    @EachAccessPoint
    void tags_select_messages_for_a_push_consumer(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var recorder = new Recorder();
        Sdk.push(CLUSTER.endpoint(access), topic, CLUSTER.group(), recorder, new FilterExpression("a"));
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        for (var tag : List.of("b", "a", "b", "a")) send(producer, topic, tag, tag, Map.of());
        Sdk.eventually(20, "the messages with the tag were pushed", () -> recorder.got().size() >= 2);
        Sdk.pause(1);
        assertEquals(List.of("a", "a"), recorder.bodies());
    }

    @EachAccessPoint
    void sql_expressions_select_messages_by_their_properties(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var filter = Sdk.sql("(price BETWEEN 10 AND 20 AND city IN ('Bern', 'Basel')) OR TAGS = 'always'");
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group(), filter);
        send(producer, topic, "1", null, Map.of("price", "15", "city", "Bern"));
        send(producer, topic, "2", null, Map.of("price", "25", "city", "Bern"));
        send(producer, topic, "3", null, Map.of("price", "20", "city", "Basel"));
        send(producer, topic, "4", null, Map.of("price", "15"));
        send(producer, topic, "5", null, Map.of("price", "15", "city", "Genf"));
        send(producer, topic, "6", "always", Map.of());
        assertEquals(List.of("1", "3", "6"), Sdk.sorted(Sdk.texts(Sdk.receive(consumer, 3))));
        assertEquals(List.of(), Sdk.nothing(consumer, 2));
    }

    @EachAccessPoint
    void an_expression_that_makes_no_sense_is_refused(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group());
        for (var senseless : List.of(new FilterExpression(" || "), Sdk.sql("price >"))) {
            consumer.subscribe(topic, senseless);
            assertThrows(BadRequestException.class, () -> consumer.receive(1, Sdk.INVISIBLE));
            // At the start the server closes the stream that tells it the subscriptions. From further attempts to start
            // the SDK would only say that it is closed.
            var once = ClientConfiguration.newBuilder().setEndpoints(CLUSTER.endpoint(access)).enableSsl(false)
                .setMaxStartupAttempts(1).build();
            var refused = assertThrows(Exception.class, () -> Sdk.simple(once, topic, CLUSTER.group(), senseless));
            Sdk.assertMentions(refused, "INVALID_ARGUMENT");
        }
    }
}
