package kerolox;

import static kerolox.Sdk.INVISIBLE;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Ordered messages: producers with message groups, consumers in groups that consume in order. */
class FifoTest {
    private static final Cluster CLUSTER = Cluster.shared();

    private record Order(String endpoint, String topic, String group, Producer producer) {
        static Order open(Access access, String... groupOptions) throws ClientException {
            var topic = CLUSTER.topic("FIFO", 4);
            var options = new ArrayList<>(List.of("-o", "true"));
            options.addAll(List.of(groupOptions));
            var group = CLUSTER.group(options.toArray(String[]::new));
            var endpoint = CLUSTER.endpoint(access);
            return new Order(endpoint, topic, group, Sdk.producer(endpoint, topic));
        }

        void send(String messageGroup, List<String> bodies) throws ClientException {
            for (var body : bodies) {
                producer.send(Sdk.message(topic, body).setMessageGroup(messageGroup).build());
            }
        }
    }

    @EachAccessPoint
    void messages_of_a_message_group_are_pushed_in_order(Access access) throws Exception {
        var order = Order.open(access);
        var recorder = new Recorder();
        Sdk.push(order.endpoint, order.topic, order.group, recorder);
        var sending = List.of("a", "b", "c").stream().map(name -> CompletableFuture.runAsync(() -> {
            try {
                order.send(name, Sdk.numbered(15, name));
            } catch (ClientException error) {
                throw new AssertionError(error);
            }
        })).toList();
        for (var done : sending) done.get();
        Sdk.eventually(30, "every message was pushed", () -> recorder.got().size() >= 45);
        Sdk.pause(1);
        for (var name : List.of("a", "b", "c")) assertEquals(Sdk.numbered(15, name), recorder.bodies(name));
        assertEquals(45, recorder.got().size());
    }

    @EachAccessPoint
    void messages_behind_a_failing_one_wait_for_it(Access access) throws Exception {
        var order = Order.open(access, "--attributes", "+retry.backoff=1s/2s");
        var recorder = new Recorder((body, attempt) -> body.equals("message-1") && attempt < 3);
        Sdk.push(order.endpoint, order.topic, order.group, recorder);
        order.send("orders", Sdk.numbered(4, "message"));
        Sdk.eventually(30, "every message was pushed", () -> recorder.got().size() >= 6);
        Sdk.pause(1);
        assertEquals(List.of("message-0 1", "message-1 1", "message-1 2", "message-1 3", "message-2 1", "message-3 1"),
            recorder.got());
    }

    @EachAccessPoint
    void an_ordered_message_that_fails_every_time_becomes_a_dead_letter_and_the_next_ones_follow(Access access)
            throws Exception {
        var order = Order.open(access, "-r", "1", "--attributes", "+retry.backoff=1s");
        var recorder = new Recorder((body, attempt) -> body.equals("message-1"));
        Sdk.push(order.endpoint, order.topic, order.group, recorder);
        order.send("orders", Sdk.numbered(3, "message"));
        Sdk.eventually(30, "the message behind it was pushed", () -> recorder.bodies().contains("message-2"));
        assertEquals(List.of("message-0 1", "message-1 1", "message-1 2", "message-2 1"), recorder.got());
        var deadLetters = "%DLQ%" + order.group;
        CLUSTER.waitForRoute(deadLetters, 15);
        var undertaker = Sdk.simple(order.endpoint, deadLetters, CLUSTER.group());
        assertEquals(List.of("message-1"), Sdk.texts(Sdk.receive(undertaker, 1)));
    }

    @EachAccessPoint
    void a_simple_consumer_gets_the_next_message_of_a_message_group_after_the_acknowledgement(Access access)
            throws Exception {
        var order = Order.open(access);
        var sent = Sdk.numbered(3, "message");
        order.send("orders", sent);
        var consumer = Sdk.simple(order.endpoint, order.topic, order.group);
        for (var body : sent) {
            // The others stay back while the first one is out.
            var got = new ArrayList<>(consumer.receive(1, INVISIBLE));
            Sdk.eventually(20, body + " came", () -> got.size() > 0 || got.addAll(consumer.receive(1, INVISIBLE)));
            assertEquals(List.of(body), Sdk.texts(got));
            assertEquals(Optional.of("orders"), got.get(0).getMessageGroup());
            assertEquals(List.of(), Sdk.nothing(consumer, 4));
            consumer.ack(got.get(0));
        }
    }
}
