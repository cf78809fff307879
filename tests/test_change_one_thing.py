"""The three guides: short, alike in form, executed by `make test`, in sentences of a readable length."""
import json
import re
from pathlib import Path

import pytest
from test_index import percentile, sentences, word_count

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "nbs" / "change_one_thing.ipynb"
CELLS = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
TEXT = "\n\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown")
GUIDES = re.findall(r"^## (\d .+?)$(.*?)(?=^## |\Z)", TEXT, re.M | re.S)


def test_there_are_three_guides_in_thirty_cells():
    assert [title for title, _ in GUIDES] == ["1 Another encoder", "2 Another loss", "3 Another dataset"]
    assert len(CELLS) <= 30


@pytest.mark.parametrize("title, text", GUIDES, ids=lambda v: v[:20])
def test_a_guide_says_what_to_write_what_to_look_out_for_and_how_to_compare(title, text):
    parts = re.findall(r"^\*\*(What to write|What to look out for|How to compare)\.\*\*", text, re.M)
    assert parts == ["What to write", "What to look out for", "How to compare"]
    assert sum(word_count(s) for s in sentences(text)) <= 400


def test_make_test_executes_it_at_smoke():
    skipped = re.search(r'"--skip_file_re", "(.+?)"', (ROOT / "tests" / "run_all.py").read_text(encoding="utf-8"))[1]
    code = ["".join(c["source"]) for c in CELLS if c["cell_type"] == "code"]
    assert not re.search(skipped, PAGE.name) and not any(re.match(r"#\| *(eval|slow|cuda)", c) for c in code)
    assert all("smoke" in line for c in code for line in c.splitlines() if "make_config(" in line)
    assert sum(line.startswith("assert ") for c in code for line in c.splitlines()) >= 6


def test_sentences_are_short():
    lengths = [word_count(s) for s in sentences(TEXT)]
    assert percentile(lengths, 0.9) <= 28 and max(lengths) <= 40
