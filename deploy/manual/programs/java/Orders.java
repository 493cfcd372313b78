import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;

/** Sends three orders, and receives them. */
public class Orders {
    public static void main(String[] arguments) throws Exception {
        var provider = ClientServiceProvider.loadService();
        var configuration = ClientConfiguration.newBuilder().setEndpoints(arguments[0]).enableSsl(false).build();

        try (var producer = provider.newProducerBuilder()
                .setClientConfiguration(configuration).setTopics("orders").build()) {
            for (var number = 1; number <= 3; number++) {
                var body = ("order " + number).getBytes(StandardCharsets.UTF_8);
                var message = provider.newMessageBuilder().setTopic("orders").setTag("paid").setBody(body).build();
                var receipt = producer.send(message);
                System.out.println("sent order " + number + ": " + receipt.getMessageId());
            }
        }

        try (var consumer = provider.newSimpleConsumerBuilder()
                .setClientConfiguration(configuration)
                .setConsumerGroup("billing")
                .setAwaitDuration(Duration.ofSeconds(5))
                .setSubscriptionExpressions(Map.of("orders", new FilterExpression("paid")))
                .build()) {
            var received = 0;
            while (received < 3) {
                // Up to 16 messages, which stay invisible to other members of the group for half a minute.
                for (var message : consumer.receive(16, Duration.ofSeconds(30))) {
                    consumer.ack(message);
                    received++;
                }
            }
            System.out.println("received " + received + " orders");
        }
    }
}
