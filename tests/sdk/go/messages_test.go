package sdk

import (
	"context"
	"strings"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// A topic, a group, and one client of each kind for them.
func openClients(t *testing.T, access string, queues int) (string, rmq.Producer, rmq.SimpleConsumer) {
	t.Helper()
	endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", queues)
	producer := startProducer(t, endpoint, topic)
	return topic, producer, startSimple(t, endpoint, topic, shared().group(t), rmq.SUB_ALL)
}

func TestAMessageArrivesAsItWasSent(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, consumer := openClients(t, access, 1)
		message := newMessage(topic, strings.Repeat("Grüße, 你好\x00", 500))
		message.SetTag("paid")
		message.SetKeys("order-1", "order-2")
		message.AddProperty("city", "Zürich")
		before := time.Now().Truncate(time.Millisecond)
		receipt := send(t, producer, message)
		got := receiveOne(t, consumer)
		equal(t, message.Body, got.GetBody())
		equal(t, topic, got.GetTopic())
		equal(t, "paid", *got.GetTag())
		equal(t, []string{"order-1", "order-2"}, got.GetKeys())
		equal(t, map[string]string{"city": "Zürich"}, got.GetProperties())
		equal(t, receipt.MessageID, got.GetMessageId())
		equal(t, receipt.Offset, got.GetOffset())
		equal(t, 1, got.GetDeliveryAttempt())
		if *got.GetBornHost() == "" || got.GetBornTimestamp().Before(before) || got.GetBornTimestamp().After(time.Now()) {
			t.Errorf("born on %q at %v", *got.GetBornHost(), got.GetBornTimestamp())
		}
		if got.GetMessageGroup() != nil || got.GetDeliveryTimestamp() != nil || got.GetLiteTopic() != "" {
			t.Errorf("a normal message has neither a message group nor a time nor a lite topic: %v", got)
		}
	})
}

func TestNothingIsLeftAfterTheAcknowledgement(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, consumer := openClients(t, access, 4)
		sent := numbered(50, "message")
		failures := make(chan error, len(sent))
		for _, body := range sent {
			producer.SendAsync(context.Background(), newMessage(topic, body),
				func(_ context.Context, _ []*rmq.SendReceipt, err error) { failures <- err })
		}
		for range sent {
			ok(t, <-failures)
		}
		equal(t, sent, sorted(bodies(receive(t, consumer, len(sent)))))
		// Longer than the invisible duration: whatever was not acknowledged would come back.
		expectNothing(t, consumer, invisible+3*time.Second)
	})
}

func TestTwoGroupsEachGetEveryMessage(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, one := openClients(t, access, 1)
		other := startSimple(t, shared().endpoints[access], topic, shared().group(t), rmq.SUB_ALL)
		sent := numbered(10, "message")
		for _, body := range sent {
			send(t, producer, newMessage(topic, body))
		}
		for _, consumer := range []rmq.SimpleConsumer{one, other} {
			equal(t, sent, sorted(bodies(receive(t, consumer, len(sent)))))
		}
	})
}

func TestAnUnacknowledgedMessageComesBackWithAHigherAttempt(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, consumer := openClients(t, access, 1)
		send(t, producer, newMessage(topic, "again"))
		asked := time.Now()
		first := hold(t, consumer, 1, patience)[0]
		equal(t, 1, first.GetDeliveryAttempt())
		second := hold(t, consumer, 1, patience)[0]
		if time.Since(asked) < invisible {
			t.Errorf("it came back after %v", time.Since(asked))
		}
		equal(t, first.GetMessageId(), second.GetMessageId())
		equal(t, 2, second.GetDeliveryAttempt())
		// The SDK does not say that the server refused it; that shows in the message, which comes again.
		ok(t, consumer.Ack(context.Background(), first))
		third := hold(t, consumer, 1, patience)[0]
		equal(t, 3, third.GetDeliveryAttempt())
		ok(t, consumer.Ack(context.Background(), third))
		expectNothing(t, consumer, invisible+3*time.Second)
	})
}

func TestTheInvisibleDurationCanBeShortenedAndExtended(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, consumer := openClients(t, access, 1)
		for _, body := range []string{"sooner", "later"} {
			send(t, producer, newMessage(topic, body))
		}
		held := map[string]*rmq.MessageView{}
		for _, message := range hold(t, consumer, 2, patience) {
			held[string(message.GetBody())] = message
		}
		received := time.Now()
		later := held["later"]
		handle := later.GetReceiptHandle()
		ok(t, consumer.ChangeInvisibleDuration(later, 30*time.Second))
		if later.GetReceiptHandle() == "" || later.GetReceiptHandle() == handle {
			t.Errorf("the handle after the change is %q", later.GetReceiptHandle())
		}
		ok(t, consumer.ChangeInvisibleDuration(held["sooner"], time.Second))
		again := receiveOne(t, consumer)
		equal(t, "sooner", string(again.GetBody()))
		equal(t, 2, again.GetDeliveryAttempt())
		if time.Since(received) > invisible-time.Second {
			t.Errorf("it came back after %v", time.Since(received))
		}
		// The extended one stays away beyond the duration that it was received with, and its new handle is good.
		expectNothing(t, consumer, invisible+3*time.Second)
		ok(t, consumer.ChangeInvisibleDuration(later, time.Second))
		equal(t, "later", string(receiveOne(t, consumer).GetBody()))
	})
}
