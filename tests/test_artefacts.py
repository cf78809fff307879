"""Artefacts and reproduction notebooks belong to each other, and each artefact says what made it."""
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STORED = sorted(p for p in ROOT.glob("figures/*/*.json") if p.parent.name != "paper")
NUMBERS = sorted(ROOT.glob("figures/paper/*"))   # of real photos only numbers are stored


def test_every_reproduction_notebook_is_in_the_list_and_back():
    from dgnet.planning import NOTEBOOKS
    stems = {p.stem for p in ROOT.glob("nbs/*.ipynb") if p.name.startswith(("fig", "table"))}
    assert stems == {n.stem for n in NOTEBOOKS if not n.extra}
    assert all((ROOT / "nbs" / f"{n.stem}.ipynb").exists() for n in NOTEBOOKS)


def test_every_reproduction_notebook_has_an_artefact():
    from dgnet.planning import NOTEBOOKS
    assert {n.stem for n in NOTEBOOKS if not n.extra} <= {p.stem for p in STORED}


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_provenance(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["tier"] == path.parent.name in ("mini", "midi", "full"), "never from smoke"
    assert content["label"] == path.stem
    assert {"code_version", "packages", "date"} <= set(content["provenance"])
    if path.stem != "tables6_7_8_architecture":
        assert {"run", "seed", "device", "seconds", "iterations", "source"} <= set(content["provenance"])


@pytest.mark.parametrize("path", NUMBERS, ids=lambda p: p.name)
def test_of_real_photos_there_are_numbers_alone(path):
    content = json.loads(path.read_text(encoding="utf-8"))   # a picture would not parse
    assert path.name == f"{content['label']}_{content['tier']}.json" and content["tier"] != "smoke"
    assert content["provenance"]["source"].startswith("real: ") and content["rows"]["claim"] and content["table"]


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_pictures_are_small_and_complete(path):
    png = path.with_suffix(".png")
    if png.exists():
        assert png.stat().st_size <= 500_000 and path.with_suffix(".pdf").exists()
    table = path.with_suffix(".csv")
    if table.exists():
        assert path.with_suffix(".md").exists() and path.with_suffix(".tex").exists()
    assert png.exists() or table.exists()


def test_readme_shows_the_stored_numbers(tmp_path):
    from dgnet.report import refresh_readme
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert refresh_readme(tmp_path / "README.md") == text and "<!-- artefact: table3_features -->" in text
