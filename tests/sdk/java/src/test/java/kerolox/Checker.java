package kerolox;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.TransactionChecker;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Answers check-backs in turn, the last answer for ever; remembers what it was asked about. */
final class Checker implements TransactionChecker {
    private final List<String> asked = new ArrayList<>();
    private final TransactionResolution[] answers;

    Checker(TransactionResolution... answers) {
        this.answers = answers;
    }

    @Override
    public synchronized TransactionResolution check(MessageView message) {
        asked.add(Sdk.text(message));
        return answers[Math.min(asked.size(), answers.length) - 1];
    }

    synchronized List<String> asked() {
        return List.copyOf(asked);
    }
}
