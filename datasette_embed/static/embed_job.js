/* Keeps the page of a job up to date. Without it, the page works and has to be loaded again.

   The numbers come from the job's JSON, once a second while somebody can see the page. When more
   than numbers has changed, the page itself is fetched and its middle replaced, so that all words
   are written in one place. A server that does not answer is asked again, for ever. */
(function () {
  "use strict";
  const SHORTEST_MS = 1000;
  const LONGEST_MS = 5000;
  const ANSWER_MS = 15000;
  const ENDED = ["finished", "cancelled"];
  const STARTING = ["pending", "running"];

  let job = document.getElementById("embed-job");
  if (!job || !job.dataset.url || !window.fetch) return;
  const connection = document.getElementById("embed-job-connection");
  const spoken = document.getElementById("embed-job-status");
  const url = job.dataset.url;
  let shown = JSON.stringify(JSON.parse(job.dataset.state));
  let wait = SHORTEST_MS;
  let timer = null;
  let isAsking = false;
  let isEnded = false;
  let spokenAt = 0;

  function setText(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  async function ask(address, accept) {
    const controller = new AbortController();
    const limit = setTimeout(() => controller.abort(), ANSWER_MS);
    try {
      const response = await fetch(address, {
        credentials: "same-origin",
        cache: "no-store",
        headers: { Accept: accept },
        signal: controller.signal,
      });
      if (!response.ok) {
        const error = new Error("status " + response.status);
        error.status = response.status;
        throw error;
      }
      return await (accept === "application/json" ? response.json() : response.text());
    } finally {
      clearTimeout(limit);
    }
  }

  function stateOf(data) {
    return JSON.stringify([
      data.status, data.is_abandoned, data.request, data.reason, data.waits_for,
      data.counts.failed,
    ]);
  }

  function agoText(seconds) {
    if (seconds < 60) return Math.max(1, Math.round(seconds)) + " s ago";
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return minutes + " min ago";
    const hours = Math.floor(minutes / 60);
    if (hours >= 48) return Math.floor(hours / 24) + " days ago";
    return hours + " h" + (minutes % 60 ? " " + (minutes % 60) + " min" : "") + " ago";
  }

  function showNumbers(data) {
    setText(document.getElementById("embed-job-summary"), data.summary);
    setText(document.getElementById("embed-job-progress-text"), data.summary);
    const bar = document.getElementById("embed-job-progress");
    if (bar && data.rows_total > 0) {
      bar.value = Math.min(100, Math.floor((100 * data.counts.rows_done) / data.rows_total));
    }
    const time = job.querySelector("time");
    const since = time ? Date.parse(time.dateTime) : NaN;
    if (since <= Date.now()) setText(time, agoText((Date.now() - since) / 1000));
  }

  function speak(text, isUrgent) {
    // Not more often than somebody can listen.
    if (isUrgent || Date.now() - spokenAt >= LONGEST_MS) {
      setText(spoken, text);
      spokenAt = Date.now();
    }
  }

  async function fetchPage() {
    const html = await ask(location.href, "text/html");
    const page = new DOMParser().parseFromString(html, "text/html");
    if (!page.getElementById("embed-job")) throw new Error("not the page of a job");
    return page;
  }

  function replaceFrom(page, selector) {
    const [old, fresh] = [document.querySelector(selector), page.querySelector(selector)];
    if (old && fresh && !old.contains(document.activeElement)) old.replaceWith(fresh);
  }

  async function showState(status) {
    const page = await fetchPage();
    const fresh = page.getElementById("embed-job");
    replaceFrom(page, ".embed-summary");
    const focused = job.contains(document.activeElement) ? document.activeElement : null;
    const href = focused && focused.getAttribute("href");
    job.replaceWith(fresh);
    job = fresh;
    document.title = page.title;
    // What was said when it began is old by now.
    if (!STARTING.includes(status)) {
      document.querySelectorAll(".message-info").forEach((message) => message.remove());
    }
    if (!focused) return;
    const again =
      (focused.id && document.getElementById(focused.id)) ||
      (href && [...job.querySelectorAll("a")].find((a) => a.getAttribute("href") === href)) ||
      job.querySelector("input[type=submit]") || job.querySelector("h2");
    if (again.tagName === "H2") again.tabIndex = -1;
    again.focus({ preventScroll: true });
  }

  function problemText(error) {
    if (error.status === 404) return "This job is no longer there. Was its collection deleted?";
    if (error.status === 401 || error.status === 403) {
      return "You may no longer see this job. A server that was restarted has forgotten who was " +
        "signed in: sign in again, on its page for that or with the link that datasette --root " +
        "prints, and this page goes on.";
    }
    return "Reconnecting…";
  }

  async function look() {
    timer = null;
    if (isAsking || isEnded || document.visibilityState !== "visible") return;
    isAsking = true;
    try {
      const data = (await ask(url, "application/json")).job;
      const state = stateOf(data);
      const isNew = state !== shown;
      if (isNew) {
        await showState(data.status);
        shown = state;
      } else {
        showNumbers(data);
      }
      setText(connection, "");
      const heading = job.querySelector("h2");
      speak(isNew && heading ? heading.textContent + ". " + data.summary : data.summary, isNew);
      isEnded = ENDED.includes(data.status);
      wait = data.status === "running" || data.status === "pending" ? SHORTEST_MS : LONGEST_MS;
    } catch (error) {
      setText(connection, problemText(error));
      wait = Math.min(LONGEST_MS, wait * 2);
    } finally {
      isAsking = false;
    }
    plan();
  }

  function plan() {
    if (!isEnded && timer === null) timer = setTimeout(look, wait);
  }

  function lookNow() {
    if (document.visibilityState !== "visible" || isAsking) return;
    clearTimeout(timer);
    look();
  }

  document.addEventListener("visibilitychange", lookNow);
  window.addEventListener("pageshow", (event) => event.persisted && lookNow());
  window.addEventListener("online", lookNow);
  plan();
})();
