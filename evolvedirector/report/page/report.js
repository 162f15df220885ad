"use strict";
// The page's own script: charts when they come into view, pictures likewise, search, comparison, and the live view.
// Every text from the data enters the page through textContent: nothing in a prompt can become markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value;
      else if (value !== undefined && value !== null) made.setAttribute(name, value);
    }
    for (const child of children) if (child !== null && child !== undefined) made.append(child);
    return made;
  }

  const text = (value, tag = "div", name = "text") => {
    const made = el(tag, { class: name, dir: "auto" });
    made.textContent = value;
    return made;
  };

  // Pictures and charts wait until they are near the window.
  const whenSeen = new Map();
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        watcher.unobserve(entry.target);
        whenSeen.get(entry.target)?.();
        whenSeen.delete(entry.target);
      }
    },
    { rootMargin: "400px" },
  );
  const later = (target, run) => { whenSeen.set(target, run); watcher.observe(target); };

  function picture(key, alt) {
    const image = el("img", { class: "pic", alt });
    if (key) later(image, () => { image.src = data.pictures[key]; });
    else { image.alt = ""; image.title = "no picture"; image.style.visibility = "hidden"; }
    return image;
  }

  for (const image of document.querySelectorAll("img[data-picture]")) {
    later(image, () => { image.src = data.pictures[image.dataset.picture]; });
  }

  // Charts: plotly figures whose colours follow light and dark.
  const light = ["#2458c5", "#d9762b", "#14795a", "#9b3fb5", "#b8960c", "#c2375c", "#4b8fb8", "#8a8f98"];
  const dark = ["#86b1ff", "#ffae70", "#5fd0a5", "#d595ea", "#f0c05a", "#ff8fa9", "#8fd0f0", "#98a1ae"];
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const hiddenRuns = new Set();

  function coloured(trace) {
    const palette = scheme.matches ? dark : light;
    const colour = palette[(trace.slot ?? 0) % palette.length];
    const { slot, run, ...rest } = trace;
    const made = { ...rest, marker: { ...rest.marker, color: colour }, line: { width: 2, ...rest.line, color: colour } };
    if (rest.type === "bar") delete made.line;
    else made.marker = { size: 6, ...made.marker };
    if (rest.error_x) made.error_x = { ...rest.error_x, color: colour };
    if (run !== undefined) made.visible = !hiddenRuns.has(run);
    return made;
  }

  // In a narrow box (a phone, half a window) a long name takes two or three short lines beside its row, and a legend has
  // a line per name, which the chart grows by: the plot itself keeps its size.
  const narrow = 640, legendLine = 19;
  function wrapped(name, shortLine) {
    const lines = [""];
    for (const word of name.match(/(?:&\w+;|[^\s])+|\s/gu) ?? []) {
      const signs = word.match(/&\w+;|./gu) ?? [];
      if (signs.length + lines.at(-1).length > shortLine && lines.at(-1)) lines.push("");
      if (signs.length <= shortLine) lines[lines.length - 1] += word;
      else for (let from = 0; from < signs.length; from += shortLine) {
        if (from) lines.push("");
        lines[lines.length - 1] += signs.slice(from, from + shortLine).join("");
      }
    }
    return lines.slice(0, 3).join("<br>") + (lines.length > 3 ? "…" : "");
  }
  function fitted(chart, width) {
    if (width >= narrow) return {};
    const named = chart.traces.filter((trace) => trace.name).length;
    const made = named > 2 ? { height: (chart.layout.height ?? 280) + legendLine * (named - 2) } : {};
    if (chart.layout.yaxis?.type === "category") {
      const names = [...new Set(chart.traces.flatMap((trace) => trace.y))];
      made.yaxis = { tickmode: "array", tickvals: names, ticktext: names.map((name) => wrapped(name, Math.round(width / 24))) };
    }
    return made;
  }

  function layoutOf(chart, width) {
    const axis = { gridcolor: token("--grid"), zerolinecolor: token("--grid"), linecolor: token("--line"), automargin: true, fixedrange: true };
    const { vline, ...given } = chart.layout;
    const many = given.showlegend !== false && chart.traces.filter((trace) => trace.name).length > 1;
    const fit = fitted(chart, width);
    return {
      height: 280, margin: { l: 44, r: 12, t: many ? 34 : 8, b: 36 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: token("--soft"), size: 12, family: "system-ui, sans-serif" }, hovermode: "closest", showlegend: many,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" }, bargap: 0.25, ...given, ...fit, width,
      xaxis: { ...axis, ...given.xaxis }, yaxis: { ...axis, ...given.yaxis, ...fit.yaxis },
      shapes: vline === undefined ? [] : [{ type: "line", x0: vline, x1: vline, yref: "paper", y0: 0, y1: 1, line: { dash: "dash", width: 1.5, color: token("--soft") } }],
    };
  }

  const charts = new Map();
  for (const section of Object.values(data.charts ?? {})) for (const chart of section) charts.set(chart.id, chart);
  const drawn = new Set();
  function draw(box) {
    const chart = charts.get(box.dataset.chart);
    drawn.add(box);
    Plotly.react(box, chart.traces.map(coloured), layoutOf(chart, box.clientWidth), { displayModeBar: false });
  }
  for (const box of document.querySelectorAll(".plot")) {
    if (box.dataset.height) box.style.minHeight = `${box.dataset.height}px`;
    later(box, () => draw(box));
  }
  const redraw = () => drawn.forEach(draw);
  scheme.addEventListener("change", redraw);
  let resizing;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(redraw, 150); });

  // Film strips
  function strip(entry) {
    const frames = entry.frames.map(([step, key]) =>
      el("figure", {}, picture(key, `${entry.prompt}, ${step}`), text(typeof step === "number" ? `step ${step.toLocaleString("en")}` : step, "figcaption", "")));
    if (entry.teacher) frames.push(el("figure", { class: "teacher-frame" }, picture(entry.teacher, `${entry.prompt}, teacher`), text("a teacher", "figcaption", "")));
    return frames;
  }
  const film = data.film ?? [];
  const choice = byId("film-choice");
  if (choice) {
    film.forEach((entry, place) => choice.append(new Option(entry.prompt.slice(0, 90), place)));
    choice.value = film.reduce((longest, entry, place) => (entry.prompt.length > film[longest].prompt.length ? place : longest), 0);
    const show = () => byId("film-strip").replaceChildren(...strip(film[choice.value || 0]));
    choice.addEventListener("change", show);
    restore(choice);
    show();
    byId("film-all").append(...film.map((entry) => el("div", {}, text(entry.prompt, "h3", ""), el("div", { class: "strip" }, ...strip(entry)))));
  }
  byId("now")?.append(...film.slice(0, 12).map((entry) => el("figure", {}, picture(entry.frames.at(-1)[1], entry.prompt), text(entry.prompt, "figcaption", ""))));
  byId("film-runs")?.append(...film.map((entry) => el("div", {}, text(entry.prompt, "h3", ""), el("div", { class: "strip" }, ...strip(entry)))));

  // Lists that are filtered and shown a page at a time
  function listing({ box, more, count, items, matches, render, page }) {
    let found = [], shown = 0;
    const grow = () => {
      box.append(...found.slice(shown, shown + page).map(render));
      shown = Math.min(found.length, shown + page);
      more.hidden = shown >= found.length;
    };
    more.addEventListener("click", grow);
    return () => {
      found = items.filter(matches());
      shown = 0;
      box.replaceChildren();
      count.textContent = `${found.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
      grow();
    };
  }
  function options(select, values) {
    for (const value of new Set(values)) if (value !== null && value !== "") select.append(new Option(String(value).slice(0, 60), value));
    restore(select);
  }
  function restore(control) { // the live view loads the page anew; what was typed and chosen stays
    const kept = sessionStorage_("get", control.id);
    if (kept !== null && (control.tagName !== "SELECT" || [...control.options].some((o) => o.value === kept))) control.value = kept;
  }
  function sessionStorage_(what, key, value) { // a page from disk may be denied any storage
    try { return what === "get" ? sessionStorage.getItem(`report:${key}`) : sessionStorage.setItem(`report:${key}`, value); } catch { return null; }
  }
  function onFilter(controls, apply) {
    let waiting;
    for (const control of controls) control.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(apply, control.type === "search" ? 120 : 0); });
    apply();
  }

  // Pairs
  const outcomeOf = (pair) => pair.verdict ?? pair.reading;
  const words = { student: "student better", teacher: "teacher better", tie: "equal", invalid: "unreadable" };
  const screenWords = { shows: "shows its prompt", lacks: "fails its prompt", unreadable: "unreadable" };
  const subjectWords = { shows: "subject and change are there", lacks: "subject or change is missing", unreadable: "unreadable" };
  const outcomeWords = { compare: words, subject: subjectWords }[data.pairs?.kind] ?? screenWords;  // a page that compares runs has no pairs
  const percent = (share) => `${Math.round(100 * share)} %`;
  const sure = (look, share = look.p) => (look.mass < 0.5 ? "unreadable" : percent(share));
  function looksSaid(pair) {
    if (data.pairs.kind === "subject") return "";
    if (data.pairs.kind !== "compare") return pair.looks.map((look) => `${sure(look)} sure that it shows the prompt`).join(" · ");
    if (pair.looks.length === 2) return `For the student: ${sure(pair.looks[0])} when shown first, ${sure(pair.looks[1], 1 - pair.looks[1].p)} when shown second`;
    return pair.looks.map((look) => `${sure(look)} for the image shown first`).join(" · ");
  }
  function pairCard(pair) {
    const images = [el("figure", {}, picture(pair.student, "the student's image"), text("student", "figcaption", ""))];
    if (pair.teacher) images.push(el("figure", {}, picture(pair.teacher, "the teacher's image"), text(pair.by || "teacher", "figcaption", "")));
    const said = outcomeWords[outcomeOf(pair)] ?? outcomeOf(pair);
    return el("article", { class: "pair" }, el("div", { class: "images" }, ...images), text(pair.text),
      text(said, "span", `badge ${outcomeOf(pair)}`),
      text(` ${pair.round === null ? "" : `round ${pair.round} · `}${pair.skill} · ${pair.origin}`, "span", "small"), text(looksSaid(pair), "div", "small"),
      ...pair.looks.filter((look) => look.reason).map((look) => text(look.reason, "div", "small")));
  }
  if (byId("pair-list")) {
    const pairs = data.pairs.pairs;
    const [search, verdict, skill, round] = ["search", "verdict", "skill", "round"].map((name) => byId(`pair-${name}`));
    const said = outcomeWords;
    for (const word of Object.keys(said)) if (pairs.some((pair) => outcomeOf(pair) === word)) verdict.append(new Option(said[word], word));
    restore(verdict); restore(search);
    options(skill, pairs.map((pair) => pair.skill).sort());
    options(round, pairs.map((pair) => pair.round));
    onFilter([search, verdict, skill, round], listing({
      box: byId("pair-list"), more: byId("pair-more"), count: byId("pair-count"), items: pairs, page: 24, render: pairCard,
      matches: () => {
        const wanted = search.value.trim().toLowerCase();
        return (pair) => (!verdict.value || outcomeOf(pair) === verdict.value) && (!skill.value || pair.skill === skill.value)
          && (!round.value || String(pair.round) === round.value) && (!wanted || pair.text.toLowerCase().includes(wanted));
      },
    }));
  }

  // The family tree: [text, parent's place, origin, skill, state, teacher, picture]
  if (byId("tree")) {
    const nodes = data.lineage.nodes.map(([prompt, parent, origin, skill, state, teacher, key], place) =>
      ({ prompt, parent, origin, skill, state, teacher, key, place, children: [], search: `${prompt} ${skill} ${teacher}`.toLowerCase() }));
    for (const node of nodes) if (node.parent >= 0) nodes[node.parent].children.push(node);
    const roots = nodes.filter((node) => node.parent < 0);
    const [search, state, origin] = ["search", "state", "origin"].map((name) => byId(`tree-${name}`));
    options(state, nodes.map((node) => node.state).sort());
    options(origin, nodes.map((node) => node.origin).sort());
    restore(search);
    const stateWords = { candidate: "written, not bought" };
    let hits = null; // places of the nodes that match, null without a filter
    let around = null; // those and their ancestors
    const size = (node) => { // without recursion: a family may be one long chain
      let count = 0;
      for (const waiting = [node]; waiting.length; count += 1) waiting.push(...waiting.pop().children);
      return count;
    };
    const line = (node) => {
      const prompt = text(node.prompt);
      if (hits?.has(node.place)) prompt.replaceChildren(el("mark", {}, node.prompt));
      const count = node.parent < 0 ? size(node) : 1;
      const facts = [node.origin, node.skill, stateWords[node.state] ?? node.state, node.teacher && `by ${node.teacher}`,
        count > 1 && `${count.toLocaleString("en")} prompts in this family`].filter(Boolean);
      return el("div", { class: "node" }, node.key ? picture(node.key, "") : null, el("div", { class: "body" }, prompt, text(facts.join(" · "), "div", "small")));
    };
    const branch = (node, depth) => {
      const below = around ? node.children.filter((child) => around.has(child.place)) : node.children;
      if (!below.length) return line(node);
      const box = el("details", {}, el("summary", {}, line(node)));
      const children = el("div", { class: "children" });
      const fill = () => { if (!children.childElementCount) children.append(...below.slice(0, 200).map((child) => branch(child, depth + 1)), below.length > 200 ? text(`and ${below.length - 200} more`, "div", "small") : ""); };
      box.addEventListener("toggle", fill);
      if (around && depth < 40) { fill(); box.open = true; }
      box.append(children);
      return box;
    };
    const family = (node) => el("div", { class: "family" }, branch(node, 0));
    const update = listing({ box: byId("tree"), more: byId("tree-more"), count: byId("tree-count"), items: roots, page: 30, render: family, matches: () => (node) => !around || around.has(node.place) });
    onFilter([search, state, origin], () => {
      const wanted = search.value.trim().toLowerCase();
      hits = around = null;
      if (wanted || state.value || origin.value) {
        hits = new Set(); around = new Set();
        for (const node of nodes) {
          if ((wanted && !node.search.includes(wanted)) || (state.value && node.state !== state.value) || (origin.value && node.origin !== origin.value)) continue;
          hits.add(node.place);
          for (let up = node; up && !around.has(up.place); up = nodes[up.parent]) around.add(up.place);
        }
      }
      update();
      byId("tree-count").textContent = hits ? `${hits.size.toLocaleString("en")} of ${nodes.length.toLocaleString("en")} prompts` : "";
    });
  }

  // Comparison of runs
  if (byId("run-table")) {
    const { names, table } = data.runs;
    let baseline = 0;
    const write = (row, value) => value === null || value === undefined ? "–" : row.unit === "share" ? percent(value)
      : value.toLocaleString("en", { maximumFractionDigits: 2 });
    const cell = (row, place) => {
      const [value, bounds] = row.cells[place] ?? [null, null];
      const made = el("td", {}, write(row, value));
      const bound = (number) => row.unit === "share" ? Math.round(100 * number) : write(row, number);
      if (bounds) made.append(text(` [${bounds.map(bound).join("–")}]`, "span", "note"));
      const base = row.cells[baseline]?.[0];
      if (place !== baseline && typeof value === "number" && typeof base === "number" && value !== base) {
        const better = row.better && (value > base) === (row.better === "more");
        const change = row.unit === "share" ? `${value > base ? "+" : ""}${Math.round(100 * (value - base))} points` : `${value > base ? "+" : ""}${(value - base).toLocaleString("en", { maximumFractionDigits: 2 })}`;
        made.append(el("br"), text(change, "small", row.better ? (better ? "better" : "worse") : ""));
      }
      return made;
    };
    const fill = () => {
      const shown = names.map((_, place) => place).filter((place) => !hiddenRuns.has(place));
      byId("run-table").replaceChildren(
        el("thead", {}, el("tr", {}, el("th"), ...shown.map((place) => el("th", {}, el("bdi", {}, names[place]), place === baseline ? " (baseline)" : "")))),
        el("tbody", {}, ...table.map((row) => el("tr", {}, text(row.title, "td", ""), ...shown.map((place) => cell(row, place))))),
      );
    };
    const choose = el("select", { id: "baseline", "aria-label": "Baseline" }, ...names.map((name, place) => new Option(`baseline: ${name}`, place)));
    choose.addEventListener("change", () => { baseline = Number(choose.value); fill(); });
    const buttons = names.map((name, place) => {
      const button = el("button", { "aria-pressed": "true", "data-run": place }, el("bdi", {}, name));
      button.addEventListener("click", () => {
        if (hiddenRuns.has(place)) hiddenRuns.delete(place); else hiddenRuns.add(place);
        button.setAttribute("aria-pressed", String(!hiddenRuns.has(place)));
        fill();
        redraw();
      });
      return button;
    });
    byId("run-choice").append(...buttons, choose);
    fill();
  }

  // Live view: ask whether there is a newer page; come back to where the reader was.
  const stamp = document.body.dataset.live;
  if (stamp !== undefined) {
    const kept = Number(sessionStorage_("get", "scroll"));
    if (kept) scrollTo(0, kept);
    for (const box of document.querySelectorAll("details.round, .words")) {
      const key = `open:${box.querySelector("summary").textContent.trim().slice(0, 20)}`;
      if (sessionStorage_("get", key) === "true") box.open = true;
      box.addEventListener("toggle", () => sessionStorage_("set", key, String(box.open)));
    }
    const ask = async () => {
      try {
        const answer = await fetch("/version", { cache: "no-store" });
        if (answer.ok && (await answer.text()) !== stamp) {
          sessionStorage_("set", "scroll", String(scrollY));
          for (const control of document.querySelectorAll("input, select")) if (control.id) sessionStorage_("set", control.id, control.value);
          location.reload();
          return;
        }
      } catch { /* the server has ended: the page stays as it is */ }
      setTimeout(ask, 2000);
    };
    setTimeout(ask, 2000);
  }
})();
