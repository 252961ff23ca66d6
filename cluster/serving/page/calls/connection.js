// The WebSocket protocol of live calls (docs/serving.md), seen from the client.

const ADDRESS = "v1/audio/denoise/stream";

/** What ended a connection. code: for programs, also "unreachable", "lost", "bad_key"; message: for people. */
export class ConnectionError extends Error {
  constructor(code, message, retryAfterS = null) {
    super(message);
    Object.assign(this, { code, retryAfterS });
  }
}

const UNREACHABLE = "The server does not answer. Check that it runs and that you are online, then try again.";
const LOST = "The connection to the server was lost. What came back until then is kept below.";

function openSocket(query, key) {
  const address = new URL(ADDRESS, document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.search = new URLSearchParams(query);
  try {
    // Browsers cannot set headers here: the key travels as the name of a subprotocol.
    return new WebSocket(address, key ? ["wave-wizard", `key.${key}`] : ["wave-wizard"]);
  } catch {
    throw new ConnectionError("unauthorized", "This key has characters that no key has. Copy it once more.");
  }
}

export class Connection {
  /** handlers: onSound(Int16Array), onMessage(object), onEnd(ConnectionError | null), called in this order.
   *
   * Returns once the server has answered; `created` is its answer. Raises ConnectionError.
   */
  static async open({ key, ...query }, handlers) {
    const connection = new Connection(openSocket({ encoding: "pcm_s16le", ...query }, key), handlers);
    connection.created = await connection.answer;
    return connection;
  }

  constructor(socket, handlers) {
    Object.assign(this, { socket, handlers, created: null, error: null, flushed: false });
    this.answer = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.lastSentMs = performance.now();
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.receive(data);
    socket.onclose = () => this.end();
  }

  receive(data) {
    if (data instanceof ArrayBuffer) {
      this.handlers.onSound(new Int16Array(data));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "session.created") this.resolve(message);
    else if (message.type === "error") {
      this.error = new ConnectionError(message.code, message.message, message.retry_after_s ?? null);
    } else {
      if (message.type === "flushed") this.flushed = true;
      this.handlers.onMessage(message);
    }
  }

  end() {
    const error = this.error ?? (this.flushed ? null : new ConnectionError("lost", LOST));
    if (this.created) this.handlers.onEnd(error);
    else this.reject(this.error ?? new ConnectionError("unreachable", UNREACHABLE));
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  /** Bytes that the network has not taken yet. */
  get bufferedBytes() {
    return this.socket.bufferedAmount;
  }

  send(data) {
    if (!this.isOpen) return;
    this.lastSentMs = performance.now();
    this.socket.send(data instanceof Int16Array ? data : JSON.stringify(data));
  }

  /** So that a paused call is not taken for a dead one. */
  keepAlive() {
    if (performance.now() - this.lastSentMs > 20_000) this.send({ type: "ping" });
  }

  /** Asks for what is still inside and then for the end. */
  finish() {
    this.send({ type: "close" });
  }

  abandon() {
    this.handlers = { onSound() {}, onMessage() {}, onEnd() {} };
    this.socket.close();
  }
}
