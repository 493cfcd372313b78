'use strict';
// Ordered messages: producers with message groups, consumers in groups that consume in order.

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const {
  INVISIBLE, Listener, eachAccessPoint, eventually, numbered, receive, receiveNothing, startProducer,
  startPushConsumer, startSimpleConsumer, texts,
} = require('./support');

module.exports = shared => {
  async function open(access, ...groupOptions) {
    const { cluster } = shared;
    const topic = await cluster.createTopic({ type: 'FIFO', queues: 4 });
    const group = await cluster.createGroup('-o', 'true', ...groupOptions);
    const producer = await startProducer(cluster[access], topic);
    const send = (messageGroup, body) => producer.send({ topic, messageGroup, body: Buffer.from(body) });
    return { topic, group, send };
  }

  eachAccessPoint('messages of a message group are pushed in order', async access => {
    const { topic, group, send } = await open(access);
    const listener = new Listener();
    await startPushConsumer(shared.cluster[access], topic, group, listener.consume);
    const sent = Object.fromEntries(['a', 'b', 'c'].map(name => [name, numbered(15, name)]));
    await Promise.all(Object.entries(sent).map(async ([name, bodies]) => {
      for (const body of bodies) await send(name, body);
    }));
    await eventually(() => listener.got.length >= 45, 30_000, 'every message was pushed');
    await sleep(1000);
    for (const [name, bodies] of Object.entries(sent)) {
      assert.deepEqual(listener.bodies().filter(body => body.startsWith(name)), bodies);
    }
    assert.equal(listener.got.length, 45);
  });

  eachAccessPoint('messages behind a failing one wait for it', async access => {
    const { topic, group, send } = await open(access);
    const listener = new Listener((body, attempt) => body === 'message-1' && attempt < 3);
    await startPushConsumer(shared.cluster[access], topic, group, listener.consume);
    for (const body of numbered(4)) await send('orders', body);
    await eventually(() => listener.got.length >= 6, 30_000, 'every message was pushed');
    await sleep(1000);
    assert.deepEqual(listener.got, [
      ['message-0', 1], ['message-1', 1], ['message-1', 2], ['message-1', 3], ['message-2', 1], ['message-3', 1],
    ]);
  });

  eachAccessPoint('an ordered message that fails every time becomes a dead letter, and the next ones follow',
    async access => {
      const { cluster } = shared;
      const { topic, group, send } = await open(access, '-r', '1');
      const listener = new Listener(body => body === 'message-1');
      await startPushConsumer(cluster[access], topic, group, listener.consume);
      for (const body of numbered(3)) await send('orders', body);
      await eventually(() => listener.bodies().includes('message-2'), 30_000, 'the message behind it was pushed');
      assert.deepEqual(listener.got, [
        ['message-0', 1], ['message-1', 1], ['message-1', 2], ['message-2', 1],
      ]);
      const deadLetters = `%DLQ%${group}`;
      await cluster.waitForRoute(deadLetters);
      const undertaker = await startSimpleConsumer(cluster[access], deadLetters, await cluster.createGroup());
      assert.deepEqual(texts(await receive(undertaker, 1)), ['message-1']);
    });

  eachAccessPoint('a simple consumer gets the next message of a message group after the acknowledgement',
    async access => {
      const { topic, group, send } = await open(access);
      const consumer = await startSimpleConsumer(shared.cluster[access], topic, group);
      for (const body of numbered(3)) await send('orders', body);
      for (const body of numbered(3)) {
        const [message] = await receive(consumer, 1, { ack: false, batch: 1, invisible: 2 * INVISIBLE });
        assert.equal(message.body.toString(), body);
        assert.deepEqual(await receiveNothing(consumer, 1000), []);
        await consumer.ack(message);
      }
    });
};
