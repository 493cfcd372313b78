package sdk

import (
	"context"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

func sendLater(t *testing.T, producer rmq.Producer, topic, body string, delay time.Duration) *rmq.SendReceipt {
	t.Helper()
	message := newMessage(topic, body)
	message.SetDelayTimestamp(time.Now().Add(delay))
	return send(t, producer, message)
}

func TestScheduledMessagesComeInTheOrderOfTheirTimes(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "DELAY", 1)
		producer := startProducer(t, endpoint, topic)
		consumer := startSimple(t, endpoint, topic, shared().group(t), rmq.SUB_ALL)
		for _, sent := range []struct {
			body  string
			delay time.Duration
		}{{"late", 5 * time.Second}, {"soon", 2500 * time.Millisecond}, {"past", -time.Minute}} {
			receipt := sendLater(t, producer, topic, sent.body, sent.delay)
			equal(t, sent.delay > 0, receipt.RecallHandle != "")
		}
		for _, body := range []string{"past", "soon", "late"} {
			message := receiveOne(t, consumer)
			equal(t, body, string(message.GetBody()))
			if time.Now().Before(*message.GetDeliveryTimestamp()) {
				t.Errorf("%s came early", body)
			}
		}
		expectNothing(t, consumer, 2*time.Second)
	})
}

func TestAScheduledMessageIsPushedInItsTime(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic, heard := shared().endpoints[access], shared().topic(t, "DELAY", 1), newRecorder()
		startPush(t, endpoint, topic, shared().group(t), rmq.SUB_ALL, heard)
		producer := startProducer(t, endpoint, topic)
		due := time.Now().Add(3 * time.Second).Truncate(time.Millisecond)
		message := newMessage(topic, "later")
		message.SetDelayTimestamp(due)
		send(t, producer, message)
		heard.waitFor(t, 1, 30*time.Second)
		if time.Now().Before(due) {
			t.Error("it came early")
		}
		time.Sleep(2 * time.Second)
		equal(t, []string{"later 1"}, heard.got())
	})
}

func TestARecalledMessageNeverComes(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "DELAY", 1)
		producer := startProducer(t, endpoint, topic)
		consumer := startSimple(t, endpoint, topic, shared().group(t), rmq.SUB_ALL)
		delivered := sendLater(t, producer, topic, "delivered", time.Second)
		recalled := sendLater(t, producer, topic, "recalled", 6*time.Second)
		id, err := producer.Recall(context.Background(), topic, recalled.RecallHandle)
		ok(t, err)
		equal(t, recalled.MessageID, id)
		equal(t, "delivered", string(receiveOne(t, consumer).GetBody()))
		for handle, reason := range map[string]string{
			recalled.RecallHandle:  "recalled before",
			delivered.RecallHandle: "delivered before",
			"nonsense":             "recall handle",
		} {
			_, err := producer.Recall(context.Background(), topic, handle)
			mentions(t, err, reason)
		}
		expectNothing(t, consumer, 7*time.Second)
	})
}
