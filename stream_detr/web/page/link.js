// The connection: pictures and states in, commands out. Reconnects by itself.

const SLOWEST_RETRY_MS = 5000;
const TRIES_BEFORE_FALLBACK = 3;

export class Link {
  // on: {hello, state, picture, error, camera, up, down, gone, refused, blocked}
  constructor(on) {
    this.on = on;
    this.tries = 0;
    this.wasUp = false;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/socket`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.tries = 0;
      this.wasUp = true;
      this.on.up();
    };
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.text(data) : this.picture(data));
    this.socket.onclose = (event) => this.closed(event);
  }

  async closed(event) {
    this.on.down(event.reason);
    this.tries += 1;
    setTimeout(() => this.connect(), Math.min(SLOWEST_RETRY_MS, 300 * 2 ** this.tries));
    if (this.tries < TRIES_BEFORE_FALLBACK) return;
    // A socket that fails doesn't say why; an ordinary request does.
    const answer = await fetch("/state").catch(() => null);
    if (!answer) this.on.gone();
    else if (answer.status === 401) this.on.refused();
    else if (answer.ok && !this.wasUp) this.on.blocked((await answer.json()).state);
  }

  text(data) {
    const message = JSON.parse(data);
    for (const kind of ["hello", "state", "camera", "error"]) if (kind in message) this.on[kind](message[kind]);
  }

  async picture(data) {
    const length = new DataView(data).getUint32(0, true);
    const shown = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const start = 4 + length;
    shown.arrived = performance.now();
    shown.grids = new Uint8Array(data, start + shown.jpeg);
    try {
      shown.image = await createImageBitmap(new Blob([new Uint8Array(data, start, shown.jpeg)], { type: "image/jpeg" }));
      this.on.picture(shown);
    } finally {
      // Only now: a browser that is slow to decode gets fewer pictures.
      this.send({ do: "ack", stream: shown.stream, number: shown.number });
    }
  }

  get isUp() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  get waiting() {
    return this.socket.bufferedAmount;
  }

  send(command) {
    if (this.isUp) this.socket.send(command instanceof Blob ? command : JSON.stringify(command));
  }
}
