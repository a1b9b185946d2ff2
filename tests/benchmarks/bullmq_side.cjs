// BullMQ as a side of the broker benchmark; run by `broker.py`, which installs the package beside this file.
//
//   node bullmq_side.cjs fill URL QUEUES JOBS            adds JOBS no-op jobs, spread over QUEUES queues
//   node bullmq_side.cjs work URL QUEUES CONCURRENCY CONNECTIONS
//                                                        a Queue and a Worker for each queue, in this process;
//                                                        CONNECTIONS: shared (one ioredis client for all that BullMQ
//                                                        lets share) or own (its default)
//   node bullmq_side.cjs send URL QUEUES SAMPLES         adds jobs one by one, each after the last has started
//
// `work` speaks lines, as `python_side.py` does: it says "ready"; "go" starts it, "report" asks for
// {jobs, first, last, cpu}, end of input ends it. Times are the monotonic clock's, seconds.
'use strict';
const readline = require('node:readline');
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');

const STARTED = 'bench:started';
const monotonic = () => Number(process.hrtime.bigint()) / 1e9;
const [mode, url, queuesText, fourth, fifth] = process.argv.slice(2);
const queues = Number(queuesText);
const nameOf = (number) => `account-${number}`;
const connect = () => new IORedis(url, { maxRetriesPerRequest: null });
const options = { removeOnComplete: true, removeOnFail: true };

async function fill(jobs) {
  const connection = connect();
  for (let start = 0; start < queues; start += 1) {
    const queue = new Queue(nameOf(start), { connection });
    queue.on('error', () => {});
    const bulk = [];
    for (let job = start; job < jobs; job += queues) {
      bulk.push({ name: 'noop', data: {}, opts: options });
      if (bulk.length === 1000) await queue.addBulk(bulk.splice(0));
    }
    if (bulk.length > 0) await queue.addBulk(bulk);
  }
  connection.disconnect();
}

async function work(concurrency, connections) {
  const seen = { jobs: 0, first: 0, last: 0 };
  const shared = connections === 'shared' ? connect() : null;
  const own = { url, maxRetriesPerRequest: null };
  const reports = connect();
  const workers = [];
  for (let number = 0; number < queues; number += 1) {
    const connection = shared ?? own;
    const queue = new Queue(nameOf(number), { connection });
    const worker = new Worker(
      nameOf(number),
      async (job) => {
        const now = monotonic();
        if (job.data.sent) await reports.rpush(STARTED, String(now - job.data.sent));
        if (seen.jobs === 0) seen.first = now;
        seen.jobs += 1;
        seen.last = now;
      },
      { connection, concurrency, autorun: false },
    );
    queue.on('error', () => {});
    worker.on('error', () => {});
    workers.push([queue, worker]);
  }
  await Promise.all(workers.flatMap(([queue, worker]) => [queue.waitUntilReady(), worker.waitUntilReady()]));
  console.log('ready');
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    if (line === 'go') for (const [, worker] of workers) worker.run().catch(() => {});
    if (line === 'report') {
      const used = process.cpuUsage();
      console.log(JSON.stringify({ ...seen, cpu: (used.user + used.system) / 1e6 }));
    }
  });
  lines.on('close', () => process.exit(0));
}

async function send(samples) {
  const connection = connect();
  const starts = connect();
  const delays = [];
  for (let sample = 0; sample < samples; sample += 1) {
    const queue = new Queue(nameOf(sample % Math.min(queues, 100)), { connection });
    queue.on('error', () => {});
    await queue.waitUntilReady();
    await queue.add('ping', { sent: monotonic() }, options);
    const popped = await starts.blpop(STARTED, 10);
    delays.push(Number(popped[1]));
    await new Promise((resolve) => setTimeout(resolve, 5 + 13 * (sample % 3)));
  }
  console.log(JSON.stringify(delays));
  connection.disconnect();
  starts.disconnect();
}

if (mode === 'fill') fill(Number(fourth));
else if (mode === 'work') work(Number(fourth), fifth);
else send(Number(fourth));
