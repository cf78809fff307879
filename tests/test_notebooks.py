"""The notebooks' form: title, subtitle, short cells, tags, sizes, real outputs, nothing hidden."""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in ROOT.glob("nbs/*.ipynb") if not p.name.startswith("_"))
WITH_SOLUTIONS = [p for p in NOTEBOOKS if re.match(r"[0-2]\d_", p.name)]
REPRODUCTION = [p for p in NOTEBOOKS if re.match(r"fig|table", p.name)]


def cells(path: Path, kind: str | None = None) -> list:
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if kind in (None, c["cell_type"])]


def source(cell: dict) -> str: return "".join(cell["source"])


def named(paths): return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)


@named(NOTEBOOKS)
def test_opens_with_title_and_subtitle(path):
    first = source(cells(path)[0])
    assert re.match(r"# \S", first) and re.search(r"^> \S", first, re.M)


@named(NOTEBOOKS)
def test_cells_are_short_and_few(path):
    lines = [len([l for l in source(c).split("\n") if l.strip()]) for c in cells(path, "code")]
    assert max(lines) <= 40, f"a cell of {max(lines)} lines"
    assert len(cells(path)) <= 80


@named(NOTEBOOKS)
def test_nothing_relative_hidden_or_switched_off(path):
    for c in cells(path, "code"):
        text = source(c)
        assert "../" not in text and "eval: false" not in text
        assert not (text.startswith("#| hide") and "assert" in text)


@named(NOTEBOOKS)
def test_imports_stand_alone(path):
    for c in cells(path, "code"):
        lines = [l for l in source(c).split("\n") if l.strip() and not l.startswith("#")]
        starts = [bool(re.match(r"(from|import) ", l)) for l in lines]
        assert not any(starts) or all(s or re.match(r"[\s)]", l) for s, l in zip(starts, lines)), source(c)


@named(NOTEBOOKS)
def test_outputs_are_there_without_errors_or_machine_paths(path):
    outputs = [o for c in cells(path, "code") for o in c["outputs"]]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]
    assert not re.search(r"/(home|root|tmp|Users|work)/\w",
                         json.dumps([o for o in outputs])), "an output shows a path of the machine it was made on"
    assert path.stat().st_size < 1e6


@named(REPRODUCTION)
def test_reproduction_notebooks_have_a_parameters_cell(path):
    tagged = [c for c in cells(path, "code") if "parameters" in c["metadata"].get("tags", ())]
    assert len(tagged) == 1 and 'tier = "mini"' in source(tagged[0]) and "data = {}" in source(tagged[0])
    assert not any("default_exp" in source(c) for c in cells(path, "code"))


@named(WITH_SOLUTIONS)
def test_ends_with_exercises_whose_solutions_were_run_and_are_folded(path):
    last = [k for k, c in enumerate(cells(path)) if c["cell_type"] == "markdown"][-1]
    exercises, solutions = source(cells(path)[last]).partition("## Exercises")[2], cells(path)[last + 1:]
    assert len(re.findall(r"^\d+\. \S", exercises, re.M)) == exercises.count("<summary>Answer</summary>") >= 2
    assert exercises.rstrip().endswith("The folded cell below runs them.") and 1 <= len(solutions) <= 2
    for c in solutions:
        assert "solution" in c["metadata"].get("tags", ()) and c["outputs"]
        assert c["metadata"].get("jupyter") == {"source_hidden": True, "outputs_hidden": True}
    assert re.match(r"assert ",
                    source(solutions[-1]).rstrip().split("\n")[-1]), "a solution ends with an assert that could fail"
