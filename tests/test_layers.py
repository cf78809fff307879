"""The modules form layers: a notebook imports only from notebooks with lower numbers, by name, and only what is public.
The first digit is the room (ground, people, networks, learning, runs, use, machine); numbers may have gaps."""
import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = {p.stem[3:]: int(p.stem[:2]) for p in ROOT.glob("nbs/[0-9][0-9]_*.ipynb")}
every_module = pytest.mark.parametrize("module", sorted(ORDER, key=ORDER.get))


def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / "dgnet" / f"{module}.py").read_text(encoding="utf-8"))


def imports(module: str) -> list:
    "`from … import …`, wherever it stands in a module."
    return [n for n in ast.walk(tree(module)) if isinstance(n, ast.ImportFrom)]


def source(node: ast.ImportFrom) -> str | None:
    "The module of this package that is imported from, written `.core` or `dgnet.core`; None for other packages."
    if node.level: return node.module
    return node.module.removeprefix("dgnet.") if node.module.startswith("dgnet.") else None


def exported(module: str) -> list:
    "The names in `__all__`."
    return next(ast.literal_eval(n.value) for n in tree(module).body
                if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")


def test_every_numbered_notebook_has_its_module():
    assert {p.stem for p in ROOT.glob("dgnet/[!_]*.py")} == set(ORDER)


def test_no_number_is_given_twice():
    assert len(set(ORDER.values())) == len(ORDER)


@every_module
def test_imports_come_from_below(module):
    below = [source(n) for n in imports(module) if source(n)]
    assert all(ORDER[m] < ORDER[module] for m in below), f"{module} imports {below}"


@every_module
def test_no_star_import(module):
    assert not [n.module for n in imports(module) if any(a.name == "*" for a in n.names)]


@every_module
def test_nothing_private_is_imported(module):
    assert not [f"{source(n)}.{a.name}" for n in imports(module) if source(n) for a in n.names
                if a.name.startswith("_")]


def test_no_public_name_is_defined_twice():
    modules = defaultdict(list)
    for module in ORDER:
        for name in exported(module): modules[name].append(module)
    assert not {name: m for name, m in modules.items() if len(m) > 1}
