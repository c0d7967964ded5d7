"use strict";
(() => {
  const root = document.documentElement;
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const settings = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false };
  const paperWidth = { wide: 650, half: 310 }; // pixels of a figure inside A4's margins

  // Colours: the page's own, light or dark. Only what plotly reads as a colour is looked up, never a name or a text.
  const isColour = (key) => /color$/i.test(key) || key === "colorscale";
  function colour(name) {
    const [token, share] = name.slice(1).split("/");
    const hex = getComputedStyle(root).getPropertyValue("--" + token).trim();
    const part = (from) => parseInt(hex.slice(from, from + 2), 16);
    const opacity = share ?? (hex.length === 9 ? part(7) / 255 : 1);
    return `rgba(${part(1)},${part(3)},${part(5)},${opacity})`;
  }
  function dressed(node, coloured) {
    if (typeof node === "string") return coloured && node[0] === "@" ? colour(node) : node;
    if (Array.isArray(node)) return node.map((entry) => dressed(entry, coloured));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, dressed(value, isColour(key))]));
  }

  function draw(place) {
    if (!window.Plotly || !place.isConnected || place.clientWidth === 0) return;
    const spec = specs[place.dataset.figure];
    const layout = dressed(spec.layout);
    if (root.classList.contains("paper")) {
      const wide = place.parentElement.classList.contains("wide");
      Object.assign(layout, { width: wide ? paperWidth.wide : paperWidth.half, autosize: false });
    }
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false; // a finger scrolls the page
    Plotly.react(place, dressed(spec.data), layout, settings);
    place.dataset.drawn = "yes";
  }
  const drawAll = () => plots.forEach(draw);
  async function drawInTurn() {
    for (const place of plots) {
      draw(place);
      await new Promise((done) => setTimeout(done)); // the page answers in between
    }
  }

  async function load() {
    const packed = atob(document.getElementById("plotly").textContent.trim());
    const bytes = Uint8Array.from({ length: packed.length }, (_, place) => packed.charCodeAt(place));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script); // the page's policy knows its digest
    if (!window.Plotly) throw new Error("plotly did not start");
  }

  // Tables: a heading's button sorts by its column; what is missing stays last.
  function sort(heading) {
    const table = heading.closest("table");
    const column = [...heading.parentElement.children].indexOf(heading);
    const first = heading.dataset.first || "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
    table.querySelectorAll("th[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.children[column].dataset.value ?? "";
    const numeric = heading.dataset.kind === "number";
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true }));
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }
  document.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => sort(button.closest("th")));
  });

  // The key of a part's figures: a button hides its contender in all of them.
  document.querySelectorAll(".toggles button").forEach((button) => {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      const names = new Set(JSON.parse(button.dataset.names));
      for (const place of button.closest("[data-part]").querySelectorAll(".plot")) {
        for (const trace of specs[place.dataset.figure].data) {
          if (names.has(trace.legendgroup)) trace.visible = shown;
        }
        draw(place);
      }
    });
  });

  const parts = [...document.querySelectorAll("details.part")];
  parts.forEach((part) => part.addEventListener("toggle", () => part.open && part.querySelectorAll(".plot").forEach(draw)));
  function openLinked() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const part = target && target.closest("details.part");
    if (part) part.open = true;
  }
  addEventListener("hashchange", openLinked);
  openLinked();

  // On paper: everything open, light, and as wide as the paper.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = parts.filter((part) => !part.open);
    closed.forEach((part) => (part.open = true));
    root.classList.add("paper");
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("paper");
    closed.forEach((part) => (part.open = false));
    plots.forEach((place) => place.dataset.drawn && window.Plotly.purge(place));
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  load().then(drawInTurn).then(
    () => (root.dataset.ready = "yes"),
    (error) => {
      console.error(error);
      for (const place of plots) {
        const text = document.createElement("p");
        text.className = "lost";
        text.textContent = "This browser can't draw the figure; its picture lies beside this page: figures/" + place.dataset.figure + ".png";
        place.replaceChildren(text);
      }
    },
  );
})();
