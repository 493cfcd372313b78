'use strict';
// Servers that die and come back under running clients. Each test has a cluster of its own.

const assert = require('node:assert/strict');
const {
  Cluster, Listener, eachAccessPoint, eventually, numbered, startProducer, startPushConsumer,
} = require('./support');

// Longer than the SDK waits between two attempts to reach a server.
const RECOVERY = 40_000;

module.exports = () => {
  async function open(access) {
    const cluster = await Cluster.start();
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const listener = new Listener();
    await startPushConsumer(cluster[access], topic, group, listener.consume);
    const producer = await startProducer(cluster[access], topic);
    const send = body => producer.send({ topic, body: Buffer.from(body) });
    const arrive = bodies => eventually(
      () => bodies.every(body => listener.bodies().includes(body)), RECOVERY, `${bodies} arrived`);
    return { cluster, topic, send, arrive };
  }

  eachAccessPoint('clients go on when a broker was killed and is back', async access => {
    const { cluster, topic, send, arrive } = await open(access);
    const before = numbered(10, 'before');
    for (const body of before) await send(body);
    await cluster.kill('broker');
    await assert.rejects(send('unsent'));
    await cluster.start('broker');
    await cluster.waitForRoute(topic);
    await eventually(() => send('after').then(() => true, () => false), RECOVERY, 'the producer sends again');
    await arrive([...before, 'after']);
  });

  eachAccessPoint('clients go on without the nameserver, and others start when it is back', async access => {
    const { cluster, topic, send, arrive } = await open(access);
    await cluster.kill('nameserver');
    const without = numbered(10, 'without');
    for (const body of without) await send(body);
    await arrive(without);
    const start = () => startProducer(cluster[access], topic);
    // Every broker is an access point, so only who was told the nameserver cannot start.
    if (access === 'nameserver') await assert.rejects(start());
    else await start();
    await cluster.start('nameserver');
    await eventually(() => start().then(() => true, () => false), RECOVERY, 'a client starts');
    await send('with it again');
    await arrive(['with it again']);
  });
};
