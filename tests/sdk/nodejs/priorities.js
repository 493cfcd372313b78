'use strict';
// Messages with a priority.

const assert = require('node:assert/strict');
const { eachAccessPoint, receive, startProducer, startSimpleConsumer } = require('./support');

module.exports = shared => {
  eachAccessPoint('the highest priority comes first', async access => {
    const { cluster } = shared;
    const topic = await cluster.createTopic({ type: 'PRIORITY', queues: 3 });
    const group = await cluster.createGroup();
    const producer = await startProducer(cluster[access], topic);
    const send = (body, priority) => producer.send({ topic, priority, body: Buffer.from(body) });
    await send('middle', 1);
    await send('high', 2);
    // The SDK takes 0 for none.
    await assert.rejects(send('low', 0), TypeError);
    const consumer = await startSimpleConsumer(cluster[access], topic, group);
    const got = await receive(consumer, 2);
    assert.deepEqual(got.map(message => [message.body.toString(), message.getPriority()]), [['high', 2], ['middle', 1]]);
  });
};
