package kerolox;

import static org.apache.rocketmq.client.apis.producer.TransactionResolution.COMMIT;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.junit.jupiter.api.Test;

/** A group of three members whose master is killed, or all of which is restarted in turn. Each test has one of its own. */
class FailoverTest {
    private static final int RECOVERY_SECONDS = 60;

    /** Sends one message after the other until it is ended; remembers what was acknowledged, and what failed. */
    private static final class Sending extends Thread {
        private final Producer producer;
        private final String topic;
        private final List<String> acknowledged = new ArrayList<>();
        private final List<String> failed = new ArrayList<>();
        private volatile boolean ending;

        Sending(Producer producer, String topic) {
            this.producer = producer;
            this.topic = topic;
        }

        @Override
        public void run() {
            for (var number = 0; !ending; number++) {
                var body = "message-" + number;
                try {
                    producer.send(Sdk.message(topic, body).build());
                    acknowledged.add(body);
                } catch (ClientException | RuntimeException error) {
                    failed.add(body + ": " + error);
                }
                Sdk.pause(0.01);
            }
        }

        /** What was acknowledged; nothing may have failed. */
        List<String> end() throws InterruptedException {
            ending = true;
            join();
            assertEquals(List.of(), failed);
            return acknowledged;
        }
    }

    private record Running(Cluster cluster, Recorder recorder, Sending sending) {
        static Running open() throws ClientException {
            var cluster = Cluster.startGroup(3);
            var topic = cluster.topic("NORMAL");
            var endpoint = cluster.endpoint(Access.NAMESERVER);
            var recorder = new Recorder();
            Sdk.push(endpoint, topic, cluster.group(), recorder);
            var sending = new Sending(Sdk.producer(endpoint, topic), topic);
            sending.start();
            Sdk.pause(1);
            return new Running(cluster, recorder, sending);
        }

        /** Sends a moment longer; no send may have failed, and what was acknowledged must arrive. */
        void end() throws InterruptedException {
            Sdk.pause(1);
            var acknowledged = sending.end();
            Sdk.eventually(RECOVERY_SECONDS, "all of " + acknowledged.size() + " acknowledged messages arrived",
                () -> new HashSet<>(recorder.bodies()).containsAll(acknowledged));
        }
    }

    @Test
    void a_killed_master_costs_no_message_and_no_failed_send() throws Exception {
        var running = Running.open();
        running.cluster.killMaster();
        running.cluster.waitForInSync();
        running.end();
    }

    @Test
    void a_rolling_restart_fails_no_send() throws Exception {
        var running = Running.open();
        running.cluster.restartInTurn();
        running.end();
    }

    /** Commits. The SDK tells a decision once, and its connection may end meanwhile: an application tells it again. */
    private static void commit(Transaction transaction) throws ClientException {
        for (var attempt = 1;; attempt++) {
            try {
                transaction.commit();
                return;
            } catch (ClientException | RuntimeException error) {
                if (attempt == 10) {
                    throw error;
                }
                Sdk.pause(0.5);
            }
        }
    }

    @Test
    void a_transaction_outlives_its_master() throws Exception {
        var cluster = Cluster.startGroup(3);
        var topic = cluster.topic("TRANSACTION");
        var endpoint = cluster.endpoint(Access.NAMESERVER);
        var consumer = Sdk.simple(endpoint, topic, cluster.group());
        var checker = new Checker(COMMIT);
        var producer = Sdk.producer(endpoint, topic, checker);
        var decided = Sdk.sendHalf(producer, Sdk.message(topic, "decided").build());
        Sdk.sendHalf(producer, Sdk.message(topic, "asked").build());
        cluster.killMaster();
        commit(decided);
        var received = Sdk.receive(consumer, 2, Duration.ofSeconds(RECOVERY_SECONDS), true);
        assertEquals(List.of("asked", "decided"), Sdk.sorted(Sdk.texts(received)));
        assertEquals(List.of("asked"), checker.asked());
    }
}
