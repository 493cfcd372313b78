'use strict';
// Sends a message and receives it over TLS: tls_client.js ENDPOINT TOPIC GROUP

const { Producer, SimpleConsumer } = require('rocketmq-client-nodejs');
const { SILENT } = require('./support');

async function main(endpoints, topic, consumerGroup) {
  const common = { endpoints, sslEnabled: true, logger: SILENT };
  const producer = new Producer({ ...common, topics: [topic] });
  await producer.startup();
  await producer.send({ topic, body: Buffer.from('encrypted') });
  const consumer = new SimpleConsumer({
    ...common, consumerGroup, subscriptions: new Map([[topic, '*']]), awaitDuration: 5000,
  });
  await consumer.startup();
  for (const message of await consumer.receive(1, 10_000)) {
    await consumer.ack(message);
    console.log(`received ${message.body}`);
  }
  await Promise.all([producer.shutdown(), consumer.shutdown()]);
}

main(...process.argv.slice(2));
