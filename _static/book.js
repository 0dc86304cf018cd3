/* What the pages of the book do beside the theme: sort and filter long tables, show interactive figures,
   name what screen readers read, and keep contents lists out of the excerpts of a search. */
(() => {
  const root = document.documentElement.dataset.content_root;
  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };
  const loading = {};
  const load = (path) => (loading[path] ??= new Promise((done, failed) => {
    document.head.append(make("script", { src: root + path, onload: done, onerror: failed }));
  }));

  // An excerpt of a search comes from the text of a page, not from its list of contents
  function search() {
    if (typeof Search === "undefined") return;
    const whole = Search.htmlToText;
    Search.htmlToText = (html, anchor) => {
      const page = new DOMParser().parseFromString(html, "text/html");
      const article = page.querySelector(".bd-article");
      if (!article) return whole(html, anchor);
      article.querySelectorAll(".headerlink, script, style, .windows").forEach((one) => one.remove());
      return ((anchor && article.querySelector(anchor)) || article).textContent;
    };
  }

  // Tables: eight rows are worth sorting, twelve are worth a filter
  const powers = Object.fromEntries([..."⁻⁰¹²³⁴⁵⁶⁷⁸⁹"].map((sign, i) => [sign, "-0123456789"[i]]));
  const number = (text) => {
    const plain = text.replaceAll("−", "-").replace(/^[≤≥<>]\s*/, "").replace(/^10(?=[⁻⁰-⁹¹²³])/, "1·10");
    const [, digits, power = ""] = plain.match(/^([-+]?[\d.]+)(?:·10([⁻⁰¹²³⁴-⁹]+))?/) ?? [];
    const exponent = [...power].map((sign) => powers[sign]).join("");
    return digits ? parseFloat(exponent ? `${digits}e${exponent}` : digits) : NaN;
  };
  async function sortable(table) {
    const rows = [...table.tBodies[0].rows];
    if (!rows.some((row) => [...row.cells].some((cell) => /^[−+]?\d/.test(cell.textContent.trim())))) return;
    // a row that continues the one above means nothing elsewhere
    if (rows.some((row) => /^(\+.*)?$/.test(row.cells[0].textContent.trim()))) return;
    for (const row of rows)
      for (const cell of row.cells) {
        const text = cell.textContent.trim(), value = number(text);
        cell.dataset.sort = text === "–" ? -1e99 : Number.isNaN(value) ? text : value;
      }
    await load("tablesort/tablesort.min.js");
    Tablesort.extend("number", (text) => /^[-+]?\d*\.?\d+(e[-+]?\d+)?$/.test(text), (a, b) => b - a);
    new Tablesort(table);
    for (const head of table.tHead.rows[0].cells) {
      head.title = "Sort by this column";
      head.addEventListener("keydown", (event) => {
        if (event.key === " ") { event.preventDefault(); head.click(); }  // Enter is tablesort's
      });
    }
    if (rows.length >= 12)
      (table.closest(".pst-scrollable-table-container") ?? table).before(filter(rows, "rows of this table"));
  }
  function filter(entries, what) {
    const input = make("input", { type: "search", placeholder: "Filter", className: "form-control filter" });
    input.setAttribute("aria-label", `Filter the ${what}`);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const entry of entries)
        entry.hidden = !words.every((word) => entry.textContent.toLowerCase().includes(word));
    });
    return input;
  }

  // Interactive figures: a list of traces, each shown for certain values of the controls
  function control(about, changed) {
    const { name, kind, values, start } = about;
    if (kind === "several") {
      const boxes = values.map((value) => make("input", {
        type: "checkbox", value, checked: start.includes(value), onchange: () => changed(
          boxes.filter((box) => box.checked).map((box) => box.value)) }));
      return make("fieldset", {}, make("legend", { textContent: name }),
        ...boxes.map((box) => make("label", {}, box, box.value)));
    }
    if (kind === "choice") {
      const options = values.map((value) => make("option", { value, textContent: value, selected: value === start }));
      const select = make("select", { onchange: () => changed([select.value]) }, ...options);
      return make("label", {}, `${name} `, select);
    }
    const shown = make("output", { textContent: start });
    const slider = make("input", { type: "range", min: 0, max: values.length - 1, value: values.indexOf(start) });
    const say = () => {
      shown.textContent = values[slider.value];
      slider.setAttribute("aria-valuetext", shown.textContent);
    };
    slider.oninput = () => { say(); changed([shown.textContent]); };
    say();
    return make("label", {}, `${name} `, slider, shown);
  }

  async function interactive(box) {
    await load("plotly/plotly-basic.min.js");
    const { traces, controls, layout, label } = JSON.parse(box.querySelector("script").textContent);
    const state = Object.fromEntries(controls.map((one) => [one.name, [one.start].flat()]));
    const plot = make("div", { className: "plot" });
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", label);
    const draw = () => Plotly.react(plot,
      traces.filter(({ when = {} }) => Object.entries(when).every(([name, value]) => state[name].includes(value))),
      { ...layout, title: layout.titles ? { text: state[layout.titles][0] } : undefined },
      { displayModeBar: false, responsive: true });
    const form = make("form", { className: "controls", onsubmit: () => false }, ...controls.map((one) =>
      control(one, (values) => { state[one.name] = values; draw(); })));
    box.prepend(plot, form);
    const figure = document.getElementById(box.dataset.for);
    if (figure) {
      box.closest(".cell_output").hidden = true;
      figure.classList.add("live");
      figure.querySelector("figcaption").before(box);
    }
    await draw();
    box.classList.add("ready");
  }

  // A formula in a line that is longer than the line scrolls by itself
  async function formulas() {
    if (!window.MathJax?.startup) return;
    await MathJax.startup.promise;
    const measure = () => {
      for (const formula of document.querySelectorAll("span.math mjx-container"))
        formula.parentElement.classList.toggle("wide",
          formula.offsetWidth > (formula.closest("p, li, dd, td, figcaption") ?? document.body).clientWidth);
    };
    measure();
    addEventListener("resize", measure);
  }
  addEventListener("load", formulas);

  // Paper is white
  const page = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => { theme = page.dataset.theme; page.dataset.theme = "light"; });
  addEventListener("afterprint", () => { page.dataset.theme = theme; });

  document.addEventListener("DOMContentLoaded", () => {
    search();
    for (const summary of document.querySelectorAll("nav summary"))
      summary.setAttribute("aria-label", `Pages under ${summary.closest("li").querySelector("a").textContent}`);
    for (const table of document.querySelectorAll(".bd-article table.table"))
      if (table.tHead && table.tBodies.length === 1 && table.tBodies[0].rows.length >= 8) sortable(table);
    for (const list of document.querySelectorAll(".facts")) list.before(filter([...list.children], "facts"));
    const near = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries)
        if (isIntersecting) { near.unobserve(target); interactive(target); }
    }, { rootMargin: "400px" });
    for (const box of document.querySelectorAll(".interactive")) near.observe(box);
  });
})();
