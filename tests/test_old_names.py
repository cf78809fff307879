"The names of the version before still work, each with a warning that says the new one."
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dgnet._renamed import NEW_PLACE

NAMES = [(module, name, place) for module, names in NEW_PLACE.items() for name, place in names.items()]


@pytest.mark.parametrize("module", sorted(NEW_PLACE))
def test_every_old_name_is_what_the_new_one_is(module):
    old = importlib.import_module(f"dgnet.{module}")
    for name, place in NEW_PLACE[module].items():
        home, new_name = place.split(".")
        expected = getattr(importlib.import_module(f"dgnet.{home}"), new_name)
        if name in vars(old):   # imported there for its own use: no warning, and the same thing
            assert vars(old)[name] is expected, name
            continue
        with pytest.warns(FutureWarning, match=f"dgnet.{module}.{name} is dgnet.{place} now"):
            assert getattr(old, name) is expected


def test_no_warning_for_a_name_that_never_was():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
            from dgnet.data import nonsense  # noqa: F401


def test_nothing_here_uses_an_old_name():
    modules = sorted(p.stem for p in Path(importlib.import_module("dgnet").__file__).parent.glob("[a-z]*.py"))
    program = "\n".join(f"import dgnet.{module}" for module in modules)
    subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", program], check=True)


def test_the_changelog_lists_every_renamed_name():
    text = (Path(__file__).parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    renamed = [(m, n, p) for m, n, p in NAMES if p.split(".")[1] != n]
    assert renamed and all(f"| `{m}.{n}` | `{p}` |" in text for m, n, p in renamed)
