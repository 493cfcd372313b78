'use strict';
// Prints a line for each test, why a test failed, and the figures that tests/run.sh adds up.

const { inspect } = require('node:util');

module.exports = async function* report(events) {
  let passed = 0;
  let failed = 0;
  for await (const { type, data } of events) {
    const isTest = data?.details?.type !== 'suite';
    if (type === 'test:pass' && isTest) {
      passed += 1;
      yield `${data.name} ... ok\n`;
    } else if (type === 'test:fail' && isTest) {
      failed += 1;
      const error = data.details.error;
      yield `${data.name} ... FAILED\n${inspect(error?.cause ?? error)}\n`;
    } else if (type === 'test:stdout' || type === 'test:stderr') {
      yield data.message;
    }
  }
  yield `sdk nodejs: ${passed} passed, ${failed} failed\n`;
};
