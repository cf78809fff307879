(() => {
const all = (s, root = document) => [...root.querySelectorAll(s)];
const value = cell =>
  "none" in cell.dataset ? null : "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim();
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", {numeric: true, sensitivity: "base"}));
}
for (const table of all("table.sortable")) {
  const body = table.tBodies[0], printed = [...body.rows], heads = all("thead th", table);
  heads.forEach((th, k) => {
    const button = Object.assign(document.createElement("button"), {type: "button", title: "Sort by this column"});
    button.append(...th.childNodes);
    th.append(button);
    button.addEventListener("click", () => {
      const way = {ascending: "descending", descending: null}[th.getAttribute("aria-sort")];
      heads.forEach(h => h.removeAttribute("aria-sort"));
      if (way !== null) th.setAttribute("aria-sort", way || "ascending");
      const sign = way === "descending" ? -1 : 1, rows = [...printed];
      if (way !== null) rows.sort((r, s) => compare(value(r.cells[k]), value(s.cells[k]), sign));
      body.append(...rows);
    });
  });
}
const dialog = document.getElementById("zoom"),
  pane = dialog.querySelector(".pane"), wide = dialog.querySelector(".wide");
all("button.zoom").forEach(button => button.addEventListener("click", () => {
  const image = button.querySelector("img").cloneNode();
  image.style.setProperty("--w", image.getAttribute("width") + "px");
  dialog.querySelector("p").textContent = button.closest("section").querySelector("h3").textContent;
  pane.replaceChildren(image);
  fit(false);
  dialog.showModal();
  pane.scrollTo(0, 0);
  pane.focus();
}));
function fit(on) {
  dialog.classList.toggle("fit", on);
  wide.textContent = on ? "Enlarge" : "Fit to window";
}
wide.addEventListener("click", () => fit(!dialog.classList.contains("fit")));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
pane.addEventListener("click", e => { if (e.target === pane) dialog.close(); });
let folded = [];
addEventListener("beforeprint", () => {
  folded = all("details:not([open])");
  folded.forEach(d => d.open = true);
});
addEventListener("afterprint", () => folded.forEach(d => d.open = false));
const links = new Map(all("nav a").map(a => [a.hash.slice(1), a]));
const seen = new IntersectionObserver(entries => entries.forEach(e => {
  if (!e.isIntersecting) return;
  links.forEach(a => a.removeAttribute("aria-current"));
  links.get(e.target.id).setAttribute("aria-current", "location");
}), {rootMargin: "0px 0px -70% 0px"});
all("section[id]").forEach(s => links.has(s.id) && seen.observe(s));
})();
