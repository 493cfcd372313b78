'use strict';
// What fails in every attempt ends in the dead-letter topic of its group.

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const {
  Listener, eachAccessPoint, receive, startProducer, startPushConsumer, startSimpleConsumer, texts,
} = require('./support');

module.exports = shared => {
  eachAccessPoint('what fails every time becomes a dead letter', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup('-r', '1')];
    const listener = new Listener(body => body === 'poison');
    await startPushConsumer(cluster[access], topic, group, listener.consume);
    const producer = await startProducer(cluster[access], topic);
    await producer.send({ topic, body: Buffer.from('poison'), tag: 'bad', keys: ['order-1'] });
    await producer.send({ topic, body: Buffer.from('sound') });

    const deadLetters = `%DLQ%${group}`;
    await cluster.waitForRoute(deadLetters, 60_000);
    const undertaker = await startSimpleConsumer(cluster[access], deadLetters, await cluster.createGroup());
    const [dead] = await receive(undertaker, 1);
    assert.deepEqual([dead.body.toString(), dead.tag, dead.keys], ['poison', 'bad', ['order-1']]);
    await sleep(2000);
    assert.deepEqual(listener.got.sort(), [['poison', 1], ['poison', 2], ['sound', 1]]);
    assert.deepEqual(texts(await receive(undertaker, 1, { within: 3000 })), []);
  });
};
