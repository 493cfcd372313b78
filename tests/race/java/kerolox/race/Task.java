package kerolox.race;

import java.util.HashMap;
import java.util.Map;

/** What a driver is asked to do: the arguments that task.rs writes. */
record Task(
        String leg, boolean sync, String address, double seconds, double warmup, long backlog, int bytes, int callers) {
    /** Topics, groups and sizes as in task.rs and leg.rs. */
    static final String TOPIC = "race";
    static final String TRANSACTION_TOPIC = "race-transactions";
    static final String GROUP = "racers";
    static final String WARM_GROUP = "warmers";
    static final int QUEUES = 4;
    static final int BATCH = 100;
    static final int PACE = 1000;

    static Task of(String[] words) {
        Map<String, String> flags = new HashMap<>();
        for (int index = 0; index + 1 < words.length; index += 2) {
            flags.put(words[index], words[index + 1]);
        }
        return new Task(
                flags.get("--leg"),
                flags.get("--flush").equals("sync"),
                flags.get("--address"),
                Double.parseDouble(flags.get("--seconds")),
                Double.parseDouble(flags.get("--warmup")),
                Long.parseLong(flags.get("--backlog")),
                Integer.parseInt(flags.get("--bytes")),
                Integer.parseInt(flags.get("--callers")));
    }

    String topic() {
        return leg.equals("transactions") ? TRANSACTION_TOPIC : TOPIC;
    }

    byte[] body() {
        byte[] body = new byte[bytes];
        java.util.Arrays.fill(body, (byte) 'x');
        return body;
    }
}
