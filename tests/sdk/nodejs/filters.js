'use strict';
// Filters by tag.

const assert = require('node:assert/strict');
const { BadRequestException, FilterExpression } = require('rocketmq-client-nodejs');
const {
  Listener, eachAccessPoint, eventually, receive, receiveNothing, startProducer, startPushConsumer,
  startSimpleConsumer, texts,
} = require('./support');

module.exports = shared => {
  async function open(access, filter) {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const producer = await startProducer(cluster[access], topic);
    const consumer = await startSimpleConsumer(cluster[access], topic, group, { filter });
    return { topic, group, producer, consumer };
  }

  eachAccessPoint('tags select messages', async access => {
    const { topic, producer, consumer } = await open(access, 'a || c');
    for (const [body, tag] of [['1', 'a'], ['2', 'b'], ['3', 'c'], ['4', undefined], ['5', 'a']]) {
      await producer.send({ topic, body: Buffer.from(body), tag });
    }
    assert.deepEqual(texts(await receive(consumer, 3)).sort(), ['1', '3', '5']);
    assert.deepEqual(await receiveNothing(consumer, 2000), []);
  });

  eachAccessPoint('tags select messages for a push consumer', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const listener = new Listener();
    await startPushConsumer(cluster[access], topic, group, listener.consume, 'a');
    const producer = await startProducer(cluster[access], topic);
    for (const tag of ['b', 'a', 'b', 'a']) await producer.send({ topic, body: Buffer.from(tag), tag });
    await eventually(() => listener.got.length >= 2, 20_000, 'the messages with the tag were pushed');
    assert.deepEqual(listener.bodies(), ['a', 'a']);
  });

  eachAccessPoint('an expression that makes no sense is refused', async access => {
    const { topic, consumer } = await open(access, '*');
    // Refused at the start, the SDK would wait for settings without an end: so a later subscription.
    await consumer.subscribe(topic, new FilterExpression(' || '));
    await assert.rejects(consumer.receive(1), BadRequestException);
  });
};
