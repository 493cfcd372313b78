package kerolox;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Supplier;
import java.util.stream.Stream;

/** Push consumers: everything arrives, failures come again, and become dead letters in the end. */
class PushTest {
    private static final Cluster CLUSTER = Cluster.shared();

    @EachAccessPoint
    void a_push_consumer_gets_everything_and_failures_again(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL", 4);
        var recorder = new Recorder((body, attempt) -> body.equals("message-3") && attempt == 1);
        Sdk.push(CLUSTER.endpoint(access), topic, CLUSTER.group(), recorder);
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var sent = Sdk.numbered(20, "message");
        for (var body : sent) producer.send(Sdk.message(topic, body).build());
        Sdk.eventually(40, "the failed message was pushed again", () -> recorder.got().size() > sent.size());
        Sdk.pause(2);
        var expected = new ArrayList<>(sent.stream().map(body -> body + " 1").toList());
        expected.add("message-3 2");
        assertEquals(Sdk.sorted(expected), Sdk.sorted(recorder.got()));
    }

    @EachAccessPoint
    void administrators_see_its_threads_and_show_it_messages(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var group = CLUSTER.group();
        var fails = new AtomicBoolean();
        var recorder = new Recorder((body, attempt) -> fails.get());
        Sdk.push(CLUSTER.endpoint(access), topic, group, recorder);
        var id = Sdk.producer(CLUSTER.endpoint(access), topic).send(Sdk.message(topic, "look").build()).getMessageId();
        Sdk.eventually(20, "the message was pushed", () -> recorder.got().size() == 1);

        var client = Cluster.field(CLUSTER.mqadmin("client", "list", "--group", group, "--output", "json"), "clientId");
        // A virtual machine with all of the suite's clients may take longer for its stacks than mqadmin waits.
        Sdk.eventually(40, "the client showed its threads",
            () -> CLUSTER.mqadmin("consumerStatus", "-g", group, "-s", "true").contains("java.lang.Thread"));
        CLUSTER.mqadmin("message", "verify", id.toString(), "-d", client, "-g", group);
        assertEquals(List.of("look", "look"), recorder.bodies());
        fails.set(true);
        var failed = assertThrows(AssertionError.class,
            () -> CLUSTER.mqadmin("message", "verify", id.toString(), "-d", client, "-g", group));
        Sdk.assertMentions(failed, "failed on message");
        Sdk.pause(2);
        assertEquals(List.of("look", "look", "look"), recorder.bodies());
    }

    @EachAccessPoint
    void two_push_consumers_of_a_group_share_its_messages(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL", 4);
        var group = CLUSTER.group();
        var recorders = List.of(new Recorder(), new Recorder());
        for (var recorder : recorders) Sdk.push(CLUSTER.endpoint(access), topic, group, recorder);
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var sent = Sdk.numbered(40, "message");
        for (var body : sent) producer.send(Sdk.message(topic, body).build());
        Supplier<Stream<String>> all = () -> recorders.stream().flatMap(recorder -> recorder.bodies().stream());
        Sdk.eventually(20, "every message was pushed", () -> all.get().count() >= sent.size());
        Sdk.pause(2);
        assertEquals(Sdk.sorted(sent), all.get().sorted().toList());
    }

    @EachAccessPoint
    void what_fails_every_time_becomes_a_dead_letter(Access access) throws Exception {
        var topic = CLUSTER.topic("NORMAL");
        var group = CLUSTER.group("-r", "1");
        var recorder = new Recorder((body, attempt) -> body.equals("poison"));
        Sdk.push(CLUSTER.endpoint(access), topic, group, recorder);
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        producer.send(Sdk.message(topic, "poison").setTag("bad").setKeys("order-1").build());
        producer.send(Sdk.message(topic, "sound").build());

        var deadLetters = "%DLQ%" + group;
        CLUSTER.waitForRoute(deadLetters, 60);
        var undertaker = Sdk.simple(CLUSTER.endpoint(access), deadLetters, CLUSTER.group());
        var dead = Sdk.receive(undertaker, 1).get(0);
        assertEquals("poison", Sdk.text(dead));
        assertEquals(Optional.of("bad"), dead.getTag());
        assertEquals(List.of("order-1"), List.copyOf(dead.getKeys()));
        Sdk.pause(2);
        assertEquals(List.of("poison 1", "poison 2", "sound 1"), Sdk.sorted(recorder.got()));
        assertEquals(List.of(), Sdk.nothing(undertaker, 2));
    }
}
