// The report's own script: sorts tables, and shows the samples that are in the page. Texts are only ever set as text.
(function () {
  "use strict";
  const PAGE = 25;

  // ---- tables
  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    if (!cell.matches(".number, .cell")) return text;
    const number = parseFloat(text.replace(/[,~]/g, "")); // of an interval the lower end, of a cell with several lines the score
    return Number.isNaN(number) ? "" : number;
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sort(button) {
    const header = button.closest("th");
    const table = button.closest("table");
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const values = new Map(rows.map((row) => [row, valueOf(row, column)]));
    rows.sort((left, right) => {
      const a = values.get(left), b = values.get(right);
      if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last, up or down
      return up ? compare(a, b) : compare(b, a);
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  }

  for (const button of document.querySelectorAll("table.sortable thead button")) {
    button.addEventListener("click", () => sort(button));
  }

  // ---- samples
  const holder = document.getElementById("samples-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const samples = data.rows.map((row) => Object.fromEntries(data.columns.map((name, at) => [name, row[at]])));
  for (const sample of samples) {
    sample.model = data.runs[sample.run];
    sample.set = data.datasets[sample.dataset];
    for (const name of ["prompt", "target"]) sample[name] = sample[name] === null ? null : data.texts[sample[name]];
  }

  const list = document.getElementById("sample-list");
  const count = document.getElementById("sample-count");
  const more = document.getElementById("sample-more");
  const model = document.getElementById("filter-model");
  const dataset = document.getElementById("filter-dataset");
  const text = document.getElementById("filter-text");
  const states = Array.from(document.querySelectorAll("input[name=state]"));
  let found = [];
  let shown = 0;

  function element(tag, content, className) {
    const made = document.createElement(tag);
    if (content !== undefined && content !== null) made.textContent = content;
    if (className) made.className = className;
    return made;
  }

  function fill(select, names) {
    names.forEach((name, at) => {
      const option = element("option", name);
      option.value = String(at);
      select.append(option);
    });
  }

  const OUTCOMES = { right: "good", partly: "warn", wrong: "bad", score: "muted" };

  function outcome(score) {
    if (score === 1) return "right";
    if (score === 0) return "wrong";
    return score > 0 && score < 1 ? "partly" : "score"; // a judge's score may have any scale
  }

  function badges(sample) {
    const made = [];
    const score = sample.score === null ? "" : " " + Number(sample.score.toFixed(4));
    if (sample.is.includes("failed")) made.push(element("span", "failed", "badge bad"));
    else if (sample.is.includes("unjudged")) made.push(element("span", "not judged", "badge warn"));
    else if (sample.score === null) made.push(element("span", "not scored", "badge warn"));
    else made.push(element("span", outcome(sample.score) + score, "badge " + OUTCOMES[outcome(sample.score)]));
    if (sample.is.includes("cut_off")) made.push(element("span", "cut off", "badge warn"));
    return made;
  }

  function entry(terms, name, value, plain) {
    if (value === null || value === undefined || value === "") return;
    terms.append(element("dt", name));
    const detail = element("dd");
    const holder = element(plain ? "span" : "pre", String(value), plain ? "" : "tall");
    holder.dir = "auto";
    detail.append(holder);
    terms.append(detail);
  }

  function card(sample) {
    const made = element("details", null, "sample");
    const summary = element("summary");
    for (const badge of badges(sample)) summary.append(badge, " ");
    const part = sample.subset && sample.subset !== "default" ? " / " + sample.subset : "";
    const repeat = sample.repeat ? ", repetition " + (sample.repeat + 1) : "";
    summary.append(element("span", sample.model + " · " + sample.set + part + " · " + sample.sample + repeat, "where"));
    const snippet = element("span", (sample.prompt || "").replace(/\s+/g, " ").slice(-300), "snippet");
    snippet.dir = "auto";
    summary.append(snippet);
    const terms = element("dl");
    entry(terms, "Prompt", sample.prompt);
    entry(terms, "Answer", sample.answer === "" ? "(empty)" : sample.answer);
    entry(terms, "Extracted", sample.extracted);
    entry(terms, "Right answer", sample.target);
    entry(terms, "Verdict", sample.verdict);
    entry(terms, "Reason", sample.reason);
    entry(terms, "Failure", sample.failure);
    const used = [];
    if (sample.input_tokens !== null) used.push(sample.input_tokens + " tokens in");
    if (sample.output_tokens !== null) used.push(sample.output_tokens + " tokens out");
    if (sample.latency_s !== null) used.push(sample.latency_s.toFixed(1) + " s");
    entry(terms, "Used", used.join(", "), true);
    const inside = element("div", null, "inside");
    inside.append(terms);
    made.append(summary, inside);
    return made;
  }

  function showMore() {
    const next = found.slice(shown, shown + PAGE).map(card);
    list.append(...next);
    shown += next.length;
    count.textContent = `${shown} of ${found.length} samples that match, of ${samples.length} in this file`;
    more.hidden = shown >= found.length;
    return next[0];
  }

  function matches(sample, wanted, words) {
    if (model.value !== "" && sample.run !== Number(model.value)) return false;
    if (dataset.value !== "" && sample.dataset !== Number(dataset.value)) return false;
    if (wanted.length && !wanted.some((state) => sample.is.includes(state))) return false;
    if (!words) return true;
    return [sample.sample, sample.subset, sample.prompt, sample.answer, sample.extracted, sample.target, sample.verdict,
      sample.reason, sample.failure].some((part) => part && part.toLowerCase().includes(words));
  }

  function filter() {
    const wanted = states.filter((box) => box.checked).map((box) => box.value);
    const words = text.value.trim().toLowerCase();
    found = samples.filter((sample) => matches(sample, wanted, words));
    shown = 0;
    list.replaceChildren();
    showMore();
  }

  fill(model, data.runs);
  fill(dataset, data.datasets);
  for (const control of [model, dataset, ...states]) control.addEventListener("change", filter);
  text.addEventListener("input", filter);
  more.addEventListener("click", () => {
    const first = showMore();
    if (first) first.querySelector("summary").focus({ preventScroll: true });
  });
  for (const link of document.querySelectorAll("button.link[data-state]")) {
    const [run, set] = Array.from(link.closest("tr").cells, (cell) => cell.textContent);
    const state = link.dataset.state.replace("cut_off", "cut off").replace("unjudged", "not judged");
    link.setAttribute("aria-label", `${link.textContent} ${state}: show these samples of ${run}, ${set}`);
    link.addEventListener("click", () => {
      model.value = String(data.runs.indexOf(run));
      dataset.value = String(data.datasets.indexOf(set));
      for (const box of states) box.checked = box.value === link.dataset.state;
      text.value = "";
      filter();
      document.getElementById("samples").scrollIntoView();
      model.focus({ preventScroll: true });
    });
  }
  document.getElementById("sample-browser").hidden = false;
  filter();
})();
