"use strict";
// Names and words of the study are text everywhere: nothing here makes markup of them.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 50, RATINGS = ["pass", "fail", "artifact"], KEYS = { p: "pass", f: "fail", a: "artifact" };
const make = (tag, text, more) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; return Object.assign(e, more || {}); };
const file = (row) => String(row).padStart(6, "0");
let shown = [], first = 0, at = 0;

// --- ratings: of (subject, session, metric, rater), the last one holds
const key = (r) => JSON.stringify([r.metric, r.subject, r.session || "", r.rater || ""]);
const kept = new Map(D.ratings.map((r) => [key(r), r]));
const store = "cohort-engine-qc " + D.id;
try { for (const r of JSON.parse(localStorage.getItem(store) || "[]")) if (!kept.has(key(r)) || kept.get(key(r)).date <= r.date) kept.set(key(r), r); } catch (e) { /* a browser may keep nothing for pages from disk */ }
const mine = () => $("rater").value.trim();
const of = (i) => ({ subject: D.participant[i], session: D.session[i], metric: $("metric").value, rater: mine() });
const ratingsOf = (i) => [...kept.values()].filter((r) => r.subject === D.participant[i] && (r.session || "") === D.session[i]);
function keep() { try { localStorage.setItem(store, JSON.stringify([...kept.values()])); localStorage.setItem("cohort-engine-qc rater", mine()); } catch (e) { /* as above */ } listRatings(); if (D.save) save(); }
function rate(rating) {
  if (!shown.length) return;
  const r = of(shown[at]); const before = kept.get(key(r));
  if (rating === null) kept.delete(key(r));
  else kept.set(key(r), { ...r, rating: rating, reason: $("comment").value.trim(), date: new Date().toISOString().slice(0, 10) });
  if (rating === null && before && D.save) gone.push(before);
  keep(); table(); subject();
}
const gone = [];

// --- table of subjects
const index = new Map();
D.participant.forEach((s, i) => index.set(JSON.stringify([s, D.session[i]]), i));
function choose() {
  const find = $("find").value.toLowerCase(), site = $("site").value, which = $("which").value, kind = $("kind").value;
  const rated = new Set([...kept.values()].map((r) => index.get(JSON.stringify([r.subject, r.session || ""]))));
  shown = []; first = 0; at = 0;
  for (let i = 0; i < D.row.length; i++) {
    if (site !== "" && D.site[i] !== +site) continue;
    if (find && !D.name[i].toLowerCase().includes(find)) continue;
    if (which === "flagged" && !D.flags[i].length) continue;
    if (which === "rated" && !rated.has(i) || which === "unrated" && rated.has(i)) continue;
    if (kind !== "" && !D.flags[i].some((f) => f[0] === +kind)) continue;
    shown.push(i);
  }
  shown.sort((a, b) => (D.flags[b].length > 0) - (D.flags[a].length > 0) || (D.usable[a] ?? 2) - (D.usable[b] ?? 2) || a - b);
  table(); subject();
}
function table() {
  const body = $("people").tBodies[0]; body.textContent = "";
  for (const [n, i] of shown.slice(first, first + PAGE).entries()) {
    const tr = body.insertRow(), head = make("th"); head.scope = "row";
    const link = make("a", undefined, { href: "subjects/" + file(D.row[i]) + ".html" }); link.append(make("bdi", D.name[i])); head.append(link); tr.append(head);
    const bidi = (text) => { const td = tr.insertCell(); td.append(make("bdi", text)); };
    bidi(D.sites[D.site[i]]); bidi(D.groups[D.group[i]]);
    tr.append(make("td", D.usable[i] === null ? "–" : D.usable[i].toFixed(2), { className: "number" }));
    const cell = tr.insertCell(), list = make("ul", undefined, { className: "flags" });
    for (const f of D.flags[i]) { const li = make("li"); li.append(make("span", D.kinds[f[0]], { className: "flag" }), make("bdi", f[1])); list.append(li); }
    if (D.flags[i].length) cell.append(list);
    const rated = tr.insertCell(); for (const r of ratingsOf(i)) { const s = make("span", r.metric + ": " + r.rating + " ", { className: r.rating }); rated.append(s); }
    const look = make("button", "Review", { type: "button" }); look.addEventListener("click", () => { at = first + n; subject(); $("review").scrollIntoView(); $("who").focus(); }); tr.insertCell().append(look);
  }
  $("count").textContent = shown.length + " of " + D.row.length + " subjects";
  $("place").textContent = shown.length ? (first + 1) + " to " + Math.min(first + PAGE, shown.length) : "none";
  $("before").disabled = first === 0; $("after").disabled = first + PAGE >= shown.length;
}

// --- one subject
let showing = -1;
function subject() {
  const box = $("pictures"), who = $("who");
  if (!shown.length) { box.textContent = ""; who.textContent = "Nobody is chosen."; showing = -1; marks(); return; }
  const i = shown[at];
  who.textContent = ""; who.append(make("b", (at + 1) + " of " + shown.length + ": "), make("bdi", D.name[i]));
  for (const f of D.flags[i]) who.append(make("br"), make("span", D.kinds[f[0]], { className: "flag" }), make("bdi", f[1]));
  if (showing !== i) {
    box.textContent = ""; showing = i;
    for (const c of D.pictures[i]) {
      const p = D.panels[c.charCodeAt(0) - 48], fig = make("figure");
      fig.append(make("img", undefined, { loading: "lazy", alt: p[1], src: "images/" + file(D.row[i]) + "-" + p[0] + ".webp" }), make("figcaption", p[1]));
      box.append(fig);
    }
    if (!D.pictures[i].length) box.append(make("p", "There are no pictures of this subject; its page says why."));
  }
  marks();
}
function marks() {
  const r = shown.length ? kept.get(key(of(shown[at]))) : undefined;
  for (const b of $("buttons").children) b.setAttribute("aria-pressed", String(Boolean(r) && r.rating === b.value));
  if (document.activeElement !== $("comment")) $("comment").value = r ? r.reason || "" : "";
}
const go = (step) => { if (!shown.length) return; at = Math.min(Math.max(at + step, 0), shown.length - 1); if (at < first || at >= first + PAGE) { first = Math.floor(at / PAGE) * PAGE; table(); } subject(); };

// --- file
const plain = (text) => JSON.stringify(text || "").replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
function yaml() {
  const by = new Map();
  for (const r of kept.values()) { if (!by.has(r.metric)) by.set(r.metric, []); by.get(r.metric).push(r); }
  let out = "# Ratings: one list for each metric; all is every metric.\n";
  for (const metric of [...by.keys()].sort()) {
    out += plain(metric) + ":\n";
    for (const r of by.get(metric)) out += "- subject: " + plain(r.subject) + (r.session ? "\n  session: " + plain(r.session) : "") + "\n  rating: " + plain(r.rating) + "\n  reason: " + plain(r.reason) + "\n  rater: " + plain(r.rater) + "\n  date: " + plain(r.date) + "\n";
  }
  return out;
}
function listRatings() {
  const body = $("ratings").tBodies[0]; body.textContent = "";
  const all = [...kept.values()];
  for (const r of all.slice(-500)) { const tr = body.insertRow(); for (const w of [r.metric, r.subject + (r.session ? " " + r.session : ""), r.rating, r.reason, r.rater, r.date]) { const td = tr.insertCell(); td.append(make("bdi", w || "")); } }
  $("where").textContent = D.save ? "Ratings are saved as you give them." : "This page was opened from disk and cannot write files: download the ratings, or start cohort-engine qc --serve.";
  $("told").textContent = all.length + " ratings";
}
let waiting = 0;
async function save() {
  const ticket = ++waiting;
  await new Promise((done) => setTimeout(done, 150));
  if (ticket !== waiting) return;
  try {
    const answer = await fetch("ratings", { method: "POST", headers: { "Content-Type": "application/json", "X-Token": D.save }, body: JSON.stringify({ ratings: [...kept.values()], removed: gone.splice(0) }) });
    if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
    $("told").textContent = kept.size + " ratings, saved " + new Date().toTimeString().slice(0, 8);
  } catch (error) { $("told").textContent = "Not saved: " + error.message; }
}

// --- wiring
const option = (select, value, text) => $(select).append(make("option", text, { value: value }));
D.sites.forEach((s, i) => option("site", i, s)); D.kinds.forEach((k, i) => option("kind", i, k)); D.metrics.forEach((m) => option("metric", m, m));
for (const r of RATINGS) { const b = make("button", r, { type: "button", value: r }); b.addEventListener("click", () => rate(r)); $("buttons").append(b); }
try { $("rater").value = localStorage.getItem("cohort-engine-qc rater") || ""; } catch (e) { /* as above */ }
for (const id of ["find", "site", "which", "kind"]) $(id).addEventListener("input", choose);
$("tools").addEventListener("submit", (e) => e.preventDefault());
$("metric").addEventListener("change", marks); $("rater").addEventListener("change", () => { keep(); marks(); });
$("comment").addEventListener("change", () => { const r = shown.length && kept.get(key(of(shown[at]))); if (r) rate(r.rating); });
$("before").addEventListener("click", () => { first = Math.max(0, first - PAGE); table(); });
$("after").addEventListener("click", () => { first += PAGE; table(); });
$("download").addEventListener("click", () => { const a = make("a", undefined, { href: URL.createObjectURL(new Blob([yaml()], { type: "text/yaml" })), download: "exclusions.yaml" }); a.click(); setTimeout(() => URL.revokeObjectURL(a.href), 1000); });
$("copy").addEventListener("click", async () => { try { await navigator.clipboard.writeText(yaml()); $("told").textContent = "copied"; } catch (e) { $("told").textContent = "the browser does not let this page copy: download it"; } });
if (D.save) { $("save").hidden = false; $("save").addEventListener("click", save); }
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(e.target.tagName);
  if (typing) { if ((e.key === "Enter" || e.key === "Escape") && e.target.id === "comment") { e.target.blur(); $("who").focus(); } return; }
  const act = { ArrowRight: () => go(1), ArrowLeft: () => go(-1), c: () => $("comment").focus(), u: () => rate(null), m: () => { const s = $("metric"); s.selectedIndex = (s.selectedIndex + 1) % s.length; marks(); } }[e.key] || (KEYS[e.key] && (() => rate(KEYS[e.key])));
  if (act) { e.preventDefault(); act(); }
});
if (!D.flags.some((f) => f.length)) $("which").value = "all";
choose(); listRatings();
async function load() {
  try {
    for (const r of await (await fetch("ratings")).json()) { const k = key(r); if (!kept.has(k) || kept.get(k).date <= r.date) kept.set(k, r); }
    choose(); listRatings();
  } catch (error) { $("told").textContent = "The server does not answer: " + error.message; }
}
if (D.save) load();
const wanted = /^#subject-(\d+)$/.exec(location.hash);
if (wanted) { $("which").value = "all"; choose(); const n = shown.findIndex((i) => D.row[i] === +wanted[1]); if (n >= 0) { at = n; subject(); $("review").scrollIntoView(); } }
