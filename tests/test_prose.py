"""All notebooks: sentences of a readable length. The chapters on the method: header, pseudo-code, trained models."""
import json
import math
import re
from pathlib import Path

import pytest
from test_index import percentile, sentences, word_count

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = {p.stem: p for p in sorted(ROOT.glob("nbs/*.ipynb")) if not p.name.startswith("_")}
CHAPTERS = [stem for stem in NOTEBOOKS if "20" <= stem[:2] <= "39"]
READABLE = 28   # words that nine sentences of ten do not exceed

HEADER = re.compile(r"^> \*\*Before\*\*: (?P<before>.+?)\. \*\*Time\*\*: (?P<minutes>\d+) minutes\. "
                    r"\*\*After it\*\* you can (?P<can>.+)\.$", re.M)


def cells(stem: str, kind: str) -> list[str]:
    content = json.loads(NOTEBOOKS[stem].read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in content if c["cell_type"] == kind]


def sentence_lengths(stem: str) -> list[int]:
    return [word_count(s) for text in cells(stem, "markdown") for s in sentences(text)]


def reading_minutes(stem: str) -> float:
    "200 words or 40 lines of code a minute."
    lines = sum(bool(line.strip()) for text in cells(stem, "code") for line in text.split("\n"))
    return sum(sentence_lengths(stem)) / 200 + lines / 40


def header(stem: str) -> re.Match | None: return HEADER.search(cells(stem, "markdown")[0])


BOXED = [stem for stem in NOTEBOOKS if header(stem)]


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_nine_sentences_of_ten_are_short(stem):
    assert percentile(sentence_lengths(stem), 0.9) <= READABLE


def test_the_chapters_on_the_method_have_a_header(): assert set(CHAPTERS) <= set(BOXED) and len(CHAPTERS) == 19


@pytest.mark.parametrize("stem", BOXED)
def test_header_names_notebooks_and_a_fair_time(stem):
    found = header(stem)
    names = re.findall(r"`([a-z]\w+)`", found["before"])
    known = {re.sub(r"^\d\d_", "", other) for other in NOTEBOOKS}
    assert set(names) <= known - {re.sub(r"^\d\d_", "", stem)}
    assert abs(int(found["minutes"]) - reading_minutes(stem)) <= 5
    assert word_count(found[0]) <= 60 and math.gcd(int(found["minutes"]), 5) == 5


def test_pseudo_code_of_a_step_is_one():
    boxes = [re.search(r"^> 1\. .*?^> 12\. [^\n]+", "\n\n".join(cells(stem, "markdown")), re.S | re.M)[0]
             for stem in ("index", "37_train")]
    assert boxes[0] == boxes[1]


@pytest.mark.parametrize("stem", ["22_appearance", "23_structure", "24_decoder", "25_discriminator", "31_schedule",
                                  "36_teacher", "37_train"])
def test_pictures_of_networks_are_of_a_trained_one(stem):
    assert 'from_pretrained("midi-market")' in "\n".join(cells(stem, "code"))
    assert not re.search(r"untrained\)|[Nn]othing is trained\b", "\n".join(cells(stem, "code")))
