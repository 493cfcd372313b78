'use strict';
// Lite topics, with the SDK's push consumer.

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const { LitePushConsumerImpl } = require('rocketmq-client-nodejs');
const { Listener, SILENT, eachAccessPoint, eventually, keep, startProducer } = require('./support');

module.exports = shared => {
  eachAccessPoint('a lite push consumer gets the lite topics that it subscribes to, in order', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic({ type: 'LITE' }), await cluster.createGroup()];
    const producer = await startProducer(cluster[access], topic);
    const send = (liteTopic, body) => producer.send({ topic, liteTopic, body: Buffer.from(body) });
    const listener = new Listener((body, attempt) => body === 'a1' && attempt === 1);
    const consumer = await keep(new LitePushConsumerImpl({
      endpoints: cluster[access], consumerGroup: group, bindTopic: topic,
      messageListener: { consume: listener.consume }, logger: SILENT,
    }));
    for (const name of ['a', 'b']) await consumer.subscribeLite(name);
    for (let number = 0; number < 3; number++) {
      for (const name of ['a', 'b', 'other']) await send(name, `${name}${number}`);
    }
    await eventually(() => listener.got.length >= 7, 40_000, 'every message was pushed, and one again');
    await sleep(1000);
    // The SDK sends to all broker groups in turn, and each keeps the order for itself.
    const inOrder = bodies => ((process.env.KEROLOX_SDK_GROUPS ?? '1') === '1' ? bodies : bodies.sort());
    const of = name => inOrder(listener.bodies().filter(body => body.startsWith(name)));
    assert.deepEqual(of('b'), ['b0', 'b1', 'b2']);
    assert.deepEqual(of('a'), ['a0', 'a1', 'a1', 'a2']);
    assert.deepEqual(of('other'), []);
    await consumer.unsubscribeLite('b');
    await send('b', 'b3');
    await sleep(3000);
    assert.deepEqual(of('b'), ['b0', 'b1', 'b2']);
  });
};
