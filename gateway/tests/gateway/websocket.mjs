// Two sessions over Node's own WebSocket: `node --experimental-websocket websocket.mjs URL` (since 22 without the flag). Prints what was heard of each, a line of JSON each.
//
// Lives here: a client that shares no line with ours. Does not: judging what it heard (websocket.rs).

const URL = process.argv[2];

function session(messages) {
  return new Promise((resolve) => {
    const socket = new WebSocket(URL, ['weft.v1']);
    const heard = [];
    socket.onopen = () => messages.forEach((message) => socket.send(message));
    socket.onmessage = ({ data }) => heard.push(JSON.parse(data));
    socket.onclose = ({ code, wasClean }) => resolve({ protocol: socket.protocol, heard, code, wasClean });
  });
}

for (const messages of [['{"text":"a"}', '{"text":"naïve 日本"}', ''], ['{"text":"a"}', '{"text":1}']]) {
  console.log(JSON.stringify(await session(messages)));
}
