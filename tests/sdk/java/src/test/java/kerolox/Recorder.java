package kerolox;

import java.util.ArrayList;
import java.util.List;
import java.util.function.BiPredicate;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.message.MessageView;

/** A message listener that remembers what came, and fails what it is told to fail by body and attempt. */
final class Recorder implements MessageListener {
    private final List<String> got = new ArrayList<>();
    private final BiPredicate<String, Integer> fails;

    Recorder() {
        this((body, attempt) -> false);
    }

    Recorder(BiPredicate<String, Integer> fails) {
        this.fails = fails;
    }

    @Override
    public ConsumeResult consume(MessageView message) {
        var body = Sdk.text(message);
        var attempt = message.getDeliveryAttempt();
        synchronized (got) {
            got.add(body + " " + attempt);
        }
        return fails.test(body, attempt) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
    }

    /** {@code BODY ATTEMPT} of each delivery in the order that they came. */
    List<String> got() {
        synchronized (got) {
            return List.copyOf(got);
        }
    }

    List<String> bodies() {
        return got().stream().map(each -> each.substring(0, each.lastIndexOf(' '))).toList();
    }

    List<String> bodies(String prefix) {
        return bodies().stream().filter(body -> body.startsWith(prefix)).toList();
    }
}
