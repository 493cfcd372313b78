package sdk

import (
	"fmt"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

func sendPriority(t *testing.T, producer rmq.Producer, topic string, priority int32) {
	t.Helper()
	message := newMessage(topic, fmt.Sprintf("of %d", priority))
	ok(t, message.SetPriority(priority))
	send(t, producer, message)
}

func TestTheHighestPriorityComesFirst(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "PRIORITY", 3)
		producer := startProducer(t, endpoint, topic)
		for _, priority := range []int32{1, 0, 2, 1, 0, 2} {
			sendPriority(t, producer, topic, priority)
		}
		consumer := startSimple(t, endpoint, topic, shared().group(t), rmq.SUB_ALL)
		equal(t, []string{"of 2", "of 2", "of 1", "of 1", "of 0", "of 0"}, bodies(receive(t, consumer, 6)))
	})
}

func TestAPushConsumerGetsEveryPriorityAndFailuresAgain(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "PRIORITY", 3)
		producer := startProducer(t, endpoint, topic)
		heard := failing(func(body string, attempt int32) bool { return body == "of 2" && attempt == 1 })
		startPush(t, endpoint, topic, shared().group(t), rmq.SUB_ALL, heard)
		for priority := range int32(3) {
			sendPriority(t, producer, topic, priority)
		}
		heard.waitFor(t, 4, 40*time.Second)
		equal(t, []string{"of 0 1", "of 1 1", "of 2 1", "of 2 2"}, sorted(heard.got()))
	})
}
