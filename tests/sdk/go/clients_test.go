package sdk

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	// The shortest that a simple consumer may ask for.
	invisible = 10 * time.Second
	// How long a receive waits for messages.
	poll = time.Second
	// How long a test waits for messages that must come.
	patience = 20 * time.Second
	// How many messages a receive asks for.
	batch = 32
)

func newProducer(endpoint, topic string, options ...rmq.ProducerOption) (rmq.Producer, error) {
	options = append(options, rmq.WithTopics(topic))
	producer, err := rmq.NewProducer(&rmq.Config{Endpoint: endpoint}, options...)
	if err != nil {
		return nil, err
	}
	return producer, producer.Start()
}

func startProducer(t *testing.T, endpoint, topic string, options ...rmq.ProducerOption) rmq.Producer {
	t.Helper()
	producer, err := newProducer(endpoint, topic, options...)
	ok(t, err)
	return producer
}

func newSimple(endpoint, topic, group string, filter *rmq.FilterExpression) (rmq.SimpleConsumer, error) {
	consumer, err := rmq.NewSimpleConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group},
		rmq.WithSimpleAwaitDuration(poll),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: filter}),
	)
	if err != nil {
		return nil, err
	}
	return consumer, consumer.Start()
}

func startSimple(t *testing.T, endpoint, topic, group string, filter *rmq.FilterExpression) rmq.SimpleConsumer {
	t.Helper()
	consumer, err := newSimple(endpoint, topic, group, filter)
	ok(t, err)
	return consumer
}

func startPush(t *testing.T, endpoint, topic, group string, filter *rmq.FilterExpression, heard *recorder) {
	t.Helper()
	consumer, err := rmq.NewPushConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group},
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: filter}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: heard.consume}),
	)
	ok(t, err)
	ok(t, consumer.Start())
}

func startLite(t *testing.T, endpoint, topic, group string, heard *recorder) rmq.LitePushConsumer {
	t.Helper()
	consumer, err := rmq.NewLitePushConsumer(
		&rmq.Config{Endpoint: endpoint, ConsumerGroup: group},
		rmq.NewLitePushConsumerConfig(topic, invisible),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: heard.consume}),
	)
	ok(t, err)
	ok(t, consumer.Start())
	return consumer
}

func newMessage(topic, body string) *rmq.Message {
	return &rmq.Message{Topic: topic, Body: []byte(body)}
}

func trySend(producer rmq.Producer, message *rmq.Message) (*rmq.SendReceipt, error) {
	receipts, err := producer.Send(context.Background(), message)
	if err != nil {
		return nil, err
	}
	if len(receipts) != 1 {
		return nil, fmt.Errorf("%d receipts for one message", len(receipts))
	}
	return receipts[0], nil
}

func send(t *testing.T, producer rmq.Producer, message *rmq.Message) *rmq.SendReceipt {
	t.Helper()
	receipt, err := trySend(producer, message)
	ok(t, err)
	return receipt
}

// One receive. The SDK makes an error of it when nothing came.
func receiveOnce(t *testing.T, consumer rmq.SimpleConsumer, count int32) []*rmq.MessageView {
	t.Helper()
	messages, err := consumer.Receive(context.Background(), count, invisible)
	if code(err) == v2.Code_MESSAGE_NOT_FOUND {
		return nil
	}
	ok(t, err)
	return messages
}

// Receives until that many messages came or time is up.
func hold(t *testing.T, consumer rmq.SimpleConsumer, count int, within time.Duration) []*rmq.MessageView {
	t.Helper()
	var got []*rmq.MessageView
	for deadline := time.Now().Add(within); len(got) < count && time.Now().Before(deadline); {
		got = append(got, receiveOnce(t, consumer, batch)...)
	}
	return got
}

// Receives until that many messages came or time is up, and acknowledges them.
func receiveWithin(t *testing.T, consumer rmq.SimpleConsumer, count int, within time.Duration) []*rmq.MessageView {
	t.Helper()
	got := hold(t, consumer, count, within)
	for _, message := range got {
		ok(t, consumer.Ack(context.Background(), message))
	}
	return got
}

// Receives and acknowledges that many messages.
func receive(t *testing.T, consumer rmq.SimpleConsumer, count int) []*rmq.MessageView {
	t.Helper()
	got := receiveWithin(t, consumer, count, patience)
	if len(got) < count {
		t.Fatalf("only %v came, not %d", bodies(got), count)
	}
	return got
}

func receiveOne(t *testing.T, consumer rmq.SimpleConsumer) *rmq.MessageView {
	t.Helper()
	return receive(t, consumer, 1)[0]
}

// Polls for a while; nothing may come.
func expectNothing(t *testing.T, consumer rmq.SimpleConsumer, within time.Duration) {
	t.Helper()
	if got := hold(t, consumer, 1, within); len(got) > 0 {
		t.Fatalf("%v came, and nothing should", bodies(got))
	}
}

func bodies(messages []*rmq.MessageView) []string {
	var texts []string
	for _, message := range messages {
		texts = append(texts, string(message.GetBody()))
	}
	return texts
}

func numbered(count int, prefix string) []string {
	var texts []string
	for number := range count {
		texts = append(texts, fmt.Sprintf("%s-%02d", prefix, number))
	}
	return texts
}

func sorted(texts []string) []string { return slices.Sorted(slices.Values(texts)) }

// The status code that a server refused a call with.
func code(err error) v2.Code {
	var refused *rmq.ErrRpcStatus
	if errors.As(err, &refused) {
		return v2.Code(refused.Code)
	}
	return v2.Code_CODE_UNSPECIFIED
}

func refusedWith(t *testing.T, expected v2.Code, err error) {
	t.Helper()
	if code(err) != expected {
		t.Errorf("refused with %v, not with %v", err, expected)
	}
}

func mentions(t *testing.T, err error, word string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), word) {
		t.Errorf("%q is not in the error %v", word, err)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, expected, got T) {
	t.Helper()
	if !reflect.DeepEqual(expected, got) {
		t.Fatalf("expected %v, got %v", expected, got)
	}
}

// Waits until the condition holds.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", within, what)
		}
	}
}

// A message listener that remembers what came, and answers what it is told to.
type recorder struct {
	lock   sync.Mutex
	heard  []string
	answer func(body string, attempt int32) rmq.ConsumerResult
}

func newRecorder() *recorder { return failing(func(string, int32) bool { return false }) }

// Fails the bodies and attempts for which the condition holds.
func failing(fails func(body string, attempt int32) bool) *recorder {
	return &recorder{answer: func(body string, attempt int32) rmq.ConsumerResult {
		if fails(body, attempt) {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	}}
}

func (r *recorder) consume(message *rmq.MessageView) rmq.ConsumerResult {
	r.lock.Lock()
	defer r.lock.Unlock()
	body, attempt := string(message.GetBody()), message.GetDeliveryAttempt()
	r.heard = append(r.heard, fmt.Sprintf("%s %d", body, attempt))
	return r.answer(body, attempt)
}

// BODY ATTEMPT of each delivery in the order that they came.
func (r *recorder) got() []string {
	r.lock.Lock()
	defer r.lock.Unlock()
	return slices.Clone(r.heard)
}

// The bodies that begin with a prefix, in the order that they came.
func (r *recorder) bodies(prefix string) []string {
	var texts []string
	for _, each := range r.got() {
		if body := each[:strings.LastIndex(each, " ")]; strings.HasPrefix(body, prefix) {
			texts = append(texts, body)
		}
	}
	return texts
}

func (r *recorder) waitFor(t *testing.T, count int, within time.Duration) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%d messages were pushed", count), func() bool { return len(r.got()) >= count })
}
