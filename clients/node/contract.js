// The contract as grpc-js has it: the files of `proto/`, read by proto-loader, which is what stands for generated code in Node.
//
// Lives here: where the files are and how values look. Does not: calls. `cargo xtask clients` puts the files beside this one, and TypeScript's view of
// them into `types/`.

import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('./proto', import.meta.url));
const FILES = ['users', 'ring'].flatMap((area) => {
  const folder = `shop/${area}/v1`;
  return readdirSync(`${PROTO}/${folder}`).map((file) => `${folder}/${file}`);
});

export const definition = loader.loadSync(FILES, { includeDirs: [PROTO], longs: String, enums: String, defaults: true, oneofs: true });

export const shop = grpc.loadPackageDefinition(definition).shop;
