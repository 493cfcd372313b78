package sdk

import (
	"context"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

func sql(expression string) *rmq.FilterExpression {
	return rmq.NewFilterExpressionWithType(expression, rmq.SQL92)
}

func TestTagsSelectMessages(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", 1)
		producer := startProducer(t, endpoint, topic)
		consumer := startSimple(t, endpoint, topic, shared().group(t), rmq.NewFilterExpression("a || c"))
		heard := newRecorder()
		startPush(t, endpoint, topic, shared().group(t), rmq.NewFilterExpression("a"), heard)
		for _, sent := range [][2]string{{"1", "a"}, {"2", "b"}, {"3", "c"}, {"4", ""}, {"5", "a"}} {
			message := newMessage(topic, sent[0])
			if sent[1] != "" {
				message.SetTag(sent[1])
			}
			send(t, producer, message)
		}
		equal(t, []string{"1", "3", "5"}, sorted(bodies(receive(t, consumer, 3))))
		expectNothing(t, consumer, 2*time.Second)
		heard.waitFor(t, 2, patience)
		equal(t, []string{"1 1", "5 1"}, sorted(heard.got()))
	})
}

func TestSQLExpressionsSelectMessagesByTheirProperties(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", 1)
		producer := startProducer(t, endpoint, topic)
		filter := sql("(price BETWEEN 10 AND 20 AND city IN ('Bern', 'Basel')) OR TAGS = 'always'")
		consumer := startSimple(t, endpoint, topic, shared().group(t), filter)
		for _, sent := range []struct{ body, price, city, tag string }{
			{"1", "15", "Bern", ""},
			{"2", "25", "Bern", ""},
			{"3", "20", "Basel", ""},
			{"4", "15", "", ""},
			{"5", "15", "Genf", ""},
			{"6", "", "", "always"},
		} {
			message := newMessage(topic, sent.body)
			if sent.price != "" {
				message.AddProperty("price", sent.price)
			}
			if sent.city != "" {
				message.AddProperty("city", sent.city)
			}
			if sent.tag != "" {
				message.SetTag(sent.tag)
			}
			send(t, producer, message)
		}
		equal(t, []string{"1", "3", "6"}, sorted(bodies(receive(t, consumer, 3))))
		expectNothing(t, consumer, 2*time.Second)
	})
}

func TestAnExpressionThatMakesNoSenseIsRefused(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		endpoint, topic := shared().endpoints[access], shared().topic(t, "NORMAL", 1)
		consumer := startSimple(t, endpoint, topic, shared().group(t), rmq.SUB_ALL)
		for _, senseless := range []*rmq.FilterExpression{rmq.NewFilterExpression("|| ||"), sql("price >")} {
			ok(t, consumer.Subscribe(topic, senseless))
			_, err := consumer.Receive(context.Background(), 1, invisible)
			refusedWith(t, v2.Code_ILLEGAL_FILTER_EXPRESSION, err)
			// At the start the server closes the stream that tells it the subscriptions.
			_, err = newSimple(endpoint, topic, shared().group(t), senseless)
			mentions(t, err, "InvalidArgument")
		}
	})
}
