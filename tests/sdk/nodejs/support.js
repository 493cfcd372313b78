'use strict';
// Short spellings for the official SDK, real servers on request, and the waiting that tests need.

const { execFile } = require('node:child_process');
const net = require('node:net');
const path = require('node:path');
const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const { promisify } = require('node:util');
const { describe, test } = require('node:test');
const { Producer, PushConsumer, SimpleConsumer, ConsumeResult, FilterExpression } = require('rocketmq-client-nodejs');

const CLUSTER = 'DefaultCluster';
// The shortest that a simple consumer may ask for, milliseconds.
const INVISIBLE = 10_000;
// The servers that an SDK may be configured with.
const ACCESS_POINTS = ['nameserver', 'broker'];

// The longest that one test may take, milliseconds: some SDK calls wait without an end.
const TIMEOUT = 120_000;

// The SDK's own log would go to the home directory; a test says itself what was wrong.
const SILENT = { info() {}, warn() {}, error() {}, debug() {} };

const runFile = promisify(execFile);

// One request to tests/src/cluster_server/mod.rs, which owns the servers.
function harness(line) {
  const [host, port] = process.env.KEROLOX_HARNESS.split(':');
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = net.connect(Number(port), host, () => socket.write(`${line}\n`));
    socket.on('data', data => { answer += data; });
    socket.on('error', reject);
    socket.on('close', () => {
      const parsed = JSON.parse(answer);
      if (parsed.error) reject(new Error(`harness: ${line}: ${parsed.error}`));
      else resolve(parsed);
    });
  });
}

// A nameserver with one broker, whose check-backs come every 2 s, or with a broker group.
class Cluster {
  static #names = 0;

  static async start() {
    return Object.assign(new Cluster(), await harness('cluster'));
  }

  // A broker group, all of it in sync.
  static async startGroup(members) {
    return Object.assign(new Cluster(), await harness(`group ${members}`));
  }

  // Returns when a master rules and all members that run are in sync.
  waitForInSync() { return harness(`in-sync ${this.id}`); }

  // Stops the members of the group and starts them again, one after the other, each when all are in sync.
  restartInTurn() { return harness(`restart-in-turn ${this.id}`); }

  // A server by its name, or the broker that rules: 'master'.
  kill(server) { return harness(`kill ${this.id} ${server}`); }

  start(server) { return harness(`start ${this.id} ${server}`); }

  newName(kind) {
    Cluster.#names += 1;
    return `${kind}-${Cluster.#names}`;
  }

  async mqadmin(command, ...options) {
    const program = path.join(process.env.KEROLOX_BIN, 'mqadmin');
    const done = await runFile(program, [command, '-n', this.nameserver, '--output', 'json', ...options]);
    return done.stdout.trim() ? JSON.parse(done.stdout) : undefined;
  }

  // A topic with a name of its own, in the routes.
  async createTopic({ type = 'NORMAL', queues = 1 } = {}) {
    const topic = this.newName('topic');
    await this.mqadmin('updateTopic', '-c', CLUSTER, '-t', topic,
      '-r', `${queues}`, '-w', `${queues}`, '-a', `+message.type=${type}`);
    await this.waitForRoute(topic);
    return topic;
  }

  async waitForRoute(topic, within = 15_000) {
    await eventually(() => this.mqadmin('topicRoute', '-t', topic).then(() => true, () => false),
      within, `there is a route to ${topic}`);
  }

  async createGroup(...options) {
    const group = this.newName('group');
    await this.mqadmin('updateSubGroup', '-c', CLUSTER, '-g', group, ...options);
    return group;
  }
}

// Clients of one test; they are shut down when everything is over, because a push consumer takes as long as a poll.
const open = [];

async function keep(client) {
  await client.startup();
  open.push(client);
  return client;
}

function startProducer(endpoints, topic, options = {}) {
  return keep(new Producer({ endpoints, topics: [topic], logger: SILENT, ...options }));
}

function startSimpleConsumer(endpoints, topic, consumerGroup, { filter = FilterExpression.SUB_ALL, ...options } = {}) {
  const subscriptions = new Map([[topic, filter]]);
  return keep(new SimpleConsumer({
    endpoints, consumerGroup, subscriptions, awaitDuration: 1000, logger: SILENT, ...options,
  }));
}

function startPushConsumer(endpoints, topic, consumerGroup, consume, filter = FilterExpression.SUB_ALL) {
  return keep(new PushConsumer({
    endpoints, consumerGroup, subscriptions: new Map([[topic, filter]]), messageListener: { consume }, logger: SILENT,
  }));
}

async function shutdownClients() {
  await Promise.allSettled(open.splice(0).map(client => client.shutdown()));
}

// Receives until `count` messages came or time is up, acknowledging each unless told not to.
async function receive(consumer, count, { within = 20_000, ack = true, batch = 32, invisible = INVISIBLE } = {}) {
  const got = [];
  const deadline = Date.now() + within;
  while (got.length < count && Date.now() < deadline) {
    for (const message of await consumer.receive(batch, invisible)) {
      assert.ok(!message.corrupted, `the digest of ${message.messageId} does not match its body`);
      if (ack) await consumer.ack(message);
      got.push(message);
    }
  }
  return got;
}

// Polls for a while; returns the bodies that came although none should.
async function receiveNothing(consumer, duration) {
  return texts(await receive(consumer, Infinity, { within: duration, ack: false }));
}

function texts(messages) {
  return messages.map(message => message.body.toString());
}

function numbered(count, prefix = 'message') {
  return Array.from({ length: count }, (_, number) => `${prefix}-${number}`);
}

// Waits until the condition holds; what it throws while waiting is not an answer yet.
async function eventually(condition, within, what) {
  const deadline = Date.now() + within;
  while (!await condition()) {
    assert.ok(Date.now() < deadline, `after ${within} ms still not: ${what}`);
    await sleep(50);
  }
}

// A message listener that remembers (body, attempt) and fails the bodies that it is told to fail.
class Listener {
  constructor(fails = () => false) {
    this.got = [];
    this.consume = message => {
      const body = message.body.toString();
      this.got.push([body, message.deliveryAttempt]);
      return fails(body, message.deliveryAttempt) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
    };
  }

  bodies() { return this.got.map(([body]) => body); }
}

// Answers check-backs in turn, the last answer for ever; remembers what it was asked about.
class Checker {
  constructor(...answers) {
    this.answers = answers;
    this.asked = [];
  }

  async check(message) {
    this.asked.push(message.body.toString());
    return this.answers[Math.min(this.asked.length, this.answers.length) - 1];
  }
}

async function sendHalf(producer, message) {
  const transaction = producer.beginTransaction();
  await producer.send(message, transaction);
  return transaction;
}

// One test for each server that an SDK may be configured with.
function eachAccessPoint(name, body) {
  describe(name, () => {
    for (const access of ACCESS_POINTS) test(`${name} (endpoint: ${access})`, { timeout: TIMEOUT }, () => body(access));
  });
}

module.exports = {
  ACCESS_POINTS, Checker, Cluster, INVISIBLE, Listener, SILENT, TIMEOUT, eachAccessPoint, eventually, keep, numbered,
  receive, receiveNothing, sendHalf, shutdownClients, startProducer, startPushConsumer, startSimpleConsumer, texts,
};
