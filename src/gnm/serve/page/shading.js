// What is stored, clause by clause in the shade of its gate. Texts are set as text, never as HTML.

export function element(tag, { className, text, ...rest } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(rest)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// One shading: title, instruction, clauses.
export function shading(title, written) {
  return element("article", { className: "shading" },
    element("h4", { text: title }),
    element("p", { className: "hint", text: written.instruction || "(no instruction kept)" }),
    clauses(written));
}

// The clauses of a document; without gates its beginning.
export function clauses(written) {
  const list = element("ul", { className: "clauses" });
  const own = written.segments.filter((segment) => segment.of_document && (segment.text.trim() || !segment.text));
  if (own.length === 0) {
    list.append(row("", written.beginning || "(no text kept)", 0, written.slots ? "" : "left-out no-text"));
  }
  for (const segment of own) {
    const share = `${Math.round(100 * segment.strength)} %`;
    const kind = segment.stored ? "" : segment.text ? "left-out" : "left-out no-text";
    const line = row(share, segment.text.trim() || "(not stored)", segment.strength, kind);
    line.title = `${segment.stored} of ${segment.tokens} tokens stored`;
    list.append(line);
  }
  return list;
}

function row(share, text, strength, kind) {
  const line = element("li", { className: kind },
    element("span", { className: "share", text: share }), element("span", { className: "text", text }));
  line.style.setProperty("--strength", strength);
  return line;
}

// The documents of a memory, each with its share of the slots and a button that forgets it.
export function pool(memory, forget) {
  return memory.documents.map((written) => {
    const button = element("button", { text: "Forget", type: "button", onclick: () => forget(written.number) });
    button.setAttribute("aria-label", `Forget document ${written.number}`);
    const all = memory.slots + (memory.stored ?? 0);
    const kept = written.instruction || (written.slots ? "(no instruction kept)" : "(nothing stored)");
    const share = element("meter", { min: 0, max: Math.max(all, 1), value: written.slots });
    share.setAttribute("aria-label", `Share of document ${written.number}`);
    return element("li", {},
      element("div", { className: "top" },
        element("span", { className: "what", text: `${written.number}: ${kept}` }),
        share, element("span", { className: "hint", text: `${written.slots} slots` }), button),
      element("details", {}, element("summary", { text: "Stored clauses" }), clauses(written)));
  });
}
