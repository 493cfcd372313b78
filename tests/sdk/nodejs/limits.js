'use strict';
// What the SDK refuses by itself, and what it cannot do: README.md says why.

const assert = require('node:assert/strict');
const { execFile } = require('node:child_process');
const { randomBytes } = require('node:crypto');
const { mkdtemp, rm, writeFile } = require('node:fs/promises');
const { tmpdir } = require('node:os');
const path = require('node:path');
const tls = require('node:tls');
const { promisify } = require('node:util');
const sdk = require('rocketmq-client-nodejs');
const {
  SILENT, eachAccessPoint, receive, startProducer, startSimpleConsumer, texts,
} = require('./support');

const MIB = 1024 * 1024;

module.exports = shared => {
  eachAccessPoint('a topic that does not exist', async access => {
    const producer = new sdk.Producer({
      endpoints: shared.cluster[access], topics: ['no-such-topic'], checker: undefined, logger: SILENT,
    });
    await assert.rejects(producer.startup(), error => {
      assert.match(`${error} ${error.cause?.cause ?? ''}`, /no-such-topic|topic/i);
      return true;
    });
    await producer.shutdown();
  });

  eachAccessPoint('the route tells the SDK the type of a topic, and it refuses the others', async access => {
    const { cluster } = shared;
    const topic = await cluster.createTopic();
    const checker = { check: async () => undefined };
    const producer = await startProducer(cluster[access], topic, { checker });
    await assert.rejects(producer.send({ topic, body: Buffer.from('half') }, producer.beginTransaction()), TypeError);
    await assert.rejects(producer.send({ topic, body: Buffer.from('ordered'), messageGroup: 'a' }), TypeError);
  });

  eachAccessPoint('bodies up to what gRPC for JavaScript receives go through', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const producer = await startProducer(cluster[access], topic, { requestTimeout: 10_000 });
    const consumer = await startSimpleConsumer(cluster[access], topic, group, { requestTimeout: 10_000 });
    await assert.rejects(producer.send({ topic, body: Buffer.alloc(4 * MIB + 1) }), TypeError);
    const body = randomBytes(4 * MIB - 64 * 1024);
    await producer.send({ topic, body });
    const [message] = await receive(consumer, 1);
    assert.ok(message.body.equals(body));
    // The whole response must fit into 4 MiB there, and the SDK has no option to change that.
    await producer.send({ topic, body: randomBytes(4 * MIB) });
    await assert.rejects(consumer.receive(1, 10_000), /RESOURCE_EXHAUSTED/);
  });

  eachAccessPoint('the SDK uses queue 0 of each broker only', async access => {
    const { cluster } = shared;
    const topic = await cluster.createTopic({ queues: 4 });
    const producer = await startProducer(cluster[access], topic);
    for (let number = 0; number < 8; number += 1) await producer.send({ topic, body: Buffer.from('x') });
    const status = await cluster.mqadmin('topicStatus', '-t', topic);
    const filled = status.brokers[0].queues.filter(queue => queue.maxOffset > queue.minOffset);
    assert.deepEqual(filled.map(queue => [queue.queue, queue.maxOffset]), [[0, 8]]);
  });

  eachAccessPoint('the SDK speaks TLS with the certificate trusted', async access => {
    const { cluster } = shared;
    const [topic, group] = [await cluster.createTopic(), await cluster.createGroup()];
    const folder = await mkdtemp(path.join(tmpdir(), 'kerolox-sdk-'));
    try {
      // Each server has a certificate of its own, and gRPC reads the roots once per process.
      const roots = path.join(folder, 'roots.pem');
      await writeFile(roots, (await Promise.all(
        [cluster.nameserver, cluster.broker].map(certificate))).join(''));
      const { stdout } = await promisify(execFile)(
        process.execPath, [path.join(__dirname, 'tls_client.js'), cluster[access], topic, group],
        { env: { ...process.env, GRPC_DEFAULT_SSL_ROOTS_FILE_PATH: roots }, timeout: 60_000 });
      assert.equal(stdout, 'received encrypted\n');
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  eachAccessPoint('there are no pull consumers', async () => {
    assert.deepEqual(Object.keys(sdk).filter(name => /Pull/.test(name)), []);
  });
};

// The certificate that a server presents, as PEM.
function certificate(address) {
  const [host, port] = address.split(':');
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host, port: Number(port), rejectUnauthorized: false, ALPNProtocols: ['h2'] }, () => {
      const base64 = socket.getPeerCertificate().raw.toString('base64').match(/.{1,64}/g).join('\n');
      socket.destroy();
      resolve(`-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`);
    });
    socket.on('error', reject);
  });
}
