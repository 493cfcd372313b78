package sdk

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

func trySendLite(producer rmq.Producer, topic, liteTopic, body string) error {
	message := newMessage(topic, body)
	message.SetLiteTopic(liteTopic)
	_, err := trySend(producer, message)
	return err
}

func sendLite(t *testing.T, producer rmq.Producer, topic, liteTopic, body string) {
	t.Helper()
	ok(t, trySendLite(producer, topic, liteTopic, body))
}

// What came of a lite topic: the SDK sends to all broker groups in turn, and each keeps the order for itself.
func inOrder(bodies []string) []string {
	if groups := os.Getenv("KEROLOX_SDK_GROUPS"); groups == "" || groups == "1" {
		return bodies
	}
	return slices.Sorted(slices.Values(bodies))
}

func TestALitePushConsumerGetsTheLiteTopicsThatItSubscribesToInOrder(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic, heard := shared().endpoints[access], shared().topic(t, "LITE", 1), newRecorder()
		producer := startProducer(t, endpoint, topic)
		consumer := startLite(t, endpoint, topic, shared().group(t), heard)
		for _, name := range []string{"a", "b"} {
			ok(t, consumer.SubscribeLite(name))
		}
		for number := range 3 {
			for _, name := range []string{"a", "b", "other"} {
				sendLite(t, producer, topic, name, fmt.Sprint(name, number))
			}
		}
		heard.waitFor(t, 6, 30*time.Second)
		time.Sleep(time.Second)
		equal(t, []string{"a0", "a1", "a2"}, inOrder(heard.bodies("a")))
		equal(t, []string{"b0", "b1", "b2"}, inOrder(heard.bodies("b")))
		equal(t, 6, len(heard.got()))

		ok(t, consumer.UnSubscribeLite("b"))
		sendLite(t, producer, topic, "b", "b3")
		sendLite(t, producer, topic, "a", "a3")
		eventually(t, patience, "the other lite topic goes on",
			func() bool { return slices.Contains(heard.bodies("a"), "a3") })
		time.Sleep(3 * time.Second)
		equal(t, []string{"b0", "b1", "b2"}, inOrder(heard.bodies("b")))
		// Where it left off: what was sent meanwhile comes, what was consumed does not.
		ok(t, consumer.SubscribeLite("b"))
		eventually(t, patience, "what was sent meanwhile comes",
			func() bool { return slices.Contains(heard.bodies("b"), "b3") })
		equal(t, []string{"b0", "b1", "b2", "b3"}, inOrder(heard.bodies("b")))
	})
}

func TestASuspendedLiteTopicGoesOnInOrder(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "LITE", 1)
		heard, suspended := newRecorder(), false
		heard.answer = func(body string, _ int32) rmq.ConsumerResult {
			if body == "a1" && !suspended {
				suspended = true
				return rmq.NewConsumerResultSuspend(2 * time.Second)
			}
			return rmq.SUCCESS
		}
		producer := startProducer(t, endpoint, topic)
		for number := range 4 {
			sendLite(t, producer, topic, "a", fmt.Sprint("a", number))
		}
		consumer := startLite(t, endpoint, topic, shared().group(t), heard)
		ok(t, consumer.SubscribeLite("a"))
		heard.waitFor(t, 5, 30*time.Second)
		time.Sleep(time.Second)
		equal(t, []string{"a0", "a1", "a1", "a2", "a3"}, heard.bodies("a"))
	})
}

func TestTwoLiteConsumersOfAGroupEachGetTheirOwnLiteTopics(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic, group := shared().endpoints[access], shared().topic(t, "LITE", 1), shared().group(t)
		producer := startProducer(t, endpoint, topic)
		heard := map[string]*recorder{"one": newRecorder(), "other": newRecorder()}
		for name, recorder := range heard {
			consumer := startLite(t, endpoint, topic, group, recorder)
			for _, session := range numbered(10, name) {
				ok(t, consumer.SubscribeLite(session))
				sendLite(t, producer, topic, session, session)
			}
		}
		for name, recorder := range heard {
			recorder.waitFor(t, 10, patience)
			equal(t, numbered(10, name), sorted(recorder.bodies("")))
		}
	})
}

func TestAMessageOfALiteTopicThatFailsEveryTimeBecomesADeadLetter(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "LITE", 1)
		group := shared().group(t, "-r", "1", "--attributes", "+retry.backoff=1s")
		producer := startProducer(t, endpoint, topic)
		heard := failing(func(body string, _ int32) bool { return body == "bad" })
		ok(t, startLite(t, endpoint, topic, group, heard).SubscribeLite("a"))
		sendLite(t, producer, topic, "a", "bad")
		sendLite(t, producer, topic, "a", "good")
		heard.waitFor(t, 3, 40*time.Second)
		shared().waitForRoute(t, "%DLQ%"+group, 15*time.Second)
		undertaker := startSimple(t, endpoint, "%DLQ%"+group, shared().group(t), rmq.SUB_ALL)
		dead := receiveOne(t, undertaker)
		equal(t, "bad", string(dead.GetBody()))
		equal(t, "a", dead.GetLiteTopic())
		equal(t, []string{"bad 1", "bad 2", "good 1"}, sorted(heard.got()))
	})
}

func TestLiteTopicsThatCannotBeAreRefused(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "LITE", 1)
		producer := startProducer(t, endpoint, topic)
		group := shared().group(t, "--attributes", "+lite.sub.client.quota=1")
		consumer := startLite(t, endpoint, topic, group, newRecorder())
		for _, name := range []string{"no good name", "", strings.Repeat("n", 65)} {
			refusedWith(t, v2.Code_ILLEGAL_LITE_TOPIC, trySendLite(producer, topic, name, "x"))
			refusedWith(t, v2.Code_ILLEGAL_LITE_TOPIC, consumer.SubscribeLite(name))
		}
		ok(t, consumer.SubscribeLite("a"))
		refusedWith(t, v2.Code_LITE_SUBSCRIPTION_QUOTA_EXCEEDED, consumer.SubscribeLite("b"))

		ordinary := shared().topic(t, "NORMAL", 1)
		bound := startLite(t, endpoint, ordinary, shared().group(t), newRecorder())
		refusedWith(t, v2.Code_ILLEGAL_TOPIC, bound.SubscribeLite("a"))
	})
}

func TestTheQuotasOfABrokerAreTold(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		cluster := startCluster("KEROLOX_BROKER__LITE__MAX_TOPICS=2", "KEROLOX_BROKER__LITE__MAX_SUBSCRIPTIONS=1")
		endpoint, topic := cluster.endpoints[access], cluster.topic(t, "LITE", 1)
		producer := startProducer(t, endpoint, topic)
		for _, name := range []string{"a", "b", "a"} {
			sendLite(t, producer, topic, name, "x")
		}
		refusedWith(t, v2.Code_LITE_TOPIC_QUOTA_EXCEEDED, trySendLite(producer, topic, "c", "x"))
		consumer := startLite(t, endpoint, topic, cluster.group(t), newRecorder())
		ok(t, consumer.SubscribeLite("a"))
		refusedWith(t, v2.Code_LITE_SUBSCRIPTION_QUOTA_EXCEEDED, consumer.SubscribeLite("b"))
	})
}
