"""A change of the code's form leaves these as they are: keys of runs, fields and settings, names in a state dict.

Whoever means to change one of them says so by `python tests/gate.py tests/data/gate.json --cheap`.
"""
import json
from pathlib import Path

import gate
import pytest

KEPT = json.loads((Path(__file__).parent / "data" / "gate.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name, measure", [("keys", gate.run_keys), ("state", gate.state_names),
                                           ("configuration", gate.configurations)])
def test_form_changes_leave_this_as_it_is(name, measure, monkeypatch):
    monkeypatch.setattr("dgnet.config.fast_bfloat16", lambda device: True)   # and as it was afterwards
    measured = json.loads(json.dumps(measure()))
    assert measured == KEPT[name], f"{name}: see the top of tests/test_gate.py"
