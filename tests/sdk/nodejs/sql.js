'use strict';
// Filters by SQL-92 expressions.

const assert = require('node:assert/strict');
const { BadRequestException, FilterExpression } = require('rocketmq-client-nodejs');
const { FilterType } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');
const {
  eachAccessPoint, receive, receiveNothing, startProducer, startSimpleConsumer, texts,
} = require('./support');

const sql = expression => new FilterExpression(expression, FilterType.SQL);

module.exports = shared => {
  async function open(access, filter) {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const producer = await startProducer(cluster[access], topic);
    const consumer = await startSimpleConsumer(cluster[access], topic, group, { filter });
    return { topic, group, producer, consumer };
  }

  eachAccessPoint('SQL expressions select messages by their properties', async access => {
    const filter = sql("(price BETWEEN 10 AND 20 AND city IN ('Bern', 'Basel')) OR TAGS = 'always'");
    const { topic, producer, consumer } = await open(access, filter);
    const send = (body, properties, tag) => producer.send({
      topic, body: Buffer.from(body), tag, properties: new Map(Object.entries(properties)),
    });
    await send('1', { price: '15', city: 'Bern' });
    await send('2', { price: '25', city: 'Bern' });
    await send('3', { price: '20', city: 'Basel' });
    await send('4', { price: '15' });
    await send('5', { price: '15', city: 'Genf' });
    await send('6', {}, 'always');
    assert.deepEqual(texts(await receive(consumer, 3)).sort(), ['1', '3', '6']);
    assert.deepEqual(await receiveNothing(consumer, 2000), []);
  });

  eachAccessPoint('a SQL expression that makes no sense is refused', async access => {
    const { topic, consumer } = await open(access, FilterExpression.SUB_ALL);
    // Refused at the start, the SDK would wait for settings without an end: so a later subscription.
    await consumer.subscribe(topic, sql('price >'));
    await assert.rejects(consumer.receive(1), BadRequestException);
  });
};
