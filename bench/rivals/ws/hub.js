// A hub on ws: what a client of any path but /echo sends goes to all of them. With DEFLATE=on it
// compresses as ws does by default: for each connection, with a window of its own.
'use strict';

const http = require('node:http');
const { WebSocket, WebSocketServer } = require('ws');

const BACKLOG = 4096;
const PING_INTERVAL_MS = 25_000;
const QUEUE_BYTES_MAX = 256 * 1024;

const server = http.createServer();
const sockets = new WebSocketServer({
  server,
  clientTracking: false,
  maxPayload: 64 * 1024,
  perMessageDeflate: process.env.DEFLATE === 'on',
  skipUTF8Validation: true,
});
const clients = new Set();

function heard() {
  this.isAlive = true;
}

function forget() {
  clients.delete(this);
}

function echo(data, isBinary) {
  this.send(data, { binary: isBinary });
}

function broadcast(data, isBinary) {
  const options = { binary: isBinary };
  for (const client of clients) {
    if (client.readyState !== WebSocket.OPEN) continue;
    if (client.bufferedAmount > QUEUE_BYTES_MAX) client.terminate();
    else client.send(data, options);
  }
}

sockets.on('connection', (socket, request) => {
  socket.on('error', () => {});
  if (request.url === '/echo') {
    socket.on('message', echo);
    return;
  }
  socket.isAlive = true;
  clients.add(socket);
  socket.on('pong', heard);
  socket.on('close', forget);
  socket.on('message', broadcast);
});

setInterval(() => {
  for (const client of clients) {
    if (!client.isAlive) {
      client.terminate();
      continue;
    }
    client.isAlive = false;
    client.ping();
  }
}, PING_INTERVAL_MS);

server.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: BACKLOG });
