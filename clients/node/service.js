// A small service of the ring, with health and reflection, that knows nothing of weft but two variables.
//
// It listens on 127.0.0.1:$PORT, as the sidecar beside it said, and calls others by WEFT_OUTBOUND. SIGTERM lets calls finish.

import { createRequire } from 'node:module';
import grpc from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { bySidecar, clientOn } from './channels.js';
import { definition, shop } from './contract.js';

const NAME = 'shop.ring.v1.Node';
const MOST_HOPS = 100;
const { version } = createRequire(import.meta.url)('@grpc/grpc-js/package.json');
// What a service hands on with the calls it makes, so that they are one trace.
const HANDED_ON = ['traceparent', 'tracestate'];

const clients = new Map();

// A client of a service of the ring; its language has the service's name.
const clientOf = (service) => {
  if (!clients.has(service)) {
    const Service = shop.ring.v1[service[0].toUpperCase() + service.slice(1)];
    if (!Service) return undefined;
    clients.set(service, clientOn(Service, bySidecar(service)));
  }
  return clients.get(service);
};

const pass = (call, answer) => {
  const [following, ...route] = call.request.route;
  if (route.length >= MOST_HOPS) {
    answer({ code: grpc.status.INVALID_ARGUMENT, details: `route has ${route.length + 1} names, at most ${MOST_HOPS}` });
    return;
  }
  const metadata = new grpc.Metadata();
  for (const key of HANDED_ON) for (const value of call.metadata.get(key)) metadata.add(key, value);
  const hop = {
    service: process.env.WEFT_SERVICE ?? 'node',
    instance: process.env.WEFT_INSTANCE ?? '',
    library: `grpc-js ${version}`,
    traceId: String(call.metadata.get('traceparent')[0] ?? '').split('-')[1] ?? '',
  };
  if (following === undefined) {
    answer(null, { hops: [hop] });
    return;
  }
  const next = clientOf(following);
  if (!next) {
    answer({ code: grpc.status.INVALID_ARGUMENT, details: `${following} is not of the ring` });
    return;
  }
  next.pass({ route }, metadata, { deadline: call.getDeadline() }, (error, response) => {
    if (error) answer({ code: error.code, details: `${following}: ${error.details}` });
    else answer(null, { hops: [hop, ...response.hops] });
  });
};

const server = new grpc.Server();
server.addService(shop.ring.v1.Node.service, { pass });
const health = new HealthImplementation({ '': 'SERVING', [NAME]: 'SERVING' });
health.addToServer(server);
// Health is left out: of a message with a map, which its newest method has, proto-loader makes a descriptor that no other library takes.
new ReflectionService(definition, { services: [NAME] }).addToServer(server);
server.bindAsync(`127.0.0.1:${process.env.PORT}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});

process.on('SIGTERM', () => server.tryShutdown(() => process.exit(0)));
