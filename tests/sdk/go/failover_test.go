package sdk

import (
	"fmt"
	"slices"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const groupMembers = 3

// Sends one message after the other until it is ended.
type sending struct {
	ending, ended        chan struct{}
	acknowledged, failed []string
}

func startSending(producer rmq.Producer, topic string) *sending {
	s := &sending{ending: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for number := 0; ; number++ {
			select {
			case <-s.ending:
				return
			case <-time.After(10 * time.Millisecond):
			}
			body := fmt.Sprintf("message-%d", number)
			if _, err := trySend(producer, newMessage(topic, body)); err != nil {
				s.failed = append(s.failed, fmt.Sprintf("%s: %v", body, err))
			} else {
				s.acknowledged = append(s.acknowledged, body)
			}
		}
	}()
	return s
}

// What was acknowledged; nothing may have failed.
func (s *sending) end(t *testing.T) []string {
	t.Helper()
	close(s.ending)
	<-s.ended
	equal(t, nil, s.failed)
	return s.acknowledged
}

// Sends while the cluster is hurt, and a moment longer: no send fails, and what was acknowledged arrives.
func survives(t *testing.T, hurt func(c *cluster)) {
	t.Helper()
	counted(t)
	cluster, heard := startGroup(groupMembers), newRecorder()
	endpoint, topic := cluster.endpoints[nameserver], cluster.topic(t, "NORMAL", 1)
	startPush(t, endpoint, topic, cluster.group(t), rmq.SUB_ALL, heard)
	sending := startSending(startProducer(t, endpoint, topic), topic)
	time.Sleep(time.Second)
	hurt(cluster)
	time.Sleep(time.Second)
	acknowledged := sorted(sending.end(t))
	eventually(t, time.Minute, fmt.Sprintf("all of %d acknowledged messages arrived", len(acknowledged)), func() bool {
		return slices.Equal(acknowledged, slices.Compact(sorted(heard.bodies(""))))
	})
}

func TestAKilledMasterCostsNoMessageAndNoFailedSend(t *testing.T) {
	survives(t, func(c *cluster) {
		c.kill(master)
		c.waitForInSync()
	})
}

func TestARollingRestartFailsNoSend(t *testing.T) {
	survives(t, func(c *cluster) { c.restartInTurn() })
}

func TestATransactionOutlivesItsMaster(t *testing.T) {
	counted(t)
	cluster := startGroup(groupMembers)
	endpoint, topic := cluster.endpoints[nameserver], cluster.topic(t, "TRANSACTION", 1)
	consumer := startSimple(t, endpoint, topic, cluster.group(t), rmq.SUB_ALL)
	checker := answering(rmq.COMMIT)
	producer := startProducer(t, endpoint, topic,
		rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: checker.check}))
	decided := sendHalf(t, producer, newMessage(topic, "decided"))
	sendHalf(t, producer, newMessage(topic, "asked"))
	cluster.kill(master)
	ok(t, decided.Commit())
	equal(t, []string{"asked", "decided"}, sorted(bodies(receive(t, consumer, 2))))
	equal(t, []string{"asked"}, checker.asked())
}
