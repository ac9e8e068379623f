// The page: a document with its instruction, what was stored, questions with and without memory.

import * as service from "./client.js";
import { element, pool, shading } from "./shading.js";

const EMPTY = "no-memory";
const NAME = "gnm-memory"; // in sessionStorage: the next person at this browser is not told it
const at = (id) => document.getElementById(id);

let examples = [];
let opened = null; // the name of the memory that is shown; the field may hold another, which is not open yet
let mostCharacters = Infinity; // of a document; the service tells
let canUndo = false;
const busy = new Set(); // forms whose work is not done
let last = null; // what was written or tried last: {document, title, written}

function tell(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// What all actions work on.
function memory() {
  if (opened === null) throw new Error("No memory is open; give a name above and press Open.");
  return opened;
}

// Runs what a control does: its form does nothing else meanwhile, errors are told.
async function during(what, form, work) {
  if (busy.has(form)) return;
  busy.add(form);
  const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
  for (const button of buttons) button.disabled = true;
  tell(`${what} …`);
  try {
    tell((await work()) ?? "");
  } catch (error) {
    tell(error.message, true);
    if (error.status === 401) {
      at("sign-in").hidden = false;
      at("key").focus();
    }
  } finally {
    busy.delete(form);
    for (const button of buttons) button.disabled = false;
    at("undo").disabled = !canUndo;
  }
}

// Shows what is in a memory, unless another was opened meanwhile.
function show(found) {
  if (found.name !== opened) return;
  const stored = found.stored ? `, ${found.stored} in the store` : "";
  at("opened").textContent = `· ${opened}`;
  at("used").textContent = `· ${found.slots} slots${found.capacity ? ` of ${found.capacity}` : ""}${stored}`;
  at("pool").replaceChildren(...pool(found, (number) => forget(found, number)));
  if (found.documents.length === 0) at("pool").append(element("li", { className: "hint", text: "Nothing is stored." }));
  canUndo = found.can_undo;
  at("undo").disabled = !canUndo;
}

const undoing = (changed, what) => (changed.can_undo ? `; Undo brings ${what} back` : "");

function forget(shown, number) {
  during("Forgetting", at("pool"), async () => {
    const changed = await service.forget(shown.name, number);
    show(changed);
    const place = shown.documents.findIndex((each) => each.number === number);
    const next = at("pool").querySelectorAll("button")[place] ?? (canUndo ? at("undo") : at("words"));
    if (document.activeElement === document.body) next.focus(); // the button that was pressed is gone
    return `Document ${number} is forgotten${undoing(changed, "it")}.`;
  });
}

// What is in a memory; there need not be one of this name.
async function contents(name) {
  const known = await service.memories();
  at("sign-in").hidden = true;
  at("memories").replaceChildren(...known.memories.map((each) => element("option", { value: each })));
  mostCharacters = known.document_characters;
  if (known.memories.includes(name)) return service.inspect(name);
  return { name, slots: 0, capacity: null, stored: null, can_undo: false, documents: [] };
}

// The newest shading, of the document `text`; beside the one before, if that is of the same document.
function showShading(title, text, written) {
  const before = last?.document === text && last.written.instruction !== written.instruction ? last : null;
  const shadings = before ? [shading(before.title, before.written)] : [];
  at("shadings").replaceChildren(...shadings, shading(title, written));
  last = { document: text, title, written };
}

async function write(store) {
  const long = at("split").checked ? "split" : "refuse";
  const body = { document: at("document").value, instruction: at("instruction").value, long, store };
  const name = memory();
  const written = await service.write(name, body);
  if (name === opened) showShading(store ? `Document ${written.number}` : "Preview, not stored", body.document, written);
  if (store) show(await contents(name));
  return store ? `Document ${written.number} is written: ${written.slots} slots.` : "Nothing was changed.";
}

// The answer without memory is asked for when the one with memory is whole: side by side each would be half as fast.
async function ask() {
  const question = at("question").value.trim();
  const name = memory();
  const answers = [element("p"), element("p")];
  for (const [place, from] of ["With memory", "Without"].entries()) {
    answers[place].append(element("span", { className: "from", text: from }), "");
  }
  at("answers").prepend(element("article", { className: "answer" },
    element("p", { text: question }), element("div", { className: "both" }, ...answers)));
  const answer = (from, place) => service.ask(from, question, (piece) => { answers[place].lastChild.data += piece; });
  try {
    await answer(name, 0);
  } catch (error) {
    if (error.status !== 404) throw error; // a memory is begun by its first document
    answers[0].firstChild.textContent = "With memory, which is empty";
    await answer(EMPTY, 0);
  }
  await answer(EMPTY, 1);
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

async function open(name = at("memory").value.trim()) {
  const found = await contents(name);
  opened = name;
  show(found);
  sessionStorage.setItem(NAME, name);
  last = null;
  at("shadings").replaceChildren();
  at("answers").replaceChildren();
  return `Memory ${name} is open${name === EMPTY ? "; it is always empty, nothing can be written to it" : ""}.`;
}

// A text file becomes the document; the field is empty then, so that the same file can be chosen again.
async function readFile() {
  const [file] = at("file").files;
  at("file").value = "";
  const tooLong = new Error(`${file.name} has more than ${mostCharacters} characters, the service's limit.`);
  if (file.size > 4 * mostCharacters) throw tooLong; // a character has up to 4 bytes
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is no text in UTF-8; save it as UTF-8 and choose it again.`);
  }
  if ([...text].length > mostCharacters) throw tooLong;
  at("document").value = text;
  return `${file.name} is the document now.`;
}

submits("choose", "Opening", () => open());
submits("sign-in", "Signing in", async () => {
  service.useKey(at("key").value.trim());
  at("key").value = "";
  const told = await open();
  at("document").focus();
  return told;
});
submits("write", "Reading and writing", () => write(true));
submits("ask", "Asking", ask);
submits("revoke", "Taking back", async () => {
  const changed = await service.revoke(memory(), at("words").value);
  show(changed);
  if (changed.dropped === 0) return "Nothing is taken back: no slot was understood to be about that.";
  return `${changed.dropped} slots are taken back${undoing(changed, "them")}.`;
});
at("preview").addEventListener("click", () => {
  if (at("write").reportValidity()) during("Reading", at("write"), () => write(false));
});
at("undo").addEventListener("click", () => during("Undoing", at("undo").parentElement, async () => {
  show(await service.undo(memory()));
  return "The last change is undone.";
}));
at("write").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!event.repeat) at("write").requestSubmit();
  }
});
at("example").addEventListener("change", () => useExample(examples[at("example").selectedIndex]));
at("file").addEventListener("change", () => {
  if (at("file").files.length) during("Reading the file", at("file"), readFile);
});
at("export").addEventListener("click", () => during("Exporting", at("more"), async () => {
  const name = memory();
  const link = element("a", { href: URL.createObjectURL(await service.exported(name)), download: `${name}.mem` });
  link.click();
  URL.revokeObjectURL(link.href);
}));
at("import").addEventListener("change", () => during("Importing", at("more"), async () => {
  const [file] = at("import").files;
  at("import").value = "";
  const name = memory();
  show(await service.imported(name, file));
  return `The file is memory ${name} now.`;
}));
at("delete").addEventListener("click", () => during("Deleting", at("more"), async () => {
  const name = memory();
  if (!confirm(`Delete the memory ${name}? This cannot be undone.`)) return;
  await service.remove(name);
  await open(name);
  return `Memory ${name} is deleted.`;
}));

at("memory").value = sessionStorage.getItem(NAME) ?? "first";
examples = await (await fetch("examples.json")).json();
at("example").replaceChildren(...examples.map((example) => element("option", { text: example.title })));
useExample(examples[0]);
await during("Opening", at("choose"), () => open());
