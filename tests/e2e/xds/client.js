// A stock gRPC client (@grpc/grpc-js with @grpc/grpc-js-xds) that calls Echo as it is told on stdin, and answers each word with a line of JSON.
//
//     client.js TARGET PROTO_DIR [--secure]
//
// The words are those of client.py. It knows nothing of weft; the modules are found by NODE_PATH.
const readline = require('readline');
const grpc = require('@grpc/grpc-js');
const xds = require('@grpc/grpc-js-xds');
const loader = require('@grpc/proto-loader');

xds.register();
const [target, protos] = process.argv.slice(2);
const loaded = grpc.loadPackageDefinition(
  loader.loadSync('weft/testkit/v1/echo.proto', { includeDirs: [protos], keepCase: true }),
);
const plain = grpc.credentials.createInsecure();
const credentials = process.argv.includes('--secure') ? new xds.XdsChannelCredentials(plain) : plain;
const stub = new loaded.weft.testkit.v1.Echo(target, credentials);

const tally = () => ({ answered: {}, failed: {} });
const tell = (it) => console.log(JSON.stringify(it));

function call(into, options) {
  const { fail = 0, delay = 0, timeout = 20, ...headers } = options;
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  const deadline = Date.now() + Number(timeout) * 1000;
  const request = { text: 'x', fail_with: Number(fail), delay_ms: Number(delay) };
  return new Promise((done) => {
    stub.Unary(request, metadata, { deadline }, (error, said) => {
      const [of, key] = error ? [into.failed, `${grpc.status[error.code]} ${error.details}`] : [into.answered, said.instance];
      of[key] = (of[key] || 0) + 1;
      done();
    });
  });
}

let [stopped, running, total] = [false, [], tally()];

async function runUntilStopped() {
  while (!stopped) await call(total, {});
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [word, ...rest] = line.split(' ');
    if (word === 'calls') {
      const counted = tally();
      const options = Object.fromEntries(rest.slice(1).map((it) => it.split('=')));
      for (let n = 0; n < Number(rest[0]); n++) await call(counted, options);
      tell(counted);
    } else if (word === 'start') {
      running = [1, 2, 3, 4].map(runUntilStopped);
      tell(tally());
    } else if (word === 'stop') {
      stopped = true;
      await Promise.all(running);
      tell(total);
    } else if (word === 'tell') {
      tell(total);
    }
  }
  stub.close();
  process.exit(0);
}

main();
