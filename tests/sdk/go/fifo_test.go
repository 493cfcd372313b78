package sdk

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

type order struct {
	endpoint, topic, group string
	producer               rmq.Producer
}

// A topic and a group that consumes in order.
func openOrder(t *testing.T, access string, options ...string) *order {
	t.Helper()
	endpoint, topic := shared().endpoints[access], shared().topic(t, "FIFO", 4)
	group := shared().group(t, append([]string{"-o", "true"}, options...)...)
	return &order{endpoint, topic, group, startProducer(t, endpoint, topic)}
}

func (o *order) send(messageGroup string, bodies []string) error {
	for _, body := range bodies {
		message := newMessage(o.topic, body)
		message.SetMessageGroup(messageGroup)
		if _, err := trySend(o.producer, message); err != nil {
			return err
		}
	}
	return nil
}

func TestMessagesOfAMessageGroupArePushedInOrder(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		order, heard := openOrder(t, access), newRecorder()
		startPush(t, order.endpoint, order.topic, order.group, rmq.SUB_ALL, heard)
		groups := []string{"a", "b", "c"}
		failures := make(chan error, len(groups))
		var sending sync.WaitGroup
		for _, name := range groups {
			sending.Add(1)
			go func() {
				defer sending.Done()
				failures <- order.send(name, numbered(15, name))
			}()
		}
		sending.Wait()
		for range groups {
			ok(t, <-failures)
		}
		heard.waitFor(t, 45, 30*time.Second)
		time.Sleep(time.Second)
		for _, name := range groups {
			equal(t, numbered(15, name), heard.bodies(name))
		}
		equal(t, 45, len(heard.got()))
	})
}

// The SDK goes on with its batch while a failed message waits for its next attempt: only the server keeps the order,
// between batches.
func TestAnOrderedMessageThatFailedComesAgain(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		order := openOrder(t, access, "--attributes", "+retry.backoff=1s/2s")
		heard := failing(func(body string, attempt int32) bool { return body == "message-01" && attempt < 3 })
		startPush(t, order.endpoint, order.topic, order.group, rmq.SUB_ALL, heard)
		ok(t, order.send("orders", numbered(4, "message")))
		heard.waitFor(t, 6, 30*time.Second)
		time.Sleep(time.Second)
		equal(t, []string{"message-00 1", "message-01 1", "message-01 2", "message-01 3", "message-02 1", "message-03 1"},
			sorted(heard.got()))
		var attempts []string
		for _, each := range heard.got() {
			if strings.HasPrefix(each, "message-01") {
				attempts = append(attempts, each)
			}
		}
		equal(t, []string{"message-01 1", "message-01 2", "message-01 3"}, attempts)
	})
}

func TestAnOrderedMessageThatFailsEveryTimeBecomesADeadLetter(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		order := openOrder(t, access, "-r", "1", "--attributes", "+retry.backoff=1s")
		heard := failing(func(body string, _ int32) bool { return body == "message-01" })
		startPush(t, order.endpoint, order.topic, order.group, rmq.SUB_ALL, heard)
		ok(t, order.send("orders", numbered(3, "message")))
		heard.waitFor(t, 4, 30*time.Second)
		deadLetters := "%DLQ%" + order.group
		shared().waitForRoute(t, deadLetters, 15*time.Second)
		undertaker := startSimple(t, order.endpoint, deadLetters, shared().group(t), rmq.SUB_ALL)
		equal(t, "message-01", string(receiveOne(t, undertaker).GetBody()))
		equal(t, []string{"message-00 1", "message-01 1", "message-01 2", "message-02 1"}, sorted(heard.got()))
	})
}

func TestASimpleConsumerGetsTheNextMessageOfAMessageGroupAfterTheAcknowledgement(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		order, sent := openOrder(t, access), numbered(3, "message")
		ok(t, order.send("orders", sent))
		consumer := startSimple(t, order.endpoint, order.topic, order.group, rmq.SUB_ALL)
		for _, body := range sent {
			var got []*rmq.MessageView
			eventually(t, patience, body+" came", func() bool {
				got = receiveOnce(t, consumer, 1)
				return len(got) > 0
			})
			equal(t, []string{body}, bodies(got))
			equal(t, "orders", *got[0].GetMessageGroup())
			// The others stay back while it is out.
			expectNothing(t, consumer, 4*time.Second)
			ok(t, consumer.Ack(context.Background(), got[0]))
		}
	})
}
