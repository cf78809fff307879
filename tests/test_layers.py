"""The modules form layers: a notebook imports only from notebooks with lower numbers, by name."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = {p.stem[3:]: int(p.stem[:2]) for p in ROOT.glob("nbs/[0-9][0-9]_*.ipynb")}


def imports(module: str) -> list:
    tree = ast.parse((ROOT / "dgnet" / f"{module}.py").read_text(encoding="utf-8"))
    return [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]


def test_every_numbered_notebook_has_its_module():
    assert {p.stem for p in ROOT.glob("dgnet/*.py")} - {"__init__", "_modidx"} == set(ORDER)


@pytest.mark.parametrize("module", sorted(ORDER, key=ORDER.get))
def test_imports_come_from_below(module):
    own = [n.module for n in imports(module) if n.level and n.module]
    assert all(ORDER[m] < ORDER[module] for m in own), f"{module} imports {own}"


@pytest.mark.parametrize("module", sorted(ORDER, key=ORDER.get))
def test_no_star_import(module):
    assert not [n.module for n in imports(module) if any(a.name == "*" for a in n.names)]


def test_no_public_name_is_defined_twice():
    seen = {}
    for module in ORDER:
        text = (ROOT / "dgnet" / f"{module}.py").read_text(encoding="utf-8")
        for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", text, re.M):
            seen.setdefault(name, []).append(module)
    assert not {n: m for n, m in seen.items() if len(m) > 1}
