package sdk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const mib = 1024 * 1024

func TestATopicThatDoesNotExist(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		_, err := newProducer(shared().endpoints[access], "no-such-topic")
		mentions(t, err, "TOPIC_NOT_FOUND")
	})
}

// The route tells the SDK the type of a topic.
func TestAMessageOfAnotherTypeThanItsTopicIsRefusedByTheSDK(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", 1)
		producer := startProducer(t, endpoint, topic)
		ordered, scheduled, urgent, light := newMessage(topic, "x"), newMessage(topic, "x"), newMessage(topic, "x"),
			newMessage(topic, "x")
		ordered.SetMessageGroup("a")
		scheduled.SetDelayTimestamp(time.Now().Add(time.Minute))
		ok(t, urgent.SetPriority(1))
		light.SetLiteTopic("a")
		for _, message := range []*rmq.Message{ordered, scheduled, urgent, light} {
			_, err := trySend(producer, message)
			mentions(t, err, "message type not match")
		}
		_, err := producer.SendWithTransaction(context.Background(), newMessage(topic, "half"),
			producer.BeginTransaction())
		mentions(t, err, "message type not match")
	})
}

func TestTheLargestBodyGoesThrough(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, consumer := openClients(t, access, 1)
		body := strings.Repeat("x", 4*mib)
		send(t, producer, newMessage(topic, body))
		equal(t, true, string(receiveOne(t, consumer).GetBody()) == body)
		// The settings tell the SDK the limit.
		_, err := trySend(producer, newMessage(topic, body+"x"))
		mentions(t, err, "exceeds the threshold")
	})
}

func TestBadMessagesAreRefused(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, producer, consumer := openClients(t, access, 1)
		for _, bad := range []struct {
			expected v2.Code
			spoil    func(message *rmq.Message)
		}{
			{v2.Code_MESSAGE_BODY_EMPTY, func(m *rmq.Message) { m.Body = nil }},
			{v2.Code_ILLEGAL_MESSAGE_TAG, func(m *rmq.Message) { m.SetTag(" ") }},
			{v2.Code_ILLEGAL_MESSAGE_TAG, func(m *rmq.Message) { m.SetTag("a|b") }},
			{v2.Code_ILLEGAL_MESSAGE_TAG, func(m *rmq.Message) { m.SetTag("a\nb") }},
			{v2.Code_ILLEGAL_MESSAGE_KEY, func(m *rmq.Message) { m.SetKeys("sound", " ") }},
			{v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, func(m *rmq.Message) { m.AddProperty("a\nb", "c") }},
			{v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, func(m *rmq.Message) { m.AddProperty("UNIQ_KEY", "x") }},
			{v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, func(m *rmq.Message) { m.AddProperty("a", strings.Repeat("v", 17_000)) }},
			{v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, func(m *rmq.Message) {
				for _, key := range numbered(129, "key") {
					m.AddProperty(key, "value")
				}
			}},
		} {
			message := newMessage(topic, "x")
			bad.spoil(message)
			_, err := trySend(producer, message)
			refusedWith(t, bad.expected, err)
		}
		send(t, producer, newMessage(topic, "sound"))
		equal(t, "sound", string(receiveOne(t, consumer).GetBody()))
		expectNothing(t, consumer, time.Second)
	})
}

func TestBadMessageGroupsAndTimesAreRefused(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, fifo, delay := shared().endpoints[access], shared().topic(t, "FIFO", 1), shared().topic(t, "DELAY", 1)
		ordered := startProducer(t, endpoint, fifo)
		for _, group := range []string{" ", strings.Repeat("g", 65)} {
			message := newMessage(fifo, "x")
			message.SetMessageGroup(group)
			_, err := trySend(ordered, message)
			refusedWith(t, v2.Code_ILLEGAL_MESSAGE_GROUP, err)
		}
		never := newMessage(delay, "x")
		never.SetDelayTimestamp(time.Now().AddDate(100, 0, 0))
		_, err := trySend(startProducer(t, endpoint, delay), never)
		refusedWith(t, v2.Code_ILLEGAL_DELIVERY_TIME, err)
		consumer := startSimple(t, endpoint, delay, shared().group(t), rmq.SUB_ALL)
		for _, duration := range []time.Duration{time.Second, 13 * time.Hour} {
			_, err := consumer.Receive(context.Background(), 1, duration)
			refusedWith(t, v2.Code_ILLEGAL_INVISIBLE_TIME, err)
		}
	})
}

// It accepts every certificate, also those that the servers make for themselves.
func TestTheSDKSpeaksTLSByDefault(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		topic, group := shared().topic(t, "NORMAL", 1), shared().group(t)
		arguments := fmt.Sprint(shared().endpoints[access], " ", topic, " ", group)
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), tlsClient+"="+arguments)
		output, err := child.CombinedOutput()
		if err != nil || string(output) != "received encrypted\n" {
			t.Fatalf("%v: %s", err, output)
		}
	})
}

// Sends a message and receives it over TLS; the exit code of a process of its own.
func runTLSClient(arguments []string) int {
	endpoint, topic, group := arguments[0], arguments[1], arguments[2]
	producer, err := newProducer(endpoint, topic)
	must(err)
	_, err = trySend(producer, newMessage(topic, "encrypted"))
	must(err)
	consumer, err := newSimple(endpoint, topic, group, rmq.SUB_ALL)
	must(err)
	messages, err := consumer.Receive(context.Background(), 1, invisible)
	must(err)
	for _, message := range messages {
		must(consumer.Ack(context.Background(), message))
		fmt.Println("received", string(message.GetBody()))
	}
	return 0
}
