package sdk

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Answers check-backs in turn, the last answer for ever; remembers what it was asked about.
type checker struct {
	lock    sync.Mutex
	answers []rmq.TransactionResolution
	heard   []string
}

func answering(answers ...rmq.TransactionResolution) *checker { return &checker{answers: answers} }

func (c *checker) check(message *rmq.MessageView) rmq.TransactionResolution {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.heard = append(c.heard, string(message.GetBody()))
	return c.answers[min(len(c.heard), len(c.answers))-1]
}

func (c *checker) asked() []string {
	c.lock.Lock()
	defer c.lock.Unlock()
	return slices.Clone(c.heard)
}

type desk struct {
	endpoint, topic string
	consumer        rmq.SimpleConsumer
}

func openDesk(t *testing.T, access string) *desk {
	t.Helper()
	endpoint, topic := shared().endpoints[access], shared().topic(t, "TRANSACTION", 1)
	return &desk{endpoint, topic, startSimple(t, endpoint, topic, shared().group(t), rmq.SUB_ALL)}
}

func (d *desk) producer(t *testing.T, checker *checker) rmq.Producer {
	t.Helper()
	return startProducer(t, d.endpoint, d.topic,
		rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: checker.check}))
}

func sendHalf(t *testing.T, producer rmq.Producer, message *rmq.Message) rmq.Transaction {
	t.Helper()
	transaction := producer.BeginTransaction()
	_, err := producer.SendWithTransaction(context.Background(), message, transaction)
	ok(t, err)
	return transaction
}

func TestACommittedMessageIsDeliveredOnce(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		desk, checker := openDesk(t, access), answering(rmq.UNKNOWN)
		message := newMessage(desk.topic, "order-1")
		message.SetTag("paid")
		message.SetKeys("k")
		message.AddProperty("city", "Zürich")
		transaction := sendHalf(t, desk.producer(t, checker), message)
		expectNothing(t, desk.consumer, time.Second)
		ok(t, transaction.Commit())
		ok(t, transaction.Commit()) // Repeating a decision is no error and makes no second message.
		got := receiveOne(t, desk.consumer)
		asked := len(checker.asked())
		equal(t, "order-1", string(got.GetBody()))
		equal(t, "paid", *got.GetTag())
		equal(t, []string{"k"}, got.GetKeys())
		equal(t, map[string]string{"city": "Zürich"}, got.GetProperties())
		equal(t, 1, got.GetDeliveryAttempt())
		expectNothing(t, desk.consumer, 4*time.Second)
		equal(t, asked, len(checker.asked())) // A decided transaction must not be checked back.
	})
}

func TestARolledBackMessageIsNeverDelivered(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		desk, checker := openDesk(t, access), answering(rmq.COMMIT)
		transaction := sendHalf(t, desk.producer(t, checker), newMessage(desk.topic, "order-2"))
		ok(t, transaction.RollBack())
		ok(t, transaction.RollBack())
		expectNothing(t, desk.consumer, 6*time.Second)
		equal(t, 0, len(checker.asked())) // A decided transaction must not be checked back.
	})
}

func TestCheckBackCommitsAnUndecidedTransaction(t *testing.T) {
	checkBack(t, rmq.COMMIT, 1)
}

func TestCheckBackRollsBackAnUndecidedTransaction(t *testing.T) {
	checkBack(t, rmq.ROLLBACK, 0)
}

func checkBack(t *testing.T, answer rmq.TransactionResolution, delivered int) {
	t.Helper()
	eachAccessPoint(t, func(t *testing.T, access string) {
		desk, checker := openDesk(t, access), answering(rmq.UNKNOWN, answer)
		sendHalf(t, desk.producer(t, checker), newMessage(desk.topic, "order-3"))
		equal(t, delivered, len(receiveWithin(t, desk.consumer, 1, 12*time.Second)))
		equal(t, []string{"order-3", "order-3"}, checker.asked())
		expectNothing(t, desk.consumer, 5*time.Second)
		equal(t, 2, len(checker.asked())) // A settled transaction must not be checked back again.
	})
}

func TestAnotherProducerIsAskedWhenTheFirstOneIsGone(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		desk := openDesk(t, access)
		gone := desk.producer(t, answering(rmq.UNKNOWN))
		sendHalf(t, gone, newMessage(desk.topic, "order-4"))
		ok(t, gone.GracefulStop())
		checker := answering(rmq.COMMIT)
		desk.producer(t, checker)
		equal(t, "order-4", string(receiveOne(t, desk.consumer).GetBody()))
		if len(checker.asked()) == 0 {
			t.Error("the second producer was not asked")
		}
		expectNothing(t, desk.consumer, 4*time.Second)
	})
}
