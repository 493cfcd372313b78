package kerolox;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Messages with a priority. */
class PrioritiesTest {
    private static final Cluster CLUSTER = Cluster.shared();

    @EachAccessPoint
    void the_highest_priority_comes_first(Access access) throws Exception {
        var topic = CLUSTER.topic("PRIORITY", 3);
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        for (var priority : List.of(1, 0, 2, 1, 0, 2)) {
            producer.send(Sdk.message(topic, "of " + priority).setPriority(priority).build());
        }
        var consumer = Sdk.simple(CLUSTER.endpoint(access), topic, CLUSTER.group());
        var got = Sdk.receive(consumer, 6);
        assertEquals(List.of("of 2", "of 2", "of 1", "of 1", "of 0", "of 0"), Sdk.texts(got));
        for (var message : got) {
            assertEquals(Optional.of("of " + message.getPriority().get()), Optional.of(Sdk.text(message)));
        }
    }

    @EachAccessPoint
    void a_push_consumer_gets_every_priority_and_failures_again(Access access) throws Exception {
        var topic = CLUSTER.topic("PRIORITY", 3);
        var producer = Sdk.producer(CLUSTER.endpoint(access), topic);
        var recorder = new Recorder((body, attempt) -> body.equals("high") && attempt == 1);
        Sdk.push(CLUSTER.endpoint(access), topic, CLUSTER.group(), recorder);
        for (var each : Map.of("low", 0, "middle", 1, "high", 2).entrySet()) {
            producer.send(Sdk.message(topic, each.getKey()).setPriority(each.getValue()).build());
        }
        Sdk.eventually(40, "every message was pushed, and one again", () -> recorder.got().size() >= 4);
        assertEquals(List.of("high 1", "high 2", "low 1", "middle 1"), Sdk.sorted(recorder.got()));
    }
}
