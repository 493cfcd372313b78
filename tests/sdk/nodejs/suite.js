'use strict';
// All tests in one process and at the same time: they mostly wait, for invisible durations, check-backs and polls.

const { after, before, describe } = require('node:test');
const { Cluster, shutdownClients } = require('./support');

const shared = {};

describe('Node.js SDK', { concurrency: 64 }, () => {
  before(async () => { shared.cluster = await Cluster.start(); });
  after(async () => {
    await shutdownClients();
    // A client that failed to start keeps timers for ever, and with them the process.
    setTimeout(() => process.exit(), 5000).unref();
  });
  const all = [
    'messages', 'push', 'dead_letters', 'fifo', 'priorities', 'lite', 'scheduled', 'filters', 'sql', 'transactions',
    'limits', 'restarts', 'failover',
  ];
  const parts = process.env.KEROLOX_SDK_PARTS?.split(' ') ?? all;
  for (const part of parts) {
    require(`./${part}`)(shared);
  }
});
