'use strict';
// Scheduled messages: in their time, once, recalled or delivered but never both.

const assert = require('node:assert/strict');
const {
  Listener, eachAccessPoint, eventually, receive, receiveNothing, startProducer, startPushConsumer,
  startSimpleConsumer, texts,
} = require('./support');

module.exports = shared => {
  async function open(access) {
    const { cluster } = shared;
    const topic = await cluster.createTopic({ type: 'DELAY' });
    const group = await cluster.createGroup();
    const producer = await startProducer(cluster[access], topic);
    const send = (body, delay) => producer.send({
      topic, body: Buffer.from(body), deliveryTimestamp: new Date(Date.now() + delay),
    });
    return { topic, group, producer, send };
  }

  eachAccessPoint('scheduled messages come in the order of their times', async access => {
    const { topic, group, send } = await open(access);
    const consumer = await startSimpleConsumer(shared.cluster[access], topic, group);
    for (const [body, delay] of [['late', 5000], ['soon', 2500], ['past', -60_000]]) {
      const receipt = await send(body, delay);
      assert.equal(Boolean(receipt.recallHandle), delay > 0, body);
    }
    for (const body of ['past', 'soon', 'late']) {
      const [message] = await receive(consumer, 1);
      assert.equal(message.body.toString(), body);
      assert.ok(Date.now() >= message.deliveryTimestamp.getTime(), `${body} came early`);
    }
    assert.deepEqual(await receiveNothing(consumer, 2000), []);
  });

  eachAccessPoint('a scheduled message is pushed in its time', async access => {
    const { topic, group, send } = await open(access);
    const listener = new Listener();
    await startPushConsumer(shared.cluster[access], topic, group, listener.consume);
    const due = Date.now() + 3000;
    await send('later', 3000);
    await eventually(() => listener.got.length > 0, 30_000, 'it was pushed');
    assert.ok(Date.now() >= due, 'it came early');
    assert.deepEqual(listener.got, [['later', 1]]);
  });

  eachAccessPoint('a recalled message never comes', async access => {
    const { topic, group, producer, send } = await open(access);
    const consumer = await startSimpleConsumer(shared.cluster[access], topic, group);
    const delivered = await send('delivered', 1000);
    const recalled = await send('recalled', 4000);
    assert.equal((await producer.recallMessage(topic, recalled.recallHandle)).messageId, recalled.messageId);
    await assert.rejects(producer.recallMessage(topic, recalled.recallHandle), /recalled before/);
    assert.deepEqual(texts(await receive(consumer, 1)), ['delivered']);
    await assert.rejects(producer.recallMessage(topic, delivered.recallHandle), /delivered before/);
    await assert.rejects(producer.recallMessage(topic, 'nonsense'), /recall handle/);
    assert.deepEqual(await receiveNothing(consumer, 5000), []);
  });
};
