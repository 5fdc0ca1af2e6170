// The peers of Node.js: `ws` and `undici` (npm), by the first argument.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { sockets } from "./sockets.mjs";

const [name] = process.argv.slice(2);
const modules = process.env.RINGWAY_NODE_MODULES;
const { version } = JSON.parse(readFileSync(`${modules}/${name}/package.json`, "utf8"));
const library = createRequire(`${modules}/`)(name);

const open = {
  ws: (url, protocols, compression) =>
    new library.WebSocket(url, protocols, {
      maxPayload: 0,
      ...(compression === undefined ? {} : { perMessageDeflate: compression }),
    }),
  // It always offers permessage-deflate, as browsers do.
  undici: (url, protocols) => new library.WebSocket(url, protocols),
}[name];

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const take = sockets(open, say);
say({ peer: name, version });
for await (const line of createInterface({ input: process.stdin })) {
  take(JSON.parse(line));
}
process.exit();
