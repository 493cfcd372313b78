// Package sdk tests real servers with the official Go SDK; run by tests/run.sh sdk --go.
package sdk

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// The SDK has one switch for all clients of a process, so what tests TLS is a process of its own.
const tlsClient = "KEROLOX_TLS_CLIENT"

var passed, failed atomic.Int32

func TestMain(m *testing.M) {
	if arguments := os.Getenv(tlsClient); arguments != "" {
		os.Exit(runTLSClient(strings.Fields(arguments)))
	}
	rmq.EnableSsl = false
	code := m.Run()
	fmt.Printf("sdk go: %d passed, %d failed\n", passed.Load(), failed.Load())
	os.Exit(code)
}

// What prints a line for each test when it is over, and counts it.
func counted(t *testing.T) {
	t.Helper()
	t.Parallel()
	t.Cleanup(func() {
		if t.Failed() {
			failed.Add(1)
			fmt.Println(t.Name(), "... FAILED")
		} else {
			passed.Add(1)
			fmt.Println(t.Name(), "... ok")
		}
	})
}

// Runs a test with each server that an SDK may be configured with, all at the same time: they mostly wait.
func eachAccessPoint(t *testing.T, test func(t *testing.T, access string)) {
	t.Helper()
	t.Parallel()
	for _, access := range []string{nameserver, broker} {
		t.Run(access, func(t *testing.T) {
			counted(t)
			test(t, access)
		})
	}
}
