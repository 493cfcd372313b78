// Sends three orders, and receives them.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

func main() {
	address := os.Args[1]
	rmq.EnableSsl = false
	send(address)
	receive(address)
}

func send(address string) {
	producer, err := rmq.NewProducer(
		&rmq.Config{Endpoint: address, Credentials: &credentials.SessionCredentials{}},
		rmq.WithTopics("orders"))
	check(err)
	check(producer.Start())
	defer producer.GracefulStop()
	for number := 1; number <= 3; number++ {
		message := &rmq.Message{Topic: "orders", Body: fmt.Appendf(nil, "order %d", number)}
		message.SetTag("paid")
		receipts, err := producer.Send(context.Background(), message)
		check(err)
		fmt.Printf("sent order %d: %s\n", number, receipts[0].MessageID)
	}
}

func receive(address string) {
	consumer, err := rmq.NewSimpleConsumer(
		&rmq.Config{Endpoint: address, ConsumerGroup: "billing", Credentials: &credentials.SessionCredentials{}},
		rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{"orders": rmq.NewFilterExpression("paid")}))
	check(err)
	check(consumer.Start())
	defer consumer.GracefulStop()
	received := 0
	for received < 3 {
		messages, err := consumer.Receive(context.Background(), 16, 30*time.Second)
		if err != nil {
			// No message came within the await duration.
			continue
		}
		for _, message := range messages {
			check(consumer.Ack(context.Background(), message))
			received++
		}
	}
	fmt.Printf("received %d orders\n", received)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
