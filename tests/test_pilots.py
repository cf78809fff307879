"""The pilots behind the settings of mini and midi, and what puts finished runs into the package."""
import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def pilots():
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("pilots")
    sys.path.remove(str(BENCH))


@pytest.fixture
def local(monkeypatch, tmp_path):
    import dgnet.runs as R
    monkeypatch.setattr(R, "LOCAL", tmp_path / "local")
    monkeypatch.setenv("DGNET_DEVICE", "cpu")
    yield R
    R._PHOTOS.clear()
    R._loaded.cache_clear()


@pytest.fixture
def script():
    "Any other of the scripts, as a module, by its name."
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))


def test_every_pilot_can_be_asked_for(pilots):
    from dgnet.config import make_config, run_key
    keys = {run_key(make_config(tier, "market", **{**pilots.CROWD, "g_init": "random", **changes}))
            for tier, _, changes in pilots.PILOTS.values()}
    assert len(keys) == len(pilots.PILOTS), "each tries something else"


def test_a_pilot_learns_and_is_judged_twice(pilots, local, monkeypatch):
    from dgnet.samples import true_swaps
    monkeypatch.setattr(pilots, "PILOTS", {"tiny": ("smoke", "a tiny one", {"precision": "float32"})})
    monkeypatch.setattr(pilots, "CROWD", {})
    def encoder(tier, seed): return local.get_run(tier, "market", generate=False, seed=seed)
    monkeypatch.setattr(pilots, "frozen_encoder", encoder)
    monkeypatch.setattr(pilots, "true_swaps", lambda run: true_swaps(run, 8))
    plain, averaged = pilots.run_pilot("tiny", 0.15, 0)
    assert set(plain) == set(averaged) == set(pilots.COLUMNS) and plain["iterations"] == averaged["iterations"] > 1
    assert 0 < plain["swap / copy"] != averaged["swap / copy"] and plain["weights"] != averaged["weights"]


def test_a_shipped_run_is_found_by_its_key(local, script, monkeypatch, tmp_path):
    ship, weights = script("ship"), tmp_path / "weights"
    monkeypatch.setattr(local, "WEIGHTS", weights)
    for name, value in (("WEIGHTS", weights), ("LOCAL", local.LOCAL)):
        monkeypatch.setattr(ship, name, value)
    with pytest.raises(FileNotFoundError, match="not trained yet"):
        ship.ship("smoke", "market")
    run = local.get_run("smoke", "market")
    (weights / "market-smoke-old").mkdir(parents=True)
    target = ship.ship("smoke", "market")
    names = {target.name, local.teacher_folder(run.config).name}
    assert {p.name for p in weights.iterdir()} == names, "what was shipped of it before is gone"
    def never(*args): raise AssertionError("trained")
    monkeypatch.setattr(local, "fit", never)
    monkeypatch.setattr(local, "train_teacher", never)
    monkeypatch.setattr(local, "LOCAL", tmp_path / "elsewhere")
    again = local.get_run("smoke", "market")
    assert again.folder == target and again.model.classes == run.model.classes
    assert again.provenance["run"] == run.provenance["run"]
    for a, b in ((run.model, again.model), (run.teacher, again.teacher)):
        pairs = zip(a.state_dict().values(), b.state_dict().values())
        assert all(torch.allclose(v, w, rtol=1e-3, atol=1e-3) for v, w in pairs)
    assert "smoke-market" in ship.row(target) and "8 rendered people" in ship.row(target)


def test_a_regime_is_measured(local, script, monkeypatch):
    regime = script("regime")
    monkeypatch.setattr(regime, "REGIMES", {"tiny": ("a tiny one", {"shots": 4}, {"people": 10})})
    small = {"ea_init": "rendered", "g_init": "rendered", "precision": "float32"}
    def at_smoke(f): return lambda tier, *args, **changes: f("smoke", *args, **small | changes)
    for name in ("make_config", "get_run"): monkeypatch.setattr(regime, name, at_smoke(getattr(local, name)))
    row = regime.run_regime("tiny", 0)
    assert set(row) == set(regime.COLUMNS) and row["photos"] == 32
    assert 0 < row["control"] <= 100 and row["worth"] == row["true swaps"] - row["control"]
    with pytest.raises(ValueError, match="taught no generator"):
        regime.run_own("tiny", 0, "teacher")
    monkeypatch.setitem(regime.REGIMES, "own", ("DG-Net itself", {"shots": 4}, {}))
    result = regime.run_own("own", 0, "conditional")
    assert result["control, validation"] == pytest.approx(row["control"])
    assert result["gain, test"] == result["DG-Net, test"] - result["control, test"]


def test_a_switch_is_set_back_and_judged(local, script, monkeypatch):
    from dgnet.config import LossConfig, make_config
    from dgnet.samples import true_swaps
    switches, official, mini = script("switches"), make_config("paper"), make_config("mini")
    back = {k: v for _, changes in switches.BACK.values() for k, v in changes.items()}
    assert all(getattr(official, k) == v for k, v in back.items()), "each is set back to the official value"
    changed = {k for k in LossConfig.__annotations__ if getattr(official, k) != getattr(mini, k)}
    tried = set(switches.SWITCHES["official"][1])
    assert changed | set(switches.BEGAN) == tried, "every change that mini makes, or made, to the method is tried"
    three = {**switches.BEGAN, **switches.SWITCHES["three"][1]}
    assert three == {k: getattr(mini, k) for k in switches.BEGAN}, "`three` is mini today"
    monkeypatch.setattr(switches, "get_run", lambda tier, *a, **k: local.get_run("smoke", *a, **k))
    monkeypatch.setattr(switches, "true_swaps", lambda run: true_swaps(run, 8))
    row = switches.run_switch("alpha", 0)
    assert set(row) == set(switches.COLUMNS) and 0 < row["mAP"] <= 100
    assert row["low"] <= row["swap / copy"] <= row["high"]
