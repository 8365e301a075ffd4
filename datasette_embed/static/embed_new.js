// Keeps the preview, and what it takes, in step with the form. Without it, "Check what it takes"
// does the same. The server says everything: parts of its answer replace those of the page. As
// long as it says nothing of the form as it is now, the parts look stale, and the page says why.
(function () {
  "use strict";
  const form = document.getElementById("embed-new");
  if (!form || !window.fetch || !window.DOMParser) return;
  const PARTS = ["embed-preview", "embed-plan", "embed-start"];
  const SHORTEST_MS = 1000, LONGEST_MS = 10000;
  const connection = document.getElementById("embed-new-connection");
  let timer = null, running = null, wait = SHORTEST_MS;

  function later(milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(ask, milliseconds);
  }

  async function ask() {
    clearTimeout(timer);
    if (running) running.abort();
    const mine = (running = new AbortController());
    const fields = new URLSearchParams(new FormData(form));
    fields.set("preview", "1");
    try {
      const response = await fetch(form.action, {
        method: "POST", body: fields, signal: mine.signal, credentials: "same-origin",
      });
      const html = new DOMParser().parseFromString(await response.text(), "text/html");
      if (mine !== running) return;
      if (!html.getElementById("embed-new")) {
        lost(response.ok ? 403 : response.status);  // a page to sign in, where there is one
        return;
      }
      show(html);
      wait = SHORTEST_MS;
    } catch (error) {
      if (mine === running && error.name !== "AbortError") lost(0);
      return;
    }
    say("");
    form.classList.remove("is-stale");
    if (state() === "counting") later(2000);
  }

  function say(text) {
    if (connection && connection.textContent !== text) connection.textContent = text;
  }

  // The answer is no form: what is shown is not that of what is typed.
  function lost(status) {
    form.classList.add("is-stale");
    if (status === 401 || status === 403) {
      say("You may no longer make collections here. Sign in again, in another tab for example, " +
        "and this page goes on.");
    } else if (status >= 400 && status < 500 && status !== 429) {
      say("What it takes cannot be said any more. Press “Check what it takes” to read why.");
      return;
    } else {
      say("Reconnecting…");
    }
    wait = Math.min(wait * 2, LONGEST_MS);
    later(wait);
  }

  function state() {
    const plan = document.getElementById("embed-plan");
    return plan ? plan.dataset.state : "";
  }

  function show(html) {
    for (const id of PARTS) {
      const mine = document.getElementById(id), theirs = html.getElementById(id);
      if (!mine || !theirs || mine.innerHTML === theirs.innerHTML) continue;
      // What has the focus stays, or the keyboard would be lost.
      const focused = mine.contains(document.activeElement) ? document.activeElement.name : "";
      mine.replaceChildren(...Array.from(theirs.childNodes).map((n) => document.importNode(n, true)));
      if ("state" in theirs.dataset) mine.dataset.state = theirs.dataset.state;
      const again = focused && Array.from(mine.querySelectorAll("[name]")).find(
        (element) => element.name === focused);
      if (again) again.focus();
    }
    showErrors(html);
  }

  // An error belongs to its field: those of the answer are put where those of the page are.
  function showErrors(html) {
    for (const old of form.querySelectorAll(".embed-field-error")) {
      if (!old.closest("#embed-start")) old.remove();
    }
    for (const field of form.querySelectorAll("[aria-invalid]")) {
      field.removeAttribute("aria-invalid");
      describe(field, "");
    }
    for (const error of html.querySelectorAll(".embed-field-error")) {
      if (error.closest("#embed-start")) continue;
      const name = error.id.replace(/-error$/, "");
      const field = form.querySelector(`#${CSS.escape(name)}`) ||
        form.querySelector(`[name="${CSS.escape(name)}"]`);
      if (!field) continue;
      const place = field.closest("fieldset") || field.closest("p") || field;
      place.after(document.importNode(error, true));
      if (field.type === "checkbox") continue;
      field.setAttribute("aria-invalid", "true");
      describe(field, error.id);
    }
  }

  // The hint of a field stays; the error comes before it, or goes.
  function describe(field, errorId) {
    const ids = (field.getAttribute("aria-describedby") || "").split(" ");
    const kept = ids.filter((id) => id && !id.endsWith("-error"));
    const all = errorId ? [errorId, ...kept] : kept;
    if (all.length) field.setAttribute("aria-describedby", all.join(" "));
    else field.removeAttribute("aria-describedby");
  }

  form.addEventListener("input", (event) => {
    if (event.target.name === "anyway") return;
    form.classList.add("is-stale");
    later(400);
  });
  if (state() === "counting") later(2000);
})();
