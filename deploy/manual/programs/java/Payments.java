import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Commits one payment, and rolls another one back. */
public class Payments {
    public static void main(String[] arguments) throws Exception {
        var provider = ClientServiceProvider.loadService();
        var configuration = ClientConfiguration.newBuilder().setEndpoints(arguments[0]).enableSsl(false).build();
        try (var producer = provider.newProducerBuilder()
                .setClientConfiguration(configuration)
                .setTopics("payments")
                // Asked about half messages that nothing decided; a real one looks into its database.
                .setTransactionChecker(message -> TransactionResolution.UNKNOWN)
                .build()) {
            for (var number = 1; number <= 2; number++) {
                var body = ("payment " + number).getBytes(StandardCharsets.UTF_8);
                var message = provider.newMessageBuilder().setTopic("payments").setBody(body).build();
                var transaction = producer.beginTransaction();
                producer.send(message, transaction);
                if (number == 1) {
                    transaction.commit();
                    System.out.println("payment 1 is committed");
                } else {
                    transaction.rollback();
                    System.out.println("payment 2 is rolled back");
                }
            }
        }
    }
}
