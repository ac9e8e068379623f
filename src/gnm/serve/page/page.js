// The page: a document with its instruction, what was stored, questions with and without memory.

import * as service from "./client.js";
import { element, pool, shading } from "./shading.js";

const EMPTY = "no-memory";
const NAME = "gnm-memory";
const at = (id) => document.getElementById(id);
const name = () => at("memory").value.trim();

let examples = [];
let canUndo = false;
let last = null; // what was written or tried last: {document, title, written}

function tell(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// Runs what a control does: buttons of its form are off meanwhile, errors are told.
async function during(what, form, work) {
  const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
  for (const button of buttons) button.disabled = true;
  tell(`${what} …`);
  try {
    tell((await work()) ?? "");
  } catch (error) {
    if (error.status === 401) at("sign-in").hidden = false;
    tell(error.message, true);
  } finally {
    for (const button of buttons) button.disabled = false;
    at("undo").disabled = !canUndo;
  }
}

function show(memory) {
  const stored = memory.stored ? `, ${memory.stored} in the store` : "";
  at("used").textContent = `· ${memory.slots} slots${memory.capacity ? ` of ${memory.capacity}` : ""}${stored}`;
  at("pool").replaceChildren(...pool(memory, (number) =>
    during("Forgetting", at("pool"), async () => {
      show(await service.forget(name(), number));
      return `Document ${number} is forgotten; Undo brings it back.`;
    })));
  if (memory.documents.length === 0) at("pool").append(element("li", { className: "hint", text: "Nothing is stored." }));
  canUndo = memory.can_undo;
}

async function refresh() {
  const known = await service.memories();
  at("sign-in").hidden = true;
  at("memories").replaceChildren(...known.memories.map((each) => element("option", { value: each })));
  if (known.memories.includes(name())) show(await service.inspect(name()));
  else show({ slots: 0, capacity: null, stored: null, can_undo: false, documents: [] });
}

// The newest shading; beside the one before, if that is of the same document.
function showShading(title, written) {
  const text = at("document").value;
  const before = last?.document === text && last.written.instruction !== written.instruction ? last : null;
  const shadings = before ? [shading(before.title, before.written)] : [];
  at("shadings").replaceChildren(...shadings, shading(title, written));
  last = { document: text, title, written };
}

async function write(store) {
  const body = { document: at("document").value, instruction: at("instruction").value, store };
  const written = await service.write(name(), body);
  showShading(store ? `Document ${written.number}` : "Preview, not stored", written);
  if (store) await refresh();
  return store ? `Document ${written.number} is written: ${written.slots} slots.` : "Nothing was changed.";
}

// The answer without memory is asked for when the one with memory is whole: side by side each would be half as fast.
async function ask() {
  const question = at("question").value.trim();
  const memory = at("pool").querySelector(".what") ? name() : EMPTY;
  const answers = [element("p"), element("p")];
  for (const [place, from] of ["With memory", "Without"].entries()) {
    answers[place].append(element("span", { className: "from", text: from }), "");
  }
  at("answers").prepend(element("article", { className: "answer" },
    element("p", { text: question }), element("div", { className: "both" }, ...answers)));
  for (const [place, from] of [memory, EMPTY].entries()) {
    await service.ask(from, question, (piece) => { answers[place].lastChild.data += piece; });
  }
  return "Answered.";
}

function chips(list, texts, take) {
  list.replaceChildren(...texts.map((text) =>
    element("li", {}, element("button", { text, type: "button", onclick: () => take(text) }))));
}

function useExample(example) {
  at("document").value = example.document;
  at("instruction").value = example.instructions[0];
  at("question").value = example.questions[0];
  chips(at("instructions"), example.instructions, (text) => { at("instruction").value = text; });
  chips(at("questions"), example.questions, (text) => { at("question").value = text; at("ask").requestSubmit(); });
}

const submits = (id, what, work) => at(id).addEventListener("submit", (event) => {
  event.preventDefault();
  during(what, at(id), work);
});

async function open() {
  localStorage.setItem(NAME, name());
  last = null;
  at("shadings").replaceChildren();
  at("answers").replaceChildren();
  await refresh();
  return `Memory ${name()} is open.`;
}

submits("choose", "Opening", open);
submits("sign-in", "Signing in", async () => {
  service.useKey(at("key").value.trim());
  at("key").value = "";
  return open();
});
submits("write", "Reading and writing", () => write(true));
submits("ask", "Asking", ask);
submits("revoke", "Taking back", async () => {
  const memory = await service.revoke(name(), at("words").value);
  show(memory);
  if (memory.dropped === 0) return "Nothing is taken back: no slot was understood to be about that.";
  return `${memory.dropped} slots are taken back; Undo brings them back.`;
});
at("preview").addEventListener("click", () => {
  if (at("write").reportValidity()) during("Reading", at("write"), () => write(false));
});
at("undo").addEventListener("click", () => during("Undoing", at("undo").parentElement, async () => {
  show(await service.undo(name()));
  return "The last change is undone.";
}));
at("write").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    at("write").requestSubmit();
  }
});
at("example").addEventListener("change", () => useExample(examples[at("example").selectedIndex]));
at("file").addEventListener("change", async () => {
  const [file] = at("file").files;
  if (file) at("document").value = await file.text();
});
at("export").addEventListener("click", () => during("Exporting", at("more"), async () => {
  const link = element("a", { href: URL.createObjectURL(await service.exported(name())), download: `${name()}.mem` });
  link.click();
  URL.revokeObjectURL(link.href);
}));
at("import").addEventListener("change", () => during("Importing", at("more"), async () => {
  show(await service.imported(name(), at("import").files[0]));
  at("import").value = "";
  return `The file is memory ${name()} now.`;
}));
at("delete").addEventListener("click", () => {
  if (confirm(`Delete the memory ${name()}? This cannot be undone.`)) {
    during("Deleting", at("more"), async () => {
      await service.remove(name());
      return open();
    });
  }
});

at("memory").value = localStorage.getItem(NAME) ?? "first";
examples = await (await fetch("examples.json")).json();
at("example").replaceChildren(...examples.map((example) => element("option", { text: example.title })));
useExample(examples[0]);
await during("Opening", at("choose"), refresh);
