'use strict';
// Transactional messages: commit, rollback, check-back, and producers that are gone.

const assert = require('node:assert/strict');
const { TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');
const {
  Checker, eachAccessPoint, eventually, receive, receiveNothing, sendHalf, startProducer, startSimpleConsumer, texts,
} = require('./support');

const { COMMIT, ROLLBACK, TRANSACTION_RESOLUTION_UNSPECIFIED: UNKNOWN } = TransactionResolution;

module.exports = shared => {
  async function open(access) {
    const { cluster } = shared;
    const topic = await cluster.createTopic({ type: 'TRANSACTION' });
    const consumer = await startSimpleConsumer(cluster[access], topic, await cluster.createGroup());
    const producer = checker => startProducer(cluster[access], topic, { checker });
    return { topic, producer, consumer };
  }

  eachAccessPoint('a committed message is delivered once', async access => {
    const { topic, producer, consumer } = await open(access);
    const checker = new Checker(UNKNOWN);
    const transaction = await sendHalf(await producer(checker), {
      topic, body: Buffer.from('order-1'), tag: 'paid', keys: ['k'], properties: new Map([['city', 'Zürich']]),
    });
    assert.deepEqual(await receiveNothing(consumer, 1000), [], 'a half message must be invisible');
    await transaction.commit();
    const asked = checker.asked.length;
    await transaction.commit(); // Repeating a decision is no error and makes no second message.
    const [message] = await receive(consumer, 1);
    assert.deepEqual([message.body.toString(), message.tag, message.keys, message.deliveryAttempt],
      ['order-1', 'paid', ['k'], 1]);
    assert.deepEqual(message.properties, new Map([['city', 'Zürich']]));
    assert.deepEqual(await receiveNothing(consumer, 4000), []);
    assert.equal(checker.asked.length, asked, 'a decided transaction must not be checked back');
  });

  eachAccessPoint('a rolled back message is never delivered', async access => {
    const { topic, producer, consumer } = await open(access);
    const checker = new Checker(COMMIT);
    const transaction = await sendHalf(await producer(checker), { topic, body: Buffer.from('order-2') });
    await transaction.rollback();
    await transaction.rollback();
    assert.deepEqual(await receiveNothing(consumer, 6000), []);
    assert.deepEqual(checker.asked, [], 'a decided transaction must not be checked back');
  });

  for (const [decision, answer, delivered] of [['commits', COMMIT, ['order-3']], ['rolls back', ROLLBACK, []]]) {
    eachAccessPoint(`check-back ${decision} an undecided transaction`, async access => {
      const { topic, producer, consumer } = await open(access);
      const checker = new Checker(UNKNOWN, answer);
      await sendHalf(await producer(checker), { topic, body: Buffer.from('order-3') });
      assert.deepEqual(texts(await receive(consumer, 1, { within: 12_000 })), delivered);
      assert.deepEqual(checker.asked, ['order-3', 'order-3']);
      assert.deepEqual(await receiveNothing(consumer, 5000), []);
      assert.equal(checker.asked.length, 2, 'a settled transaction must not be checked back again');
    });
  }

  eachAccessPoint('another producer is asked when the first one is gone', async access => {
    const { topic, producer, consumer } = await open(access);
    const gone = await producer(new Checker(UNKNOWN));
    await sendHalf(gone, { topic, body: Buffer.from('order-4') });
    await gone.shutdown();
    const checker = new Checker(COMMIT);
    await producer(checker);
    assert.deepEqual(texts(await receive(consumer, 1)), ['order-4']);
    await eventually(() => checker.asked.length > 0, 1000, 'the second producer was asked');
    assert.deepEqual(await receiveNothing(consumer, 4000), []);
  });
};
