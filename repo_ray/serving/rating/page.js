"use strict";

const form = document.getElementById("answer");
const message = document.getElementById("status");
const field = (name) => form.elements[name];

// Only time in which the page can be seen counts.
let seen = 0;
let since = document.hidden ? null : performance.now();
function pause() {
  if (since !== null) seen += performance.now() - since;
  since = null;
}
document.addEventListener("visibilitychange", () => {
  pause();
  if (!document.hidden) since = performance.now();
});
// A page from the browser's memory is older than what was saved since.
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

function problem() {
  const choice = field("choice").value;
  const [left, right] = [Number(field("left").value), Number(field("right").value)];
  const missing = [];
  if (!choice) missing.push("which is better");
  if (!left) missing.push("a rating of A");
  if (!right) missing.push("a rating of B");
  if (missing.length) return `Still missing: ${missing.join(", ")}.`;
  if (choice === "left" && left < right) return "You chose A but rated B higher.";
  if (choice === "right" && right < left) return "You chose B but rated A higher.";
  return "";
}

let tried = false;
let sending = false;
form.addEventListener("change", () => { if (tried) message.textContent = problem(); });

async function save() {
  tried = true;
  message.textContent = problem();
  if (message.textContent || sending) return;
  sending = true;
  pause();
  const mark = (side) => ({
    rating: Number(field(side).value),
    serious: field(`${side}_serious`).checked,
  });
  const answer = {
    choice: field("choice").value,
    left: mark("left"),
    right: mark("right"),
    note: field("note").value,
    seconds: Math.min(seen / 1000, 86400),
    shown: form.dataset.shown,
  };
  try {
    const response = await fetch(location.pathname, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(answer),
    });
    if (response.ok) {
      location.assign((await response.json()).next);
      return;
    }
    const told = response.headers.get("Content-Type") === "application/json";
    const why = told ? (await response.json()).error : `the server answers ${response.status}`;
    message.textContent = `Not saved: ${why}`;
  } catch {
    message.textContent = "Not saved: the server does not answer. Is it still running?";
  }
  sending = false;
  since = performance.now();
}
form.addEventListener("submit", (event) => { event.preventDefault(); save(); });

const choices = { a: "left", b: "right", g: "both_good", x: "both_bad" };

function press(input, checked = true) {
  input.checked = checked;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.name === "note") {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const key = event.key.toLowerCase();
  // By position on the keyboard: on some layouts digits need the shift key.
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  if (digit) {
    const number = Number(digit[1]) || 10;
    const [side, value] = number <= 5 ? ["left", number] : ["right", number - 5];
    press(form.querySelector(`input[name="${side}"][value="${value}"]`));
  } else if (key in choices) {
    press(form.querySelector(`input[name="choice"][value="${choices[key]}"]`));
  } else if (key === "q" || key === "p") {
    const box = field(key === "q" ? "left_serious" : "right_serious");
    press(box, !box.checked);
  } else if (key === "n") {
    field("note").focus();
  } else if (key === "u" || key === "s") {
    const link = document.getElementById(key === "u" ? "back" : "skip");
    if (link) location.assign(link.href);
  } else if (key === "enter" && !event.target.closest("a, button, summary, input")) {
    form.requestSubmit();
  } else {
    return;
  }
  event.preventDefault();
});
