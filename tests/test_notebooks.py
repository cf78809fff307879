"""The notebooks' form: title, subtitle, short cells, tags, sizes, real outputs, nothing hidden; and their modules'."""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in ROOT.glob("nbs/*.ipynb") if not p.name.startswith("_"))
WITH_SOLUTIONS = [p for p in NOTEBOOKS if re.match(r"\d\d_", p.name)]
REPRODUCTION = [p for p in NOTEBOOKS if re.match(r"fig|table", p.name)]
MODULES = sorted(p for p in ROOT.glob("dgnet/*.py") if p.name not in ("__init__.py", "_modidx.py"))


def cells(path: Path, kind: str | None = None) -> list:
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if kind in (None, c["cell_type"])]


def source(cell: dict) -> str: return "".join(cell["source"])


def code_lines(cell: dict) -> list: return [line for line in source(cell).split("\n") if line.strip()]


def wide(lines: list) -> list:
    "Those of more than 120 columns; an address may be as long as it is."
    return [line for line in lines if len(line) > 120 and "://" not in line]


def named(paths): return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)


@named(NOTEBOOKS)
def test_opens_with_title_and_subtitle(path):
    first = source(cells(path)[0])
    assert re.match(r"# \S", first) and re.search(r"^> \S", first, re.M)


@named(NOTEBOOKS)
def test_cells_are_short_and_few(path):
    for c in cells(path, "code"):
        lines, size = code_lines(c), len(source(c))
        assert len(lines) <= 40, f"cell {c['id']} has {len(lines)} lines"
        assert size <= 3_000, f"cell {c['id']} has {size} characters"
        assert not wide(lines), f"cell {c['id']}"
    assert len(cells(path)) <= 65


@named(MODULES)
def test_modules_are_narrow_and_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 520, f"{text.count(chr(10))} lines"
    written = re.sub(r"^__all__ = \[.*?\]", "", text, flags=re.M | re.S)   # nbdev wraps it a little wider
    assert not wide(written.splitlines())


@named(NOTEBOOKS)
def test_nothing_relative_hidden_or_switched_off(path):
    for c in cells(path, "code"):
        text = source(c)
        assert "../" not in text and "eval: false" not in text
        assert not (text.startswith("#| hide") and "assert" in text)


@named(NOTEBOOKS)
def test_imports_stand_alone(path):
    for c in cells(path, "code"):
        lines = [line for line in code_lines(c) if not line.startswith("#")]
        starts = [bool(re.match(r"(from|import) ", line)) for line in lines]
        continued = [bool(re.match(r"[\s)]", line)) for line in lines]
        assert not any(starts) or all(s or more for s, more in zip(starts, continued)), source(c)


@named(NOTEBOOKS)
def test_outputs_are_there_without_errors_or_machine_paths(path):
    outputs = [out for c in cells(path, "code") for out in c["outputs"]]
    assert outputs and not [out for out in outputs if out["output_type"] == "error"]
    machine_path = re.search(r"/(home|root|tmp|Users|work)/\w", json.dumps(outputs))
    assert not machine_path, "an output shows a path of the machine it was made on"
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
    end = source(solutions[-1]).rstrip().split("\n")[-1]
    assert re.match(r"assert ", end), "a solution ends with an assert that could fail"
