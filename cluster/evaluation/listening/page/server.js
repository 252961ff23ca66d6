// What the page asks its server for. It knows sounds by their letters; no more is told.

async function call(method, path, body) {
  const options = { method, headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running? Then try again; what you did here is not lost.");
  }
  if (!reply.ok) throw new Error((await reply.json()).error?.message ?? `the server answered ${reply.status}`);
  return reply;
}

const json = async (...request) => (await call(...request)).json();

export const begin = (listener) => json("POST", "api/sessions", { listener });

export class Screens {
  constructor(session) {
    this.path = `api/sessions/${session}/screens`;
  }

  /** What was answered on a screen before, or null. */
  async answer(number) {
    return (await json("GET", `${this.path}/${number}`)).answer;
  }

  /** The samples of a sound, at full scale 1. */
  async sound(number, name) {
    const bytes = await (await call("GET", `${this.path}/${number}/${name}`)).arrayBuffer();
    const view = new DataView(bytes);
    return Float32Array.from({ length: bytes.byteLength / 2 }, (_, i) => view.getInt16(2 * i, true) / 32768);
  }

  store(number, reply) {
    return json("PUT", `${this.path}/${number}`, reply);
  }
}
