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
    about = {"label": "fig2_toy", "tier": "mini", "rows": {"claim": "Less <b>\"blur\"</b> & more",
                                                           "comparison": [{"quantity": "x", "paper": 7.25,
                                                                           "ours": 0.123456789}]},
             "provenance": {"source": "synthetic", "device": "an abacus", "seconds": 90.0, "run": "market-toy-0",
                            "seed": 3, "iterations": 10}}
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
    found = [i.anchor for i in report.items_of(label)] or [label]
    assert set(found) <= set(page.sections)
    return found


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
    assert [a["href"] for t, a in page.tags if t == "a" and re.match(r"#(figure|table)-\d", a["href"])][:19] == ["#" + h.lower().replace(" ", "-") for h in heads[:19]]


def test_what_has_no_artefact_says_so_and_nothing_else(report, page, labels):
    there = {i.anchor for l in labels for i in report.items_of(l)}
    for item in report.PAPER:
        assert ("Not regenerated yet." in page.text[item.anchor]) == (item.anchor not in there)
        assert (any(t == "table" for t, _ in page.sections[item.anchor]) or any(t == "img" for t,
                                                                                _ in page.sections[item.anchor])
                or item.anchor not in there)


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_stored_number_is_on_the_page(report, page, path):
    if path.parent.name != "mini" and report.stored_artifact(path.stem, ROOT / "figures") != path:
        pytest.skip("a more telling tier is shown")
    about = json.loads(path.read_text(encoding="utf-8"))
    full, plain = shown(page, anchors(report, path.stem, page))
    cells = [c for r in csv.reader(path.with_suffix(".csv").open(encoding="utf-8"))
             for c in r] if path.with_suffix(".csv").exists() else []
    exact = [*numbers(about["rows"].get("comparison", [])), *(float(c) for c in cells if re.fullmatch(r"-?\d+\.\d+",
                                                                                                      c))]
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
    if path in STORED and path.parent.name != "mini" and report.stored_artifact(path.stem, ROOT / "figures") != path:
        pytest.skip("a more telling tier is shown")
    about = json.loads(path.read_text(encoding="utf-8"))
    p = about["provenance"]
    for section in [f"real-{path.stem}"] if path in REAL else anchors(report, path.stem, page):
        said = page.text[section]
        assert f"tier {about['tier']}" in said and about["rows"].get("claim",
                                                                     "") in said and report.training_words(p) in said
        wanted = [p["code_version"], p.get("run"), p.get("config_hash"), p.get("device"),
                  *(f"{k} {v}" for k, v in p["packages"].items()), p.get("notebook", f"nbs/{about['label']}.ipynb")]
        assert all(w in said for w in wanted if w)


def test_quoted_columns_are_marked_in_words_and_colour(toy, report):
    page = Page(report.report_page(report.report_parts(["fig2_toy"], toy[0])))
    quoted = [(t, a) for t, a in page.sections["figure-2"] if "quoted" in a.get("class", "")]
    assert {t for t, _ in quoted} == {"th", "td"} and "paper (quoted)" in page.text["figure-2"] and "7.25" in page.text[
        "figure-2"]


def test_the_stored_page_is_made_of_the_stored_artefacts(text):
    def words(t): return re.sub(r"data:image/[^']*", "", t)
    assert words((ROOT / "figures" / "report.html").read_text(encoding="utf-8")) == words(
        text), "run dgnet_reproduce, or write_report, and commit figures/report.html"


def test_no_training_is_not_called_training(report):
    assert (report.training_words({"seconds": 0.7}) == "no training"
            and report.training_words({"seconds": 0.7, "run": "x"}) == "under a minute of training")
    assert report.training_words({"seconds": 840.6, "run": "x"}) == "14 min of training" and report.training_words(
        {"run": "x"}) == "training time not recorded"


@pytest.mark.parametrize("value, said", [(None, "–"), (float("nan"), "–"), ("", "–"), (0, "0"), (-0.00001, "−0.0000100"), (-0.0, "0.0"), (380544, "380,544"), (136.26, "136.26"), (86.0, "86.0"),
                                         (76.33889694789241, "76.3"), (0.2305090041060751, "0.231"), (1460.7671828, "1,461"), (True, "yes"), ([1, 2.5], "1, 2.5"), (float("inf"), "∞"), ("–", "–")])
def test_numbers_in_words(report, value, said):
    assert report.number_text(value) == said


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
    said = Page(report.report_page(report.report_parts(["fig2_toy"], folder))).text["figure-2"]
    assert said.index("tier full") < said.index("what your own machine makes in an hour") < said.index(
        "tier mini"), "mini beside it, below"
    (folder / "midi").mkdir()
    (folder / "midi" / "fig2_toy.json").write_text(json.dumps(about | {"tier": "midi"}))
    assert "tier midi" not in Page(report.report_page(report.report_parts(["fig2_toy"], folder))).text["figure-2"]


def test_three_tables_of_one_artefact_get_their_own_rows(report, tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "tables6_7_8_toy.json").write_text(json.dumps({"label": "tables6_7_8_toy", "tier": "mini",
                                                                        "rows": {}, "provenance": {}}))
    (tmp_path / "mini" / "tables6_7_8_toy.csv").write_text("table,layer\n6,sixth\n7,seventh\n8,eighth\n")
    page = Page(report.report_page(report.report_parts(["tables6_7_8_toy"], tmp_path)))
    words = ("sixth", "seventh", "eighth")
    assert [[w in page.text[f"table-{n}"] for w in words] for n in (6, 7, 8)] == [[True, False, False],
                                                                                  [False, True, False], [False, False,
                                                                                                         True]]


def test_a_large_page_is_packed(toy, report, monkeypatch):
    folder, _ = toy
    as_stored = report.write_report(folder / "report.html", ["fig2_toy"], folder).read_text()
    assert "data:image/png" in as_stored and "data:image/webp" not in as_stored
    monkeypatch.setattr(report, "PAGE_LIMIT", len(as_stored) - 5000)
    packed = report.write_report(folder / "report.html", ["fig2_toy"], folder)
    assert "data:image/webp" in packed.read_text() and packed.stat().st_size <= report.PAGE_LIMIT


@pytest.mark.parametrize("name, content", [("fig2_toy.json", b'{"label": "fig2_toy",'), ("fig2_toy.json", b'["fig2_toy"]'), ("fig2_toy.json", b'{"label": "fig2_toy", "tier": "mini", "rows": {}}'),
                                           ("fig2_toy.json", b"\xff"), ("fig2_toy.csv", b"\xff\xfe"), ("fig2_toy.png", b"\x89PNG\r\n")])
def test_a_broken_file_is_named(toy, report, name, content):
    folder, _ = toy
    (folder / "mini" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(folder / 'mini' / name))} is no readable artefact: .*git "
                       r"checkout"):
        report.write_report(folder / "report.html", ["fig2_toy"], folder)
    assert not (folder / "report.html").exists(), "no half page"


def test_the_command_answers_a_broken_artefact_in_one_line(toy, report, labels, monkeypatch, capsys):
    import dgnet.runs as R
    folder, _ = toy
    (folder / "mini" / f"{labels[0]}.json").write_text("{")
    monkeypatch.setattr(R, "choose_notebooks", lambda *prefixes: [])
    monkeypatch.setattr(R, "refresh_readme", lambda path: "")
    monkeypatch.setattr(R, "write_report", lambda path, names: report.write_report(folder / "report.html", names,
                                                                                   folder))
    assert R.reproduce_cli([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dgnet_reproduce: ") and f"{labels[0]}.json" in said and "Traceback" not in said

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
    assert ("html", {"lang": "en"}) in tags and any(t == "meta" and a.get("name") == "viewport"
                                                    and "width=device-width" in a["content"] for t, a in tags)
    levels = [int(t[1]) for t, _ in tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    named = {a[k] for _, a in tags for k in ("aria-labelledby",) if k in a} | {a["href"][1:] for t, a in tags
                                                                               if t == "a" and a["href"].startswith(
                                                                                   "#")}
    assert named <= set(ids)
    assert all(len(a.get("alt", "")) > 20 and a["width"].isdigit() and a["height"].isdigit() for t, a in tags
               if t == "img")
    assert all(a.get("scope") in ("col", "row") for t, a in tags if t == "th") and {t for t, _ in tags} >= {"main",
                                                                                                            "nav",
                                                                                                            "header",
                                                                                                            "caption"}


def test_the_page_is_small_and_styled_for_light_dark_print_and_small_screens(text):
    assert len(text.encode()) <= 3_000_000
    for rule in ("prefers-color-scheme:dark", "@media print", "max-width:40rem", "color-scheme:light dark",
                 "overflow-x:auto"):
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
    assert text == note.read_text() and text.count(
        "*Tier mini, rendered people, an abacus, 2 min of training.*") == 2 and text.count("| name |") == 2
    assert "<!-- artefact: nothing -->kept<!-- end --> d" in text and "x\ny" not in text

# --- in a browser, where there is one -------------------------------------------------------------------------------

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
PROBE = """<script>addEventListener("load", () => {
const all = s => [...document.querySelectorAll(s)], wrong = [], rootbox = document.documentElement;
for (const table of all("table.sortable")) [...table.tHead.rows[0].cells].forEach((th, k) => {
  const keys = () => [...table.tBodies[0].rows].map(r => "none" in r.cells[k].dataset ? null : "v" in r.cells[k].dataset ? +r.cells[k].dataset.v : r.cells[k].textContent);
  const lines = () => [...table.tBodies[0].rows].map(r => r.textContent).join("|"), printed = lines(), button = th.querySelector("button"), bad = [];
  for (const sign of [1, -1]) {
    button.click();
    const there = keys(), known = there.filter(v => v !== null), numbers = known.filter(v => typeof v === "number");
    if (there.slice(known.length).some(v => v !== null)) bad.push("missing not last");
    if (numbers.some((v, i) => i && sign * (v - numbers[i - 1]) < 0)) bad.push("order " + sign);
    if (th.getAttribute("aria-sort") !== (sign > 0 ? "ascending" : "descending") || table.querySelectorAll("[aria-sort]").length !== 1) bad.push("aria-sort");
  }
  button.click();
  if (th.hasAttribute("aria-sort") || lines() !== printed) bad.push("not back");
  if (bad.length) wrong.push([table.caption.textContent, th.textContent, ...bad]);
});
const button = document.querySelector("button.zoom"), dialog = document.getElementById("zoom"), zoom = [];
if (button) { button.focus(); button.click(); zoom.push(dialog.open && dialog.querySelectorAll("img").length === 1);
  dialog.querySelector(".wide").click(); zoom.push(dialog.querySelector("img").getBoundingClientRect().height <= innerHeight);
  dialog.querySelector(".close").click(); zoom.push(!dialog.open && document.activeElement === button); }
const sized = all("body *").filter(e => e.getBoundingClientRect().right > rootbox.clientWidth + 1 && !e.closest(".scroll, .skip, dialog")).map(e => e.tagName + "." + e.className);
parent.postMessage(JSON.stringify({width: innerWidth, overflow: rootbox.scrollWidth - rootbox.clientWidth, sized, wrong, zoom, tables: all("table.sortable").length,
  broken: all("main img").filter(i => !i.naturalWidth).map(i => i.alt)}), "*");
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "<iframe" not in done.stdout:
        pytest.skip(f"{BROWSER} does not run here: {done.stderr[-300:]}")
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, f"the page did not answer: {done.stderr[-2000:]}"
    return json.loads(html.unescape(found[1])), [l for l in done.stderr.splitlines() if "CONSOLE" in l]


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_it_fits_sorts_zooms_and_is_silent(text, tmp_path, width):
    found, console = browse(text, width, tmp_path)
    assert console == [] and found["width"] == width
    assert found["overflow"] == 0 and found["sized"] == [], "only boxes that scroll may be wider than the window"
    assert found["wrong"] == [] and found["tables"] > 5 and found["broken"] == [] and found["zoom"] == [True, True,
                                                                                                        True]


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_the_browser_would_notice(toy, report, tmp_path):
    text = report.report_page(report.report_parts(["fig2_toy"], toy[0]))
    bad = text.replace("<main id='main'>", "<main id='main'><div style='width: 3000px'>wide</div><img alt='' "
                       "src='data:image/png;base64,AAAA'><img alt='' src='https://example.invalid/a.png'>")
    found, console = browse(bad.replace("a - b", "b - a"), 400, tmp_path)
    assert found["overflow"] > 2000 and len(found["broken"]) == 2 and found["wrong"] and any(
        "Content Security Policy" in l for l in console)
