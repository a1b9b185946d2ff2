// The rich-text field and the hidden field that is sent. As in real editors the two are not the same thing: what was
// typed or pasted arrives in the sent field a moment later, and a click that outruns it sends an empty body.
"use strict";

const form = document.getElementById("editor");
const rich = form.querySelector("[data-rich]");
const body = form.elements.body;
const status = form.querySelector("[data-status]");
const syncMs = Number(form.dataset.syncMs);
let timer = 0;

function sync() {
  body.value = rich.textContent.trim() ? rich.innerHTML : "";
  form.dataset.state = "synced";
  status.textContent = body.value ? "Ready to publish" : "";
}

rich.addEventListener("input", () => {
  form.dataset.state = "pending";
  status.textContent = "Taking up your text …";
  clearTimeout(timer);
  timer = setTimeout(sync, syncMs);
});

rich.addEventListener("paste", (event) => {
  event.preventDefault();
  const html = event.clipboardData.getData("text/html");
  const fragment = document.createElement("template");
  if (html) fragment.innerHTML = html;
  else fragment.content.append(event.clipboardData.getData("text/plain"));
  const selection = getSelection();
  const range = selection.rangeCount && rich.contains(selection.anchorNode) ? selection.getRangeAt(0) : null;
  if (range) {
    range.deleteContents();
    range.insertNode(fragment.content);
    range.collapse(false);
  } else {
    rich.append(fragment.content);
  }
  rich.dispatchEvent(new Event("input", { bubbles: true }));
});

form.querySelector(".tools").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-command]");
  if (!button) return;
  rich.focus();
  document.execCommand(button.dataset.command, false, button.dataset.value || null);
});

form.addEventListener("submit", () => {
  form.querySelector("#publish").disabled = true;
  status.textContent = "Publishing …";
});
