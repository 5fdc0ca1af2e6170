// The commands and events of `peer.py` on a class that has the browsers' WebSocket interface:
// a browser's own, or one of Node.js.

const toBase64 = (bytes) => {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
};

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** A function that takes one command; `say` is called with each event. `open` makes a socket. */
export const sockets = (open, say) => {
  const all = new Map();
  return (command) => {
    const id = command.id;
    if (command.do === "send") {
      all.get(id).send("text" in command ? command.text : fromBase64(command.binary));
      return;
    }
    if (command.do === "close") {
      all.get(id).close(command.code, command.reason);
      return;
    }
    const socket = open(command.url, command.protocols ?? [], command.compression);
    let isOpen = false;
    let cause = "closed before it was open";
    all.set(id, socket);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      isOpen = true;
      say({ is: "open", id, protocol: socket.protocol, extensions: socket.extensions });
    };
    socket.onmessage = ({ data }) => {
      const isText = typeof data === "string";
      const payload = isText ? { text: data } : { binary: toBase64(new Uint8Array(data)) };
      say({ is: "message", id, ...payload });
    };
    socket.onerror = (event) => {
      cause = event.message ?? cause;
    };
    socket.onclose = ({ code, reason }) => {
      say(isOpen ? { is: "closed", id, code, reason } : { is: "failed", id, error: cause });
    };
  };
};
