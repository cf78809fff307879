"""The page and the README: every label of the paper in its order, every stored number, one file that loads nothing, and
what a browser says."""
import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STORED = sorted(p for p in ROOT.glob("figures/*/*.json") if p.parent.name in ("mini", "midi", "full"))
REAL = sorted(ROOT.glob("figures/paper/*.json"))
VOID = {"img", "meta", "br", "hr", "link", "input"}


class Page(HTMLParser):
    "What the tests want to know of a page; unbalanced tags are an AssertionError."
    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.sections, self.section, self.text = [], [], {}, None, {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "section":
            self.section = attrs["id"]
        self.sections.setdefault(self.section, []).append((tag, attrs))
        if tag not in VOID: self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "section":
            self.section = None

    def handle_data(self, data):
        self.text[self.section] = self.text.get(self.section, "") + " " + data


@pytest.fixture(scope="module")
def report():
    import dgnet.report
    return dgnet.report


@pytest.fixture(scope="module")
def labels():
    from dgnet.reproduce import all_labels
    return all_labels()


@pytest.fixture(scope="module")
def text(report, labels, tmp_path_factory):
    return report.write_report(tmp_path_factory.mktemp("page") / "report.html", labels).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture
def toy(tmp_path):
    "A folder with one small artefact, and what is in it."
    from PIL import Image
    comparison = [{"quantity": "x", "paper": 7.25, "ours": 0.123456789}]
    rows = {"claim": "Less <b>\"blur\"</b> & more", "comparison": comparison}
    provenance = {"source": "synthetic", "device": "an abacus", "seconds": 90.0, "run": "market-toy-0", "seed": 3,
                  "iterations": 10}
    about = {"label": "fig2_toy", "tier": "mini", "rows": rows, "provenance": provenance}
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "fig2_toy.json").write_text(json.dumps(about))
    (tmp_path / "mini" / "fig2_toy.csv").write_text("name,value,count\na10,-0.5,\na9,0.25,1400\nb,,7\n")
    Image.effect_noise((160, 120), 60).save(tmp_path / "mini" / "fig2_toy.png")
    return tmp_path, about


def numbers(value, path=()):
    "All numbers in a JSON value."
    if isinstance(value, bool): return
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list)):
        for v in value.values() if isinstance(value, dict) else value: yield from numbers(v)


def anchors(report, label, page):
    "The sections of an artefact."
    sections = [i.anchor for i in report.items_of(label)] or [label]
    assert set(sections) <= set(page.sections)
    return sections


def skip_unless_shown(path):
    "Of an artefact, the page shows the most telling tier and, below it, mini."
    from dgnet.core import find_artifact
    if path.parent.name != "mini" and find_artifact(path.stem, figures=ROOT / "figures") != path:
        pytest.skip("a more telling tier is shown")


def shown(page, sections) -> tuple:
    "Numbers in these sections: in full, and as text with their digits."
    full = [float(a["data-v"]) for s in sections for _, a in page.sections[s] if "data-v" in a]
    words = re.findall(r"(?<![\w.])[−-]?\d[\d,]*(?:\.\d+)?", " ".join(page.text[s] for s in sections))
    plain = [w.replace("−", "-").replace(",", "") for w in words]
    return full, [(float(w), len(w.partition(".")[2])) for w in plain]

# --- what is on the page --------------------------------------------------------------------------------------------


def test_every_label_of_the_paper_has_a_heading_in_the_papers_order(page, text):
    heads = re.findall(r"<h3[^>]*>((?:Figure|Table) \d+) ", text)
    assert heads[:19] == [f"Figure {k}" for k in range(1, 10)] + [f"Table {k}" for k in range(1, 11)]
    links = [a["href"] for t, a in page.tags if t == "a" and re.match(r"#(figure|table)-\d", a["href"])]
    assert links[:19] == ["#" + h.lower().replace(" ", "-") for h in heads[:19]]


def test_what_has_no_artefact_says_so_and_nothing_else(report, page, labels):
    stored = {i.anchor for label in labels for i in report.items_of(label)}
    for item in report.PAPER:
        assert ("Not regenerated yet." in page.text[item.anchor]) == (item.anchor not in stored)
        tags = {t for t, _ in page.sections[item.anchor]}
        assert tags & {"table", "img"} or item.anchor not in stored


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_stored_number_is_on_the_page(report, page, path):
    skip_unless_shown(path)
    about = json.loads(path.read_text(encoding="utf-8"))
    full, plain = shown(page, anchors(report, path.stem, page))
    table = path.with_suffix(".csv")
    cells = [c for r in csv.reader(table.open(encoding="utf-8")) for c in r] if table.exists() else []
    exact = [float(c) for c in cells if re.fullmatch(r"-?\d+\.\d+", c)]
    exact += numbers(about["rows"].get("comparison", []))
    assert set(exact) <= set(full), "the paper's values, ours, and the table, with all their digits"
    for v in numbers(about["rows"]):
        assert v in full or any(abs(round(v, d) - t) < 1e-9 for t, d in plain), v


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
def test_real_photographs_have_a_section_of_their_own_without_pictures(page, path):
    about, section = json.loads(path.read_text(encoding="utf-8")), f"real-{path.stem}"
    full, _ = shown(page, [section])
    assert {*numbers(about["table"]), *numbers(about["rows"]["comparison"])} <= set(full)
    assert "real photographs" in page.text[section] and not any(t == "img" for t, _ in page.sections[section])
    assert any("real" in a.get("class", "").split() for t, a in page.sections[section] if t == "span")


@pytest.mark.parametrize("path", [*STORED, *REAL], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_tier_claim_and_provenance_are_there(report, page, path):
    if path in STORED: skip_unless_shown(path)
    about = json.loads(path.read_text(encoding="utf-8"))
    p = about["provenance"]
    for section in [f"real-{path.stem}"] if path in REAL else anchors(report, path.stem, page):
        words = page.text[section]
        assert f"tier {about['tier']}" in words and about["rows"].get("claim", "") in words
        assert report.training_words(p) in words
        wanted = [p["code_version"], p.get("run"), p.get("config_hash"), p.get("device"),
                  *(f"{k} {v}" for k, v in p["packages"].items()), p.get("notebook", f"nbs/{about['label']}.ipynb")]
        assert all(w in words for w in wanted if w)


def test_quoted_columns_are_marked_in_words_and_colour(toy, report):
    page = Page(report.report_page(report.report_parts(["fig2_toy"], toy[0])))
    quoted = [(t, a) for t, a in page.sections["figure-2"] if "quoted" in a.get("class", "")]
    assert {t for t, _ in quoted} == {"th", "td"}
    assert "paper (quoted)" in page.text["figure-2"] and "7.25" in page.text["figure-2"]


def test_the_stored_page_is_made_of_the_stored_artefacts(text):
    def words(t): return re.sub(r"data:image/[^']*", "", t).split()
    stored = (ROOT / "figures" / "report.html").read_text(encoding="utf-8")
    assert "".join(words(stored)) == "".join(words(text)), (
        "run dgnet_reproduce, or write_report, and commit figures/report.html")


def test_no_training_is_not_called_training(report):
    assert report.training_words({"seconds": 0.7}) == "no training"
    assert report.training_words({"seconds": 0.7, "run": "x"}) == "under a minute of training"
    assert report.training_words({"seconds": 840.6, "run": "x"}) == "14 min of training"
    assert report.training_words({"run": "x"}) == "training time not recorded"


@pytest.mark.parametrize("value, text", [
    (None, "–"), (float("nan"), "–"), ("", "–"), ("–", "–"), (0, "0"), (-0.00001, "−0.0000100"), (-0.0, "0.0"),
    (380544, "380,544"), (136.26, "136.26"), (86.0, "86.0"), (76.33889694789241, "76.3"), (1460.7671828, "1,461"),
    (0.2305090041060751, "0.231"), (True, "yes"), ([1, 2.5], "1, 2.5"), (float("inf"), "∞"),
])
def test_numbers_in_words(report, value, text):
    assert report.number_text(value) == text


def test_words_of_others_are_escaped(toy, report):
    folder, about = toy
    text = report.report_page(report.report_parts(["fig2_toy"], folder))
    assert "<b>" not in text and about["rows"]["claim"] in Page(text).text["figure-2"]
    alt = next(a["alt"] for t, a in Page(text).tags if t == "img")
    assert alt == f"Figure 2. {about['rows']['claim']}", "the picture's words are the claim"


def test_the_more_telling_tier_is_shown(toy, report):
    folder, about = toy
    (folder / "full").mkdir()
    (folder / "full" / "fig2_toy.json").write_text(json.dumps(about | {"tier": "full"}))
    words = Page(report.report_page(report.report_parts(["fig2_toy"], folder))).text["figure-2"]
    at_home = words.index("what your own machine makes in an hour")
    assert words.index("tier full") < at_home < words.index("tier mini"), "mini beside it, below"
    (folder / "midi").mkdir()
    (folder / "midi" / "fig2_toy.json").write_text(json.dumps(about | {"tier": "midi"}))
    assert "tier midi" not in Page(report.report_page(report.report_parts(["fig2_toy"], folder))).text["figure-2"]


def test_three_tables_of_one_artefact_get_their_own_rows(report, tmp_path):
    (tmp_path / "mini").mkdir()
    about = {"label": "tables6_7_8_toy", "tier": "mini", "rows": {}, "provenance": {}}
    (tmp_path / "mini" / "tables6_7_8_toy.json").write_text(json.dumps(about))
    (tmp_path / "mini" / "tables6_7_8_toy.csv").write_text("table,layer\n6,sixth\n7,seventh\n8,eighth\n")
    page = Page(report.report_page(report.report_parts(["tables6_7_8_toy"], tmp_path)))
    words = ("sixth", "seventh", "eighth")
    for n, word in zip((6, 7, 8), words):
        assert [w for w in words if w in page.text[f"table-{n}"]] == [word]


def test_a_large_page_is_packed(toy, report, monkeypatch):
    folder, _ = toy
    as_stored = report.write_report(folder / "report.html", ["fig2_toy"], folder).read_text()
    assert "data:image/png" in as_stored and "data:image/webp" not in as_stored
    monkeypatch.setattr(report, "PAGE_LIMIT", len(as_stored) - 5000)
    packed = report.write_report(folder / "report.html", ["fig2_toy"], folder)
    assert "data:image/webp" in packed.read_text() and packed.stat().st_size <= report.PAGE_LIMIT


@pytest.mark.parametrize("name, content", [
    ("fig2_toy.json", b'{"label": "fig2_toy",'), ("fig2_toy.json", b'["fig2_toy"]'), ("fig2_toy.json", b"\xff"),
    ("fig2_toy.json", b'{"label": "fig2_toy", "tier": "mini", "rows": {}}'), ("fig2_toy.csv", b"\xff\xfe"),
    ("fig2_toy.png", b"\x89PNG\r\n"),
])
def test_a_broken_file_is_named(toy, report, name, content):
    folder, _ = toy
    (folder / "mini" / name).write_bytes(content)
    named = rf"{re.escape(str(folder / 'mini' / name))} is no readable artefact: .*git checkout"
    with pytest.raises(ValueError, match=named):
        report.write_report(folder / "report.html", ["fig2_toy"], folder)
    assert not (folder / "report.html").exists(), "no half page"


def test_the_command_answers_a_broken_artefact_in_one_line(toy, report, labels, monkeypatch, capsys):
    import dgnet.reproduce as R
    folder, _ = toy
    (folder / "mini" / f"{labels[0]}.json").write_text("{")
    monkeypatch.setattr(R, "choose_notebooks", lambda *prefixes: [])
    monkeypatch.setattr(R, "refresh_readme", lambda path: "")
    page = folder / "report.html"
    monkeypatch.setattr(R, "write_report", lambda path, names: report.write_report(page, names, folder))
    assert R.reproduce_cli([]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dgnet_reproduce: ") and f"{labels[0]}.json" in message and "Traceback" not in message

# --- the form of the page -------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(page, text):
    for tag, a in page.tags:
        for key in ("src", "srcset", "data", "poster", "action", "background"):
            assert a.get(key, "data:").startswith("data:"), (tag, key)
        assert tag not in ("link", "iframe", "object", "embed", "base") and not (tag == "script" and "src" in a)
        if "href" in a:
            assert tag == "a" and re.match(r"#|https://arxiv\.org/", a["href"])
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", text)
    assert "default-src 'none'" in next(a["content"] for t, a in page.tags if t == "meta"
                                        and a.get("http-equiv") == "Content-Security-Policy")


def test_the_page_is_well_formed_and_accessible(page):
    tags = page.tags
    views = [a["content"] for t, a in tags if t == "meta" and a.get("name") == "viewport"]
    assert ("html", {"lang": "en"}) in tags and any("width=device-width" in content for content in views)
    levels = [int(t[1]) for t, _ in tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    labelled = {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a}
    linked = {a["href"][1:] for t, a in tags if t == "a" and a["href"].startswith("#")}
    assert labelled | linked <= set(ids)
    for image in (a for t, a in tags if t == "img"):
        assert len(image.get("alt", "")) > 20 and image["width"].isdigit() and image["height"].isdigit()
    assert all(a.get("scope") in ("col", "row") for t, a in tags if t == "th")
    assert {t for t, _ in tags} >= {"main", "nav", "header", "caption"}


def test_the_page_is_small_and_styled_for_light_dark_print_and_small_screens(text):
    assert len(text.encode()) <= 3_000_000
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", "color-scheme: light dark",
                 "overflow-x: auto"):
        assert rule in text
    assert "aria-sort" in text.partition("<script>")[2] and "localeCompare" in text, "the sorting script"

# --- the README -----------------------------------------------------------------------------------------------------


def test_readme_is_filled_between_marks(toy, report):
    folder, _ = toy
    (folder / "mini" / "fig2_toy.md").write_text("| name |\n")
    note = folder / "README.md"
    note.write_text("a <!-- artefact: fig2_toy --><!-- end --> b <!-- artefact: mini/fig2_toy -->x\ny<!-- end --> c "
                    "<!-- artefact: nothing -->kept<!-- end --> d")
    text = report.refresh_readme(note, folder)
    assert text == note.read_text() and text.count("| name |") == 2
    assert text.count("*Tier mini, rendered people, an abacus, 2 min of training.*") == 2
    assert "<!-- artefact: nothing -->kept<!-- end --> d" in text and "x\ny" not in text

# --- in a browser, where there is one -------------------------------------------------------------------------------

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
PROBE = """<script>addEventListener("load", () => {
const all = s => [...document.querySelectorAll(s)], wrong = [], rootbox = document.documentElement;
const value = cell => "none" in cell.dataset ? null : "v" in cell.dataset ? +cell.dataset.v : cell.textContent;
for (const table of all("table.sortable")) [...table.tHead.rows[0].cells].forEach((th, k) => {
  const rows = () => [...table.tBodies[0].rows], keys = () => rows().map(r => value(r.cells[k]));
  const lines = () => rows().map(r => r.textContent).join("|");
  const printed = lines(), button = th.querySelector("button"), bad = [];
  for (const sign of [1, -1]) {
    button.click();
    const sorted = keys(), known = sorted.filter(v => v !== null);
    const numbers = known.filter(v => typeof v === "number"), way = sign > 0 ? "ascending" : "descending";
    if (sorted.slice(known.length).some(v => v !== null)) bad.push("missing not last");
    if (numbers.some((v, i) => i && sign * (v - numbers[i - 1]) < 0)) bad.push("order " + sign);
    if (th.getAttribute("aria-sort") !== way || table.querySelectorAll("[aria-sort]").length !== 1)
      bad.push("aria-sort");
  }
  button.click();
  if (th.hasAttribute("aria-sort") || lines() !== printed) bad.push("not back");
  if (bad.length) wrong.push([table.caption.textContent, th.textContent, ...bad]);
});
const button = document.querySelector("button.zoom"), dialog = document.getElementById("zoom"), zoom = [];
if (button) {
  button.focus();
  button.click();
  zoom.push(dialog.open && dialog.querySelectorAll("img").length === 1);
  dialog.querySelector(".wide").click();
  zoom.push(dialog.querySelector("img").getBoundingClientRect().height <= innerHeight);
  dialog.querySelector(".close").click();
  zoom.push(!dialog.open && document.activeElement === button);
}
const beyond = e => e.getBoundingClientRect().right > rootbox.clientWidth + 1;
const sized = all("body *").filter(e => beyond(e) && !e.closest(".scroll, .skip, dialog"));
const overflow = rootbox.scrollWidth - rootbox.clientWidth, tables = all("table.sortable").length;
const broken = all("main img").filter(i => !i.naturalWidth).map(i => i.alt);
const boxes = sized.map(e => e.tagName + "." + e.className);
parent.postMessage(JSON.stringify({width: innerWidth, overflow, sized: boxes, wrong, zoom, tables, broken}), "*");
});</script>"""

# chromium's own window is never narrower than 500 pixels; a frame in it is as narrow as it is told
FRAME = """<!doctype html><body><iframe src="page.html" style="width: WIDTHpx; height: 850px; border: 0"></iframe>
<script>addEventListener("message", e => document.body.dataset.probe = e.data);</script></body>"""


def browse(text: str, width: int, folder: Path) -> tuple:
    "What the probe found and what the console said."
    (folder / "page.html").write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--window-size=1400,900", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--dump-dom",
               (folder / "frame.html").as_uri()]
    browser = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "<iframe" not in browser.stdout:
        pytest.skip(f"{BROWSER} does not run here: {browser.stderr[-300:]}")
    answer = re.search(r'data-probe="([^"]*)"', browser.stdout)
    assert answer, f"the page did not answer: {browser.stderr[-2000:]}"
    return json.loads(html.unescape(answer[1])), [line for line in browser.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_it_fits_sorts_zooms_and_is_silent(text, tmp_path, width):
    probe, console = browse(text, width, tmp_path)
    assert console == [] and probe["width"] == width
    assert probe["overflow"] == 0 and probe["sized"] == [], "only boxes that scroll may be wider than the window"
    assert probe["wrong"] == [] and probe["tables"] > 5 and probe["broken"] == [] and probe["zoom"] == [True] * 3


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_the_browser_would_notice(toy, report, tmp_path):
    text = report.report_page(report.report_parts(["fig2_toy"], toy[0]))
    bad = text.replace("<main id='main'>", "<main id='main'><div style='width: 3000px'>wide</div><img alt='' "
                       "src='data:image/png;base64,AAAA'><img alt='' src='https://example.invalid/a.png'>")
    probe, console = browse(bad.replace("a - b", "b - a"), 400, tmp_path)
    assert probe["overflow"] > 2000 and len(probe["broken"]) == 2 and probe["wrong"]
    assert any("Content Security Policy" in line for line in console)
