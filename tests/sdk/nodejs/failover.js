'use strict';
// A group of three members whose master is killed, or all of which is restarted in turn. Each test has one of its own.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');
const { TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');
const {
  Checker, Cluster, Listener, TIMEOUT, eventually, receive, sendHalf, startProducer, startPushConsumer,
  startSimpleConsumer, texts,
} = require('./support');

const MEMBERS = 3;
const RECOVERY = 60_000;

// Sends one message after the other until it is ended; remembers what was acknowledged, and what failed.
class Sending {
  #ending = false;
  #acknowledged = [];
  #failed = [];

  constructor(producer, topic) {
    this.running = this.#run(producer, topic);
  }

  async #run(producer, topic) {
    for (let number = 0; !this.#ending; number += 1) {
      const body = `message-${number}`;
      await producer.send({ topic, body: Buffer.from(body) }).then(
        () => this.#acknowledged.push(body), error => this.#failed.push(`${body}: ${error}`));
      await sleep(10);
    }
  }

  // What was acknowledged; nothing may have failed.
  async end() {
    this.#ending = true;
    await this.running;
    assert.deepEqual(this.#failed, []);
    return this.#acknowledged;
  }
}

module.exports = () => {
  // Sends while the cluster is hurt, and a moment longer: no send fails, and what was acknowledged arrives.
  async function survives(hurt) {
    const cluster = await Cluster.startGroup(MEMBERS);
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const listener = new Listener();
    await startPushConsumer(cluster.nameserver, topic, group, listener.consume);
    const sending = new Sending(await startProducer(cluster.nameserver, topic), topic);
    await sleep(1000);
    await hurt(cluster);
    await sleep(1000);
    const acknowledged = await sending.end();
    await eventually(() => {
      const arrived = new Set(listener.bodies());
      return acknowledged.every(body => arrived.has(body));
    }, RECOVERY, `all of ${acknowledged.length} acknowledged messages arrived`);
  }

  test('a killed master costs no message and no failed send', { timeout: TIMEOUT }, () => survives(async cluster => {
    await cluster.kill('master');
    await cluster.waitForInSync();
  }));

  test('a rolling restart fails no send', { timeout: TIMEOUT }, () => survives(cluster => cluster.restartInTurn()));

  test('a transaction outlives its master', { timeout: TIMEOUT }, async () => {
    const cluster = await Cluster.startGroup(MEMBERS);
    const topic = await cluster.createTopic({ type: 'TRANSACTION' });
    const consumer = await startSimpleConsumer(cluster.nameserver, topic, await cluster.createGroup());
    const checker = new Checker(TransactionResolution.COMMIT);
    const producer = await startProducer(cluster.nameserver, topic, { checker });
    const decided = await sendHalf(producer, { topic, body: Buffer.from('decided') });
    await sendHalf(producer, { topic, body: Buffer.from('asked') });
    await cluster.kill('master');
    await decided.commit();
    assert.deepEqual(texts(await receive(consumer, 2)).sort(), ['asked', 'decided']);
    assert.deepEqual(checker.asked, ['asked']);
  });
};
