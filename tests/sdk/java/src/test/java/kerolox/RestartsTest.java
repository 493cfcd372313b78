package kerolox;

import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.producer.Producer;

/** Servers that die and come back under running clients. Each test has a cluster of its own. */
class RestartsTest {
    /** Longer than the SDK waits between two attempts to reach a server. */
    private static final int RECOVERY_SECONDS = 40;

    private record Running(Cluster cluster, String topic, Recorder recorder, Producer producer) {
        static Running open(Access access) throws ClientException {
            var cluster = Cluster.start();
            var topic = cluster.topic("NORMAL");
            var recorder = new Recorder();
            Sdk.push(cluster.endpoint(access), topic, cluster.group(), recorder);
            return new Running(cluster, topic, recorder, Sdk.producer(cluster.endpoint(access), topic));
        }

        boolean send(String body) throws ClientException {
            producer.send(Sdk.message(topic, body).build());
            return true;
        }

        void arrive(List<String> bodies) {
            Sdk.eventually(RECOVERY_SECONDS, bodies + " arrived", () -> recorder.bodies().containsAll(bodies));
        }
    }

    @EachAccessPoint
    void clients_go_on_when_a_broker_was_killed_and_is_back(Access access) throws Exception {
        var running = Running.open(access);
        var sent = new ArrayList<>(Sdk.numbered(10, "before"));
        for (var body : sent) running.send(body);
        running.cluster.kill(Access.BROKER);
        assertThrows(Exception.class, () -> running.send("unsent"));
        running.cluster.restart(Access.BROKER);
        running.cluster.waitForRoute(running.topic, 15);
        Sdk.eventually(RECOVERY_SECONDS, "the producer sends again", () -> running.send("after"));
        sent.add("after");
        running.arrive(sent);
    }

    @EachAccessPoint
    void clients_go_on_without_the_nameserver_and_others_start_when_it_is_back(Access access) throws Exception {
        var running = Running.open(access);
        running.cluster.kill(Access.NAMESERVER);
        var without = Sdk.numbered(10, "without");
        for (var body : without) running.send(body);
        running.arrive(without);
        var endpoint = running.cluster.endpoint(access);
        // Every broker is an access point, so only who was told the nameserver cannot start.
        if (access == Access.NAMESERVER) {
            assertThrows(Exception.class, () -> Sdk.producer(endpoint, running.topic));
        } else {
            Sdk.producer(endpoint, running.topic);
        }
        running.cluster.restart(Access.NAMESERVER);
        Sdk.eventually(RECOVERY_SECONDS, "a client starts", () -> Sdk.producer(endpoint, running.topic) != null);
        running.send("with it again");
        running.arrive(List.of("with it again"));
    }
}
