package kerolox;

import java.io.IOException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Pattern;

/**
 * A nameserver with one broker, whose check-backs come every 2 s, or with a broker group; topics and groups are made with
 * mqadmin.
 */
final class Cluster {
    private static final AtomicInteger NAMES = new AtomicInteger();

    private final String id;
    private final String nameserver;
    private final String broker;

    private Cluster(String answer) {
        id = field(answer, "id");
        nameserver = field(answer, "nameserver");
        broker = field(answer, "broker");
    }

    private static final class Shared {
        private static final Cluster CLUSTER = start();
    }

    /** The one that all tests share which do not hurt it. */
    static Cluster shared() {
        return Shared.CLUSTER;
    }

    /** Starts one for a single test; settings are environment variables of the broker, like {@code NAME=VALUE}. */
    static Cluster start(String... settings) {
        return new Cluster(harness("cluster " + String.join(" ", settings)));
    }

    /** Starts a broker group, all of it in sync, for a single test. */
    static Cluster startGroup(int members) {
        return new Cluster(harness("group " + members));
    }

    void killMaster() {
        harness("kill " + id + " master");
    }

    /** Stops the members of the group and starts them again, one after the other, each when all are in sync. */
    void restartInTurn() {
        harness("restart-in-turn " + id);
    }

    /** Returns when a master rules and all members that run are in sync. */
    void waitForInSync() {
        harness("in-sync " + id);
    }

    void kill(Access server) {
        harness("kill " + id + " " + server);
    }

    /** Starts a server again that was killed, on the same port and data. */
    void restart(Access server) {
        harness("start " + id + " " + server);
    }

    /** HOST:PORT of a server. */
    String endpoint(Access server) {
        return server == Access.NAMESERVER ? nameserver : broker;
    }

    /** A topic with a name of its own and one queue. */
    String topic(String type) {
        return topic(type, 1);
    }

    String topic(String type, int queues) {
        var topic = "topic-" + NAMES.incrementAndGet();
        mqadmin("updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", "" + queues, "-w", "" + queues,
            "-a", "+message.type=" + type);
        waitForRoute(topic, 15);
        return topic;
    }

    /** A consumer group with a name of its own; options are mqadmin's. */
    String group(String... options) {
        var group = "group-" + NAMES.incrementAndGet();
        var arguments = new ArrayList<>(List.of("-c", "DefaultCluster", "-g", group));
        arguments.addAll(List.of(options));
        mqadmin("updateSubGroup", arguments.toArray(String[]::new));
        return group;
    }

    void waitForRoute(String topic, int seconds) {
        Sdk.eventually(seconds, "there is a route to " + topic, () -> run("topicRoute", "-t", topic).code == 0);
    }

    /** What it says; it must be well. */
    String mqadmin(String command, String... arguments) {
        var done = run(command, arguments);
        if (done.code != 0) throw new AssertionError("mqadmin " + command + ": " + done.output);
        return done.output;
    }

    private record Done(int code, String output) {}

    private Done run(String command, String... arguments) {
        var program = Path.of(System.getenv("KEROLOX_BIN"), "mqadmin").toString();
        var full = new ArrayList<>(List.of(program, command));
        full.addAll(List.of(arguments));
        full.addAll(List.of("-n", nameserver));
        try {
            var process = new ProcessBuilder(full).redirectErrorStream(true).start();
            process.getOutputStream().close();
            var output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            return new Done(process.waitFor(), output);
        } catch (IOException | InterruptedException error) {
            throw new AssertionError(String.join(" ", full), error);
        }
    }

    /** One request to tests/src/cluster_server/mod.rs, which owns the servers. */
    private static String harness(String line) {
        var address = System.getenv("KEROLOX_HARNESS").split(":");
        try (var socket = new Socket(address[0], Integer.parseInt(address[1]))) {
            socket.getOutputStream().write((line + "\n").getBytes(StandardCharsets.UTF_8));
            var answer = new String(socket.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            if (answer.contains("\"error\"")) throw new AssertionError("harness: " + line + ": " + answer);
            return answer;
        } catch (IOException error) {
            throw new AssertionError("harness: " + line, error);
        }
    }

    static String field(String answer, String name) {
        var found = Pattern.compile('"' + name + "\": *\"?([^\",}]+)").matcher(answer);
        if (!found.find()) throw new AssertionError("no " + name + " in " + answer);
        return found.group(1);
    }
}
