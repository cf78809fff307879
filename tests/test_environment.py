"""settings.ini, environment.yml and constraints.txt agree."""
import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CFG = configparser.ConfigParser(delimiters=["="], interpolation=None)
CFG.read(ROOT / "settings.ini", encoding="utf-8")
WANTED = [Requirement(r) for k in ("requirements", "dev_requirements") for r in CFG["DEFAULT"][k].split()]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


@pytest.mark.parametrize("pin", PINS, ids=lambda p: p.name)
def test_pins_lie_in_the_ranges(pin):
    version = str(pin.specifier).removeprefix("==")
    assert all(r.specifier.contains(version) for r in WANTED if r.name.replace("_", "-") == pin.name.replace("_", "-"))


@pytest.mark.parametrize("pin", PINS, ids=lambda p: p.name)
def test_what_runs_here_is_what_is_pinned(pin):
    if pin.marker and not pin.marker.evaluate(): pytest.skip("another Python")
    assert pin.specifier.contains(metadata.version(pin.name).split("+")[0])


def test_ranges_admit_the_torch_of_common_gpu_machines():
    torch = next(r for r in WANTED if r.name == "torch")
    assert torch.specifier.contains("2.11.0") and not torch.specifier.contains("2.13.0")


def test_conda_installs_the_same():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "-c constraints.txt" in text and "-e .[dev]" in text


def test_package_version_is_the_setting():
    import dgnet
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    assert dgnet.__version__ == CFG["DEFAULT"]["version"] == cited


def test_clean_keeps_the_tags_that_papermill_needs():
    assert CFG["DEFAULT"]["allowed_cell_metadata_keys"] == "tags jupyter" and CFG["DEFAULT"]["clear_all"] == "False"
