// SPDX-License-Identifier: Apache-2.0
//
// npm's etcd3 client against a server: node etcd3.js URL [CACERT USER PASSWORD]. Prints TAP. Modules are found through NODE_PATH.
'use strict';

const assert = require('assert');
const fs = require('fs');
const { Etcd3, EtcdLockFailedError } = require('etcd3');

const [url, cacert, username, password] = process.argv.slice(2);
const options = { hosts: url };
if (cacert) options.credentials = { rootCertificate: fs.readFileSync(cacert) };
if (username) options.auth = { username, password };

const open = () => new Etcd3(options);
const client = open();
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const next = (emitter, event) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${event} came`)), 20000);
    emitter.once(event, (...args) => {
      clearTimeout(timer);
      resolve(args[0]);
    });
  });

const tests = {
  async 'values of every kind'() {
    await client.put('foo').value('bar');
    assert.strictEqual(await client.get('foo').string(), 'bar');
    await client.put('json').value(JSON.stringify({ a: [1, 2] }));
    assert.deepStrictEqual(await client.get('json').json(), { a: [1, 2] });
    assert.strictEqual(await client.get('missing').string(), null);
    assert.ok(await client.get('foo').exists());
    const binary = Buffer.from([0, 255, 1, 254]);
    await client.put(Buffer.from([1, 0, 255])).value(binary);
    assert.deepStrictEqual(await client.get(Buffer.from([1, 0, 255])).buffer(), binary);
  },

  async 'ranges, sorted and limited'() {
    for (let i = 0; i < 20; i++) await client.put(`r/${String(i).padStart(2, '0')}`).value(String(20 - i));
    assert.strictEqual(Object.keys(await client.getAll().prefix('r/').strings()).length, 20);
    assert.strictEqual(await client.getAll().prefix('r/').count(), 20);
    const keys = await client.getAll().prefix('r/').sort('Key', 'Descend').limit(3).keys();
    assert.deepStrictEqual(keys, ['r/19', 'r/18', 'r/17']);
    const answer = await client.delete().prefix('r/').getPrevious();
    assert.strictEqual(answer.length, 20);
  },

  async 'transactions'() {
    await client.put('t').value('1');
    const won = await client.if('t', 'Value', '==', '1').then(client.put('t').value('2')).else(client.get('t')).commit();
    assert.ok(won.succeeded);
    const lost = await client.if('t', 'Version', '<', 1).then(client.put('t').value('3')).else(client.get('t')).commit();
    assert.ok(!lost.succeeded);
    assert.strictEqual(lost.responses[0].response_range.kvs[0].value.toString(), '2');
  },

  async 'software transactional memory'() {
    await client.put('stm').value('0');
    await Promise.all(
      Array.from({ length: 5 }, () =>
        client
          .stm({ retries: 100 })
          .transact(async (tx) => tx.put('stm').value(Number(await tx.get('stm').string()) + 1))),
    );
    assert.strictEqual(await client.get('stm').number(), 5);
  },

  async 'watchers of keys and prefixes, and past revisions'() {
    const first = await client.put('w/a').value('0');
    const watcher = await client.watch().prefix('w/').create();
    const put = next(watcher, 'put');
    await client.put('w/a').value('1');
    assert.strictEqual((await put).value.toString(), '1');
    const gone = next(watcher, 'delete');
    await client.delete().key('w/a');
    assert.strictEqual((await gone).key.toString(), 'w/a');
    await watcher.cancel();
    const late = client.watch().key('w/a').startRevision(first.header.revision).watcher();
    assert.strictEqual((await next(late, 'put')).value.toString(), '0');
    await late.cancel();
  },

  async 'leases live as long as they are kept alive'() {
    const lease = client.lease(2, { autoKeepAlive: true });
    await lease.put('leased').value('x');
    await sleep(4000);
    assert.strictEqual(await client.get('leased').string(), 'x');
    await lease.revoke();
    assert.strictEqual(await client.get('leased').string(), null);
    const short = client.lease(2, { autoKeepAlive: false });
    await short.put('short').value('x');
    const watcher = await client.watch().key('short').create();
    await next(watcher, 'delete');
    await watcher.cancel();
    short.release();
  },

  async 'locks'() {
    const first = client.lock('lock');
    await first.acquire();
    await assert.rejects(client.lock('lock').acquire(), EtcdLockFailedError);
    await first.release();
    await client.lock('lock').do(async () => assert.ok(await client.get('lock').exists()));
  },

  async 'elections'() {
    const other = open();
    try {
      const election = client.election('singleton', 5);
      const observer = await other.election('singleton', 5).observe();
      const campaign = election.campaign('host-1');
      await next(campaign, 'elected');
      for (let tries = 0; observer.leader() !== 'host-1' && tries < 200; tries++) await sleep(50);
      assert.strictEqual(observer.leader(), 'host-1');
      await campaign.proclaim('host-2');
      for (let tries = 0; observer.leader() !== 'host-2' && tries < 200; tries++) await sleep(50);
      assert.strictEqual(observer.leader(), 'host-2');
      await campaign.resign();
      await observer.cancel();
    } finally {
      other.close();
    }
  },

  async 'namespaces'() {
    const space = client.namespace('space/');
    await space.put('a').value('1');
    assert.strictEqual(await client.get('space/a').string(), '1');
    assert.deepStrictEqual(await space.getAll().keys(), ['a']);
  },

  async 'members and maintenance'() {
    const members = await client.cluster.memberList({});
    assert.ok(members.members.length >= 1);
    const status = await client.maintenance.status();
    assert.ok(status.version && Number(status.dbSize) > 0);
  },
};

(async () => {
  let count = 0, failed = 0;

  await client.delete().all();
  for (const [name, run] of Object.entries(tests)) {
    count++;
    try {
      await run();
      console.log(`ok ${count} - ${name}`);
    } catch (error) {
      failed++;
      console.log(`not ok ${count} - ${name}\n# ${String(error.stack).replace(/\n/g, '\n# ')}`);
    }
  }
  console.log(`1..${count}`);
  client.close();
  process.exit(failed ? 1 : 0);
})();
