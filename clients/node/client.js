// A client of the example service `users`, and of the ring.
//
//   client.js WAY users                   makes a user, reads it back, lists; prints its id
//   client.js WAY ring SERVICE[,NEXT…]    passes the pass around; prints a line for each hop
//
// WAY is gateway=HOST:PORT, sidecar (WEFT_OUTBOUND) or xds (GRPC_XDS_BOOTSTRAP).

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import grpc from '@grpc/grpc-js';
import { clientOn, openChannel } from './channels.js';
import { shop } from './contract.js';

const DEADLINE = 10_000;

// One call of `method` as a promise.
const ask = (client, method, request) =>
  new Promise((resolve, reject) => {
    const done = (error, response) => (error ? reject(error) : resolve(response));
    client[method](request, { deadline: Date.now() + DEADLINE }, done);
  });

const users = async (way) => {
  const client = clientOn(shop.users.v1.Users, await openChannel(way, 'users'));
  const made = await ask(client, 'createUser', { name: 'Ada', email: `ada+${randomUUID()}@example.com` });
  assert.deepEqual(await ask(client, 'getUser', { id: made.id }), made);
  assert.equal((await ask(client, 'listUsers', { pageSize: 1 })).users.length, 1);
  const nobody = await ask(client, 'getUser', { id: 'nobody' }).catch((error) => error);
  assert.equal(nobody.code, grpc.status.NOT_FOUND, nobody);
  console.log(made.id);
  client.close();
};

const ring = async (way, [first, ...route]) => {
  const Service = shop.ring.v1[first[0].toUpperCase() + first.slice(1)];
  const client = clientOn(Service, await openChannel(way, first));
  for (const hop of (await ask(client, 'pass', { route })).hops) {
    console.log(hop.service, hop.instance, hop.traceId || '-', hop.library);
  }
  client.close();
};

const [way, what, route] = process.argv.slice(2);
if (way && what === 'users') {
  await users(way);
} else if (way && what === 'ring' && route) {
  await ring(way, route.split(','));
} else {
  console.error('client.js gateway=HOST:PORT|sidecar|xds users | ring SERVICE[,NEXT…]');
  process.exitCode = 2;
}
