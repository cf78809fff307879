"""The front page: short, complete, without training, in sentences of a readable length; a slider that loads nothing."""
import base64
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "nbs" / "index.ipynb"
CELLS = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
TEXT = ["".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown"]
CODE = ["".join(c["source"]) for c in CELLS if c["cell_type"] == "code"]
TEACHING = [PAGE, ROOT / "nbs" / "46_overview.ipynb", ROOT / "nbs" / "47_method_map.ipynb"]


def prose(markdown: str) -> str:
    "Running text: no code, tables, formulas of their own, HTML or link targets; a formula in a line counts as a word."
    text = re.sub(r"```.*?```", "", markdown, flags=re.S)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)
    text = re.sub(r"^\|.*$", "", text, flags=re.M)
    text = re.sub(r"\$[^$]*\$", "X", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"<[^>]+>", "\n\n", text)


def sentences(markdown: str) -> list[str]:
    "A sentence ends at a full stop, question or exclamation mark, and with its heading, list item or paragraph."
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*#>]|\d+\.) )", prose(markdown))
    parts = [part for p in paragraphs for part in re.split(r"(?<=[.!?])[*_)\"]*\s+(?=[^a-z])", " ".join(p.split()))]
    return [part for part in parts if re.search(r"\w", part)]


def word_count(sentence: str) -> int: return len(re.findall(r"[\w’'`$_-]*\w[\w’'`$_-]*", sentence))


def percentile(lengths: list[int], share: float) -> int: return sorted(lengths)[int(share * (len(lengths) - 1))]


def section(title: str) -> str:
    "The text under a heading, up to the next one."
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", "\n\n".join(TEXT), re.S | re.M)[1]


def test_counter_of_words():
    long = "One two three, `four` five: six. Seven $x_i = 8$ nine?\n\n- ten eleven\n- twelve\n\n```\nno no\n```"
    assert [word_count(s) for s in sentences(long)] == [6, 3, 2, 1]


def test_fifteen_minutes():
    words = sum(word_count(s) for text in TEXT for s in sentences(text))
    assert len(CELLS) <= 25 and words <= 15 * 200


def test_nothing_is_trained_or_fetched():
    code = "\n".join(CODE)
    assert not re.search(r"\b(fit|train_step|train_teacher|get_run|run_on|backward|optim)\b|https?://", code)
    assert code.startswith("try:\n    import dgnet\nexcept ImportError")


def test_opens_with_what_it_takes_and_gives():
    assert all(words in TEXT[0] for words in ("**Before you start.**", "**Reading time:**", "**Afterwards you can**"))


@pytest.mark.parametrize("path", TEACHING, ids=lambda p: p.stem)
def test_sentences_are_short(path):
    texts = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if c["cell_type"] == "markdown"]
    lengths = [word_count(s) for text in texts for s in sentences(text)]
    assert percentile(lengths, 0.9) <= 28 and max(lengths) <= 40


def test_no_measured_number_is_typed():
    assert not re.findall(r"\d\.\d{2,}|\d+(?:\.\d+)?\s?%", "\n".join(prose(t) for t in TEXT))


def test_glossary_has_thirty_terms_and_names_modules_that_exist():
    rows = re.findall(r"^\| (.+?) \| (.+?) \| `(.+?)` \|$", section("Glossary"), re.M)
    stems = {re.sub(r"^\d\d_", "", p.stem) for p in ROOT.glob("nbs/*.ipynb")}
    assert len(rows) == 30 == len({r[0] for r in rows}) and {r[2] for r in rows} <= stems


def test_ten_questions_with_folded_answers():
    questions = section("Ten questions")
    assert re.findall(r"^\*\*(\d+)\. ", questions, re.M) == [str(k) for k in range(1, 11)]
    assert questions.count("<details><summary>Answer</summary>") == questions.count("</details>") == 10


def test_pseudo_code_of_a_step_has_twelve_lines():
    assert re.findall(r"^> (\d+)\. ", "\n".join(TEXT), re.M) == [str(k) for k in range(1, 13)]


def test_slider_holds_its_frames_and_loads_nothing():
    pages = ["".join(o["data"]["text/html"]) for c in CELLS for o in c.get("outputs", ())
             if "data-sprite" in "".join(o.get("data", {}).get("text/html", ""))]
    assert len(pages) == 1 and not re.search(r"https?:|//[a-z]|url\((?!\" \+)", re.sub(r"base64,[^\"]+", "", pages[0]))
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', pages[0])
    assert len(images) == 3 and all(base64.b64decode(i).startswith(b"\xff\xd8") for i in images)
    assert "<script>" in pages[0] and re.search(r'alt="All 45 frames: .+"', pages[0])


def test_every_figure_is_there():
    pictures = [c for c in CELLS if any("image/jpeg" in o.get("data", {}) for o in c.get("outputs", ()))]
    assert len(pictures) == 8 and not any("widget" in json.dumps(c.get("outputs", ())) for c in CELLS)
