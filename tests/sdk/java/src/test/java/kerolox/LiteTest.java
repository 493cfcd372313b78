package kerolox;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.OffsetOption;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.java.exception.BadRequestException;
import org.apache.rocketmq.client.java.exception.LiteSubscriptionQuotaExceededException;
import org.apache.rocketmq.client.java.exception.LiteTopicQuotaExceededException;
import org.junit.jupiter.api.Test;

/** Lite topics: producers, and the SDK's push consumer of them. */
class LiteTest {
    private static final Cluster CLUSTER = Cluster.shared();

    private static void send(Producer producer, String topic, String liteTopic, String body) throws ClientException {
        producer.send(Sdk.message(topic, body).setLiteTopic(liteTopic).build());
    }

    @EachAccessPoint
    void a_lite_push_consumer_gets_the_lite_topics_that_it_subscribes_to_in_order(Access access) throws Exception {
        var topic = CLUSTER.topic("LITE");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var recorder = new Recorder((body, attempt) -> body.equals("a1") && attempt == 1);
        var consumer = Sdk.lite(CLUSTER.endpoint(access), topic, CLUSTER.group(), message -> {
            assertEquals(Optional.of(Sdk.text(message).substring(0, 1)), message.getLiteTopic());
            return recorder.consume(message);
        });
        for (var name : List.of("a", "b")) consumer.subscribeLite(name);
        assertEquals(Set.of("a", "b"), consumer.getLiteTopicSet());
        for (var number = 0; number < 3; number++) {
            for (var name : List.of("a", "b", "o")) send(producer, topic, name, name + number);
        }
        Sdk.eventually(40, "every message was pushed, and one again", () -> recorder.got().size() >= 7);
        Sdk.pause(1);
        // Nothing of a lite topic comes before the message that failed.
        assertEquals(List.of("a0 1", "a1 1", "a1 2", "a2 1"),
            Sdk.inOrder(recorder.got().stream().filter(got -> got.startsWith("a")).toList()));
        assertEquals(List.of("b0", "b1", "b2"), Sdk.inOrder(recorder.bodies("b")));
        assertEquals(List.of(), recorder.bodies("o"));

        consumer.unsubscribeLite("b");
        send(producer, topic, "b", "b3");
        send(producer, topic, "a", "a3");
        Sdk.eventually(20, "the other lite topic goes on", () -> recorder.bodies().contains("a3"));
        Sdk.pause(3);
        assertEquals(List.of("b0", "b1", "b2"), Sdk.inOrder(recorder.bodies("b")));
        // Where it left off: what was sent meanwhile comes, what was consumed does not.
        consumer.subscribeLite("b");
        Sdk.eventually(20, "what was sent meanwhile comes", () -> recorder.bodies().contains("b3"));
        assertEquals(List.of("b0", "b1", "b2", "b3"), Sdk.inOrder(recorder.bodies("b")));
    }

    @EachAccessPoint
    void two_lite_consumers_of_a_group_each_get_their_own_lite_topics(Access access) throws Exception {
        var topic = CLUSTER.topic("LITE");
        var group = CLUSTER.group();
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var recorders = List.of(new Recorder(), new Recorder());
        for (var number = 0; number < 2; number++) {
            var consumer = Sdk.lite(CLUSTER.endpoint(access), topic, group, recorders.get(number));
            for (var each = 0; each < 10; each++) consumer.subscribeLite("session-" + number + "-" + each);
        }
        for (var number = 0; number < 2; number++) {
            for (var each = 0; each < 10; each++) {
                var name = "session-" + number + "-" + each;
                send(producer, topic, name, name);
            }
        }
        for (var number = 0; number < 2; number++) {
            var recorder = recorders.get(number);
            Sdk.eventually(20, "every message was pushed", () -> recorder.got().size() >= 10);
            assertEquals(Sdk.numbered(10, "session-" + number), Sdk.sorted(recorder.bodies()));
        }
    }

    @EachAccessPoint
    void a_place_to_begin_can_be_chosen(Access access) throws Exception {
        var topic = CLUSTER.topic("LITE");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        for (var name : List.of("min", "max", "tail", "offset", "time", "last")) {
            for (var number = 0; number < 4; number++) send(producer, topic, name, name + number);
        }
        var recorder = new Recorder();
        var consumer = Sdk.lite(CLUSTER.endpoint(access), topic, CLUSTER.group(), recorder);
        consumer.subscribeLite("min", OffsetOption.MIN_OFFSET);
        consumer.subscribeLite("max", OffsetOption.MAX_OFFSET);
        consumer.subscribeLite("tail", OffsetOption.ofTailN(2));
        consumer.subscribeLite("offset", OffsetOption.ofOffset(3));
        consumer.subscribeLite("time", OffsetOption.ofTimestamp(0));
        consumer.subscribeLite("last", OffsetOption.LAST_OFFSET);
        send(producer, topic, "max", "max4");
        Sdk.eventually(20, "every message was pushed", () -> recorder.got().size() >= 16);
        Sdk.pause(1);
        assertEquals(from("min", 0, 4), recorder.bodies("min"));
        assertEquals(from("max", 4, 5), recorder.bodies("max"));
        assertEquals(from("tail", 2, 4), recorder.bodies("tail"));
        assertEquals(from("offset", 3, 4), recorder.bodies("offset"));
        assertEquals(from("time", 0, 4), recorder.bodies("time"));
        assertEquals(from("last", 0, 4), recorder.bodies("last"));
    }

    private static List<String> from(String name, int first, int end) {
        return IntStream.range(first, end).mapToObj(number -> name + number).toList();
    }

    @EachAccessPoint
    void a_message_of_a_lite_topic_that_fails_every_time_becomes_a_dead_letter(Access access) throws Exception {
        var topic = CLUSTER.topic("LITE");
        var group = CLUSTER.group("-r", "1", "--attributes", "+retry.backoff=1s");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var recorder = new Recorder((body, attempt) -> body.equals("bad"));
        Sdk.lite(CLUSTER.endpoint(access), topic, group, recorder).subscribeLite("a");
        send(producer, topic, "a", "bad");
        send(producer, topic, "a", "good");
        Sdk.eventually(40, "the next one was pushed", () -> recorder.bodies().contains("good"));
        assertEquals(List.of("bad 1", "bad 2", "good 1"), recorder.got());
        CLUSTER.waitForRoute("%DLQ%" + group, 15);
        var undertaker = Sdk.simple(CLUSTER.endpoint(access), "%DLQ%" + group, CLUSTER.group());
        var dead = Sdk.receive(undertaker, 1).get(0);
        assertEquals("bad", Sdk.text(dead));
        assertEquals(Optional.of("a"), dead.getLiteTopic());
    }

    @EachAccessPoint
    void what_cannot_be_is_refused(Access access) throws Exception {
        var topic = CLUSTER.topic("LITE");
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var consumer = Sdk.lite(CLUSTER.endpoint(access), topic,
            CLUSTER.group("--attributes", "+lite.sub.client.quota=1"), message -> ConsumeResult.SUCCESS);
        assertThrows(BadRequestException.class, () -> send(producer, topic, "no good name", "x"));
        assertThrows(BadRequestException.class, () -> consumer.subscribeLite("no good name"));
        consumer.subscribeLite("a");
        assertThrows(LiteSubscriptionQuotaExceededException.class, () -> consumer.subscribeLite("b"));
        assertEquals(Set.of("a"), consumer.getLiteTopicSet());

        var ordinary = CLUSTER.topic("NORMAL");
        var bound = Sdk.lite(CLUSTER.endpoint(access), ordinary, CLUSTER.group(), message -> ConsumeResult.SUCCESS);
        var refused = assertThrows(BadRequestException.class, () -> bound.subscribeLite("a"));
        Sdk.assertMentions(refused, ordinary);
    }

    @EachAccessPoint
    void the_quotas_of_a_broker_are_told(Access access) throws Exception {
        var cluster = Cluster.start("KEROLOX_BROKER__LITE__MAX_TOPICS=2", "KEROLOX_BROKER__LITE__MAX_SUBSCRIPTIONS=1");
        var topic = cluster.topic("LITE");
        var producer = Sdk.producer(cluster.endpoint(access), topic);
        for (var name : List.of("a", "b", "a")) send(producer, topic, name, "x");
        assertThrows(LiteTopicQuotaExceededException.class, () -> send(producer, topic, "c", "x"));
        var consumer =
            Sdk.lite(cluster.endpoint(access), topic, cluster.group(), message -> ConsumeResult.SUCCESS);
        consumer.subscribeLite("a");
        // The quota of a client, which the settings tell it, has room: this one is the broker's.
        assertThrows(LiteSubscriptionQuotaExceededException.class, () -> consumer.subscribeLite("b"));
    }

    @Test
    void there_are_no_lite_simple_consumers() {
        var builders = Arrays.stream(ClientServiceProvider.class.getMethods()).map(method -> method.getName()).toList();
        assertFalse(builders.isEmpty());
        assertEquals(List.of("newLitePushConsumerBuilder"),
            builders.stream().filter(name -> name.contains("Lite")).toList());
    }
}
