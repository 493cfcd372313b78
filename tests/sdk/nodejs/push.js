'use strict';
// Push consumers: everything arrives, and failures come again.

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const { Listener, eachAccessPoint, eventually, numbered, startProducer, startPushConsumer } = require('./support');

module.exports = shared => {
  eachAccessPoint('a push consumer gets everything, and failures again', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic({ queues: 4 }), await cluster.createGroup()];
    const listener = new Listener((body, attempt) => body === 'message-3' && attempt === 1);
    await startPushConsumer(cluster[access], topic, group, listener.consume);
    const producer = await startProducer(cluster[access], topic);
    const sent = numbered(20);
    for (const body of sent) await producer.send({ topic, body: Buffer.from(body) });
    await eventually(() => listener.got.length > sent.length, 40_000, 'the failed message was pushed again');
    await sleep(2000);
    const expected = [...sent.map(body => [body, 1]), ['message-3', 2]];
    assert.deepEqual(listener.got.sort(), expected.sort());
  });

  eachAccessPoint('two push consumers of a group share its messages', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic({ queues: 4 }), await cluster.createGroup()];
    const listeners = [new Listener(), new Listener()];
    for (const { consume } of listeners) await startPushConsumer(cluster[access], topic, group, consume);
    const producer = await startProducer(cluster[access], topic);
    const sent = numbered(40);
    for (const body of sent) await producer.send({ topic, body: Buffer.from(body) });
    const all = () => listeners.flatMap(listener => listener.bodies());
    await eventually(() => all().length >= sent.length, 20_000, 'every message was pushed');
    await sleep(2000);
    assert.deepEqual(all().sort(), sent.sort());
  });
};
