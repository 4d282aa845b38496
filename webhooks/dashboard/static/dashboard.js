// The pages work without this script. It shows local times, new deliveries without a reload, and copies text.
"use strict";

const page = document.body.dataset;

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

const date = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });
const hour = new Intl.DateTimeFormat([], { timeStyle: "short" });

function showTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const when = new Date(time.dateTime);
    const full = date.format(when);
    const past = (Date.now() - when) / 1000;
    const shown = { ago: `${ago(past)} ago`, both: `${full}, ${ago(past)} ago`, due: past < 0 ? `in ${ago(-past)}` : "now", full, hour: hour.format(when) };
    const text = shown[time.dataset.show];
    if (time.textContent !== text) time.textContent = text;
    if (time.title !== full) time.title = full;
  }
}

// The title of a bar is plain text, which cannot hold a <time>.
function showHours(root) {
  for (const bar of root.querySelectorAll("svg title")) {
    bar.textContent = bar.textContent.replace(/,.*/, `, ${hour.format(new Date(bar.dataset.since))}`);
  }
}

// No part of the page changes while it has the focus or a selection.
function isInUse(part) {
  const selection = getSelection();
  const isSelected = !selection.isCollapsed && selection.containsNode(part, true);
  return isSelected || (part !== document.activeElement && part.contains(document.activeElement));
}

const isAtTop = () => scrollY < 120;
const rowsOf = root => [...root.querySelectorAll("#rows tbody tr")];

// Known rows change in place. New rows would push the others down while somebody reads, so a button offers them.
function showRows(fresh) {
  const known = new Set(rowsOf(document).map(row => row.id));
  const arrived = rowsOf(fresh).filter(row => !known.has(row.id));
  const part = document.getElementById("rows");
  const offer = document.querySelector(".fresh");
  if (!isInUse(part) && (isAtTop() || !arrived.length)) {
    part.replaceWith(fresh.getElementById("rows"));
    offer.hidden = true;
    return;
  }
  for (const row of rowsOf(fresh)) {
    const shown = document.getElementById(row.id);
    if (shown && shown.innerHTML !== row.innerHTML && !isInUse(shown)) shown.replaceWith(row);
  }
  offer.hidden = !arrived.length;
  offer.firstElementChild.textContent = `${arrived.length} new`;
}

let seen = null;

async function look() {
  const headers = seen ? { "If-None-Match": seen } : {};
  const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "error" });
  if (answer.status === 403) return location.reload();
  if (!answer.ok) return; // 304 as well
  seen = answer.headers.get("ETag");
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (fresh.getElementById("outcomes") && !document.getElementById("outcomes")) return location.reload(); // the first one
  document.title = fresh.title;
  showTimes(fresh);
  showHours(fresh);
  for (const part of document.querySelectorAll("[data-part]")) {
    const other = fresh.getElementById(part.id);
    if (!other) continue;
    if (part.id === "rows") showRows(fresh);
    else if (!isInUse(part) && part.innerHTML !== other.innerHTML) part.innerHTML = other.innerHTML;
  }
  if (!("live" in fresh.body.dataset)) delete page.live;
}

async function keepLooking() {
  let pause = 250; // a delivery that has just been sent is soon over
  while (page.live) {
    await new Promise(done => setTimeout(done, pause));
    pause = Number(page.live);
    if (document.hidden) continue;
    try { await look(); } catch { /* the server restarts, or the network is gone: the next look will tell */ }
  }
}

document.addEventListener("click", async event => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const said = copy.textContent;
    await navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = said; }, 1500);
  }
  if (event.target.closest(".fresh")) {
    scrollTo(0, 0);
    document.activeElement.blur();
    seen = null;
    await look();
  }
});

document.addEventListener("change", event => {
  const form = event.target.form;
  if (event.target.matches("[data-send-on-change] select")) form.requestSubmit(form.querySelector(".fill"));
});

for (const fill of document.querySelectorAll(".fill")) fill.hidden = true; // a changed select does it
if (navigator.clipboard) for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
showTimes(document);
showHours(document);
setInterval(() => showTimes(document), 1000);
keepLooking();
