package sdk

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The servers that an SDK may be configured with.
const (
	// It knows all routes and stores nothing.
	nameserver = "nameserver"
	// It answers for the cluster like a nameserver.
	broker = "broker"
)

// The broker that rules a group, whichever it is.
const master = "master"

const clusterName = "DefaultCluster"

// A nameserver with one broker, whose check-backs come every 2 s, or with a broker group; topics and groups are made with
// mqadmin.
type cluster struct {
	id        int
	endpoints map[string]string
}

var names atomic.Int32

// The one that all tests share which do not hurt it.
var shared = sync.OnceValue(func() *cluster { return startCluster() })

// Starts one for a single test; settings are environment variables of the broker, NAME=VALUE.
func startCluster(settings ...string) *cluster {
	return newCluster(strings.Join(append([]string{"cluster"}, settings...), " "))
}

// Starts a broker group, all of it in sync, for a single test.
func startGroup(members int) *cluster { return newCluster(fmt.Sprintf("group %d", members)) }

func newCluster(request string) *cluster {
	var started struct {
		ID         int
		Nameserver string
		Broker     string
	}
	must(json.Unmarshal(harness(request), &started))
	endpoints := map[string]string{nameserver: started.Nameserver, broker: started.Broker}
	return &cluster{id: started.ID, endpoints: endpoints}
}

// Stops the members of the group and starts them again, one after the other, each when all are in sync.
func (c *cluster) restartInTurn() { harness(fmt.Sprintf("restart-in-turn %d", c.id)) }

// Returns when a master rules and all members that run are in sync.
func (c *cluster) waitForInSync() { harness(fmt.Sprintf("in-sync %d", c.id)) }

// Kills a server by its name.
func (c *cluster) kill(server string) { harness(fmt.Sprintf("kill %d %s", c.id, server)) }

// Starts a server again that was killed, on the same port and data.
func (c *cluster) restart(server string) { harness(fmt.Sprintf("start %d %s", c.id, server)) }

// A topic with a name of its own.
func (c *cluster) topic(t *testing.T, messageType string, queues int) string {
	t.Helper()
	topic := fmt.Sprintf("topic-%d", names.Add(1))
	number := fmt.Sprint(queues)
	c.mqadmin(t, "updateTopic", "-c", clusterName, "-t", topic, "-r", number, "-w", number,
		"-a", "+message.type="+messageType)
	c.waitForRoute(t, topic, 15*time.Second)
	return topic
}

// A consumer group with a name of its own; options are mqadmin's.
func (c *cluster) group(t *testing.T, options ...string) string {
	t.Helper()
	group := fmt.Sprintf("group-%d", names.Add(1))
	c.mqadmin(t, "updateSubGroup", append([]string{"-c", clusterName, "-g", group}, options...)...)
	return group
}

func (c *cluster) waitForRoute(t *testing.T, topic string, within time.Duration) {
	t.Helper()
	eventually(t, within, "there is a route to "+topic, func() bool {
		_, err := c.run("topicRoute", "-t", topic)
		return err == nil
	})
}

func (c *cluster) mqadmin(t *testing.T, command string, arguments ...string) {
	t.Helper()
	if output, err := c.run(command, arguments...); err != nil {
		t.Fatalf("mqadmin %s: %v: %s", command, err, output)
	}
}

func (c *cluster) run(command string, arguments ...string) ([]byte, error) {
	program := filepath.Join(os.Getenv("KEROLOX_BIN"), "mqadmin")
	full := append([]string{command, "-n", c.endpoints[nameserver]}, arguments...)
	return exec.Command(program, full...).CombinedOutput()
}

// One request to tests/src/cluster_server/mod.rs, which owns the servers.
func harness(line string) []byte {
	connection, err := net.Dial("tcp", os.Getenv("KEROLOX_HARNESS"))
	must(err)
	defer connection.Close()
	_, err = fmt.Fprintln(connection, line)
	must(err)
	answer, err := io.ReadAll(connection)
	must(err)
	var failure struct{ Error string }
	must(json.Unmarshal(answer, &failure))
	if failure.Error != "" {
		panic(fmt.Sprintf("harness: %s: %s", line, failure.Error))
	}
	return answer
}

// For what only fails when the harness is broken.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
