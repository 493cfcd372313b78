package sdk

import (
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

func TestAPushConsumerGetsEverythingAndFailuresAgain(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", 4)
		heard := failing(func(body string, attempt int32) bool { return body == "message-03" && attempt == 1 })
		startPush(t, endpoint, topic, shared().group(t), rmq.SUB_ALL, heard)
		producer := startProducer(t, endpoint, topic)
		sent := numbered(20, "message")
		var expected []string
		for _, body := range sent {
			send(t, producer, newMessage(topic, body))
			expected = append(expected, body+" 1")
		}
		heard.waitFor(t, len(sent)+1, 40*time.Second)
		time.Sleep(2 * time.Second)
		equal(t, sorted(append(expected, "message-03 2")), sorted(heard.got()))
	})
}

func TestTwoPushConsumersOfAGroupShareItsMessages(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic, group := shared().endpoints[access], shared().topic(t, "NORMAL", 4), shared().group(t)
		one, other := newRecorder(), newRecorder()
		startPush(t, endpoint, topic, group, rmq.SUB_ALL, one)
		startPush(t, endpoint, topic, group, rmq.SUB_ALL, other)
		producer := startProducer(t, endpoint, topic)
		sent := numbered(40, "message")
		for _, body := range sent {
			send(t, producer, newMessage(topic, body))
		}
		all := func() []string { return append(one.bodies(""), other.bodies("")...) }
		eventually(t, patience, "every message was pushed", func() bool { return len(all()) >= len(sent) })
		time.Sleep(2 * time.Second)
		equal(t, sent, sorted(all()))
	})
}

func TestWhatFailsEveryTimeBecomesADeadLetter(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", 1)
		group := shared().group(t, "-r", "1", "--attributes", "+retry.backoff=1s")
		heard := failing(func(body string, _ int32) bool { return body == "poison" })
		startPush(t, endpoint, topic, group, rmq.SUB_ALL, heard)
		producer := startProducer(t, endpoint, topic)
		poison := newMessage(topic, "poison")
		poison.SetTag("bad")
		poison.SetKeys("order-1")
		send(t, producer, poison)
		send(t, producer, newMessage(topic, "sound"))

		deadLetters := "%DLQ%" + group
		shared().waitForRoute(t, deadLetters, 60*time.Second)
		undertaker := startSimple(t, endpoint, deadLetters, shared().group(t), rmq.SUB_ALL)
		dead := receiveOne(t, undertaker)
		equal(t, "poison", string(dead.GetBody()))
		equal(t, "bad", *dead.GetTag())
		equal(t, []string{"order-1"}, dead.GetKeys())
		time.Sleep(2 * time.Second)
		equal(t, []string{"poison 1", "poison 2", "sound 1"}, sorted(heard.got()))
		expectNothing(t, undertaker, 2*time.Second)
	})
}
