package sdk

import (
	"slices"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// Longer than the SDK waits between two attempts to reach a server.
const recovery = 40 * time.Second

type running struct {
	cluster         *cluster
	endpoint, topic string
	heard           *recorder
	producer        rmq.Producer
}

// Clients of servers that die and come back: a cluster for each test.
func openRunning(t *testing.T, access string) *running {
	t.Helper()
	cluster, heard := startCluster(), newRecorder()
	endpoint, topic := cluster.endpoints[access], cluster.topic(t, "NORMAL", 1)
	startPush(t, endpoint, topic, cluster.group(t), rmq.SUB_ALL, heard)
	return &running{cluster, endpoint, topic, heard, startProducer(t, endpoint, topic)}
}

func (r *running) send(body string) error {
	_, err := trySend(r.producer, newMessage(r.topic, body))
	return err
}

func (r *running) arrive(t *testing.T, bodies []string) {
	t.Helper()
	eventually(t, recovery, "all arrived", func() bool {
		got := r.heard.bodies("")
		return !slices.ContainsFunc(bodies, func(body string) bool { return !slices.Contains(got, body) })
	})
}

func TestClientsGoOnWhenABrokerWasKilledAndIsBack(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		running, sent := openRunning(t, access), numbered(10, "before")
		for _, body := range sent {
			ok(t, running.send(body))
		}
		running.cluster.kill(broker)
		if running.send("unsent") == nil {
			t.Fatal("a send succeeded without a broker")
		}
		running.cluster.restart(broker)
		running.cluster.waitForRoute(t, running.topic, 15*time.Second)
		eventually(t, recovery, "the producer sends again", func() bool { return running.send("after") == nil })
		running.arrive(t, append(sent, "after"))
	})
}

func TestClientsGoOnWithoutTheNameserverAndOthersStartWhenItIsBack(t *testing.T) {
	eachAccessPoint(t, func(t *testing.T, access string) {
		running, without := openRunning(t, access), numbered(10, "without")
		// The SDK asks for the first assignment about a second after the start.
		ok(t, running.send("with it"))
		running.arrive(t, []string{"with it"})
		running.cluster.kill(nameserver)
		for _, body := range without {
			ok(t, running.send(body))
		}
		running.arrive(t, without)
		_, err := newProducer(running.endpoint, running.topic)
		// Every broker is an access point, so only who was told the nameserver cannot start.
		equal(t, access == nameserver, err != nil)
		running.cluster.restart(nameserver)
		eventually(t, recovery, "a client starts", func() bool {
			_, err := newProducer(running.endpoint, running.topic)
			return err == nil
		})
		ok(t, running.send("with it again"))
		running.arrive(t, []string{"with it again"})
	})
}
