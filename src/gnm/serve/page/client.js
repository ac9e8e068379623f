// The service's endpoints, for the page. The key, if one is needed, stays in this tab (sessionStorage).

const KEY = "gnm-key";

export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function send(method, path, body, headers = {}) {
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body });
  } catch {
    throw new ServiceError(0, "The service cannot be reached; is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new ServiceError(answer.status, told?.error?.message ?? `The service answered ${answer.status}.`);
}

const json = (method, path, value) =>
  send(method, path, JSON.stringify(value), { "Content-Type": "application/json" });
const at = (name, rest = "") => `v1/memories/${encodeURIComponent(name)}${rest}`;
const value = async (answer) => (await answer).json();

export const memories = () => value(send("GET", "v1/memories"));
export const inspect = (name) => value(send("GET", at(name)));
export const remove = (name) => send("DELETE", at(name));
export const write = (name, body) => value(json("POST", at(name, "/documents"), body));
export const forget = (name, number) => value(send("DELETE", at(name, `/documents/${number}`)));
export const revoke = (name, instruction) => value(json("POST", at(name, "/revoke"), { instruction }));
export const undo = (name) => value(send("POST", at(name, "/undo")));
export const exported = async (name) => (await send("GET", at(name, "/file"))).blob();
export const imported = (name, file) => value(send("PUT", at(name, "/file"), file));

// Calls take(piece) with each piece of the answer to a question.
export async function ask(name, question, take) {
  const answer = await json("POST", at(name, "/ask"), { questions: [question], stream: true });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value: text } = await reader.read();
    if (done) return;
    held += text;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new ServiceError(500, told.error.message);
      take(told.text);
    }
  }
}
