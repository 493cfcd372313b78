'use strict';
// Normal messages and simple consumers: send, receive, acknowledge, redelivery.

const assert = require('node:assert/strict');
const { randomBytes } = require('node:crypto');
const { BadRequestException } = require('rocketmq-client-nodejs');
const {
  INVISIBLE, eachAccessPoint, numbered, receive, receiveNothing, startProducer, startSimpleConsumer, texts,
} = require('./support');

module.exports = shared => {
  // A topic, a group, and one client of each kind for them.
  async function open(access, queues = 1) {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic({ queues }), await cluster.createGroup()];
    const producer = await startProducer(cluster[access], topic);
    const consumer = await startSimpleConsumer(cluster[access], topic, group);
    return { topic, group, producer, consumer };
  }

  eachAccessPoint('a message arrives as it was sent', async access => {
    const { topic, producer, consumer } = await open(access);
    const body = Buffer.concat([randomBytes(4096), Buffer.from('Grüße, 你好\0')]);
    const before = Date.now() - 1000;
    const receipt = await producer.send({
      topic, body, tag: 'paid', keys: ['order-1', 'order-2'], properties: new Map([['city', 'Zürich']]),
    });
    const [message] = await receive(consumer, 1);
    assert.deepEqual(message.body, body);
    assert.equal(message.topic, topic);
    assert.equal(message.tag, 'paid');
    assert.deepEqual(message.keys, ['order-1', 'order-2']);
    assert.deepEqual(message.properties, new Map([['city', 'Zürich']]));
    assert.equal(message.messageId, receipt.messageId);
    assert.equal(message.deliveryAttempt, 1);
    assert.ok(message.bornHost);
    assert.ok(before <= message.bornTimestamp && message.bornTimestamp <= Date.now() + 1000);
  });

  eachAccessPoint('nothing is left after the acknowledgement', async access => {
    const { topic, producer, consumer } = await open(access, 4);
    const sent = numbered(50);
    const ids = await Promise.all(sent.map(async body => {
      const receipt = await producer.send({ topic, body: Buffer.from(body) });
      return receipt.messageId;
    }));
    assert.equal(new Set(ids).size, sent.length);
    assert.deepEqual(texts(await receive(consumer, sent.length)).sort(), sent.sort());
    // Longer than the invisible duration: whatever was not acknowledged would come back.
    assert.deepEqual(await receiveNothing(consumer, INVISIBLE + 3000), []);
  });

  eachAccessPoint('two groups each get every message', async access => {
    const { topic, producer, consumer } = await open(access);
    const { cluster } = shared;
    const other = await startSimpleConsumer(cluster[access], topic, await cluster.createGroup());
    const sent = numbered(10);
    for (const body of sent) await producer.send({ topic, body: Buffer.from(body) });
    for (const each of [consumer, other]) assert.deepEqual(texts(await receive(each, sent.length)).sort(), sent);
  });

  eachAccessPoint('an unacknowledged message comes back with a higher attempt', async access => {
    const { topic, producer, consumer } = await open(access);
    await producer.send({ topic, body: Buffer.from('again') });
    const [first] = await receive(consumer, 1, { ack: false });
    const received = Date.now();
    assert.equal(first.deliveryAttempt, 1);
    const [second] = await receive(consumer, 1, { ack: false });
    assert.ok(Date.now() - received > INVISIBLE - 1000, 'it came back before its invisible duration was over');
    assert.deepEqual([second.messageId, second.deliveryAttempt], [first.messageId, 2]);

    await assert.rejects(consumer.ack(first), BadRequestException);
    await consumer.ack(second);
    await consumer.ack(second); // Repeated by a client that missed the answer: no error.
    assert.deepEqual(await receiveNothing(consumer, INVISIBLE + 3000), []);
  });

  eachAccessPoint('the invisible duration can be shortened and extended', async access => {
    const { topic, producer, consumer } = await open(access);
    for (const body of ['sooner', 'later']) await producer.send({ topic, body: Buffer.from(body) });
    const held = new Map((await receive(consumer, 2, { ack: false })).map(each => [each.body.toString(), each]));
    const received = Date.now();

    const later = held.get('later');
    const handle = later.receiptHandle;
    await consumer.changeInvisibleDuration(later, 30_000);
    assert.ok(later.receiptHandle);
    assert.notEqual(later.receiptHandle, handle);
    await consumer.changeInvisibleDuration(held.get('sooner'), 1000);
    const [again] = await receive(consumer, 1, { within: 8000 });
    assert.deepEqual([again.body.toString(), again.deliveryAttempt], ['sooner', 2]);
    assert.ok(Date.now() - received < INVISIBLE - 1000);
    // The extended one stays away beyond the duration that it was received with, and its new handle is good.
    assert.deepEqual(await receiveNothing(consumer, INVISIBLE + 3000), []);
    await consumer.ack(later);
  });
};
