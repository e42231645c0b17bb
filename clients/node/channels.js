// The three ways from a Node program into the mesh, each an ordinary gRPC channel.
//
// Lives here: which address, and which authority. Does not: calls.

import grpc from '@grpc/grpc-js';

const plaintext = grpc.credentials.createInsecure();

// Through the gateway: it finds the service by the gRPC name of the call.
export const byGateway = (address) => new grpc.Channel(address, plaintext, {});

// Through the sidecar beside this process, which finds the service by the authority.
export const bySidecar = (service) => {
  const outbound = new URL(process.env.WEFT_OUTBOUND).host;
  return new grpc.Channel(outbound, plaintext, { 'grpc.default_authority': service });
};

// Without anything in between: instances and policies come from the registry, as GRPC_XDS_BOOTSTRAP says.
export const byXds = async (service) => {
  const { register } = await import('@grpc/grpc-js-xds');
  register();
  return new grpc.Channel(`xds:///${service}`, plaintext, {});
};

// Opens the channel that `gateway=HOST:PORT`, `sidecar` or `xds` means.
export const openChannel = (way, service) => {
  const [kind, address] = way.split('=');
  if (kind === 'gateway' && address) return byGateway(address);
  if (way === 'sidecar') return bySidecar(service);
  if (way === 'xds') return byXds(service);
  throw new Error(`${way} is no way into the mesh: gateway=HOST:PORT, sidecar or xds`);
};

// A client of `Client` on a channel that is already there.
export const clientOn = (Client, channel) => new Client('', plaintext, { channelOverride: channel });
