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


def test_every_pilot_can_be_asked_for(pilots):
    from dgnet.config import make_config, run_key
    keys = {run_key(make_config(tier, "market", **{**pilots.CROWD, "g_init": "random", **changes})) for tier, _,
            changes in pilots.PILOTS.values()}
    assert len(keys) == len(pilots.PILOTS), "each tries something else"


def test_a_pilot_learns_and_is_judged_twice(pilots, local, monkeypatch):
    monkeypatch.setattr(pilots, "PILOTS", {"tiny": ("smoke", "a tiny one", {"precision": "float32"})})
    monkeypatch.setattr(pilots, "CROWD", {})
    monkeypatch.setattr(pilots, "frozen_encoder", lambda tier, seed: local.get_run(tier, "market", generate=False,
                                                                                   seed=seed))
    monkeypatch.setattr(pilots, "unseen_swaps", lambda run: local.unseen_swaps(run, 8))
    plain, averaged = pilots.run_pilot("tiny", 0.15, 0)
    assert set(plain) == set(averaged) == set(pilots.COLUMNS) and plain["iterations"] == averaged["iterations"] > 1
    assert 0 < plain["swap / copy"] != averaged["swap / copy"] and plain["weights"] != averaged["weights"]


def test_a_shipped_run_is_found_by_its_key(local, monkeypatch, tmp_path):
    sys.path.insert(0, str(BENCH))
    ship = importlib.import_module("ship")
    sys.path.remove(str(BENCH))
    weights = tmp_path / "weights"
    monkeypatch.setattr(local, "WEIGHTS", weights)
    for name, value in (("WEIGHTS", weights), ("LOCAL", local.LOCAL)):
        monkeypatch.setattr(ship, name, value)
    with pytest.raises(FileNotFoundError, match="not trained yet"):
        ship.ship("smoke", "market")
    run = local.get_run("smoke", "market")
    (weights / "market-smoke-old").mkdir(parents=True)
    target = ship.ship("smoke", "market")
    assert {p.name for p in weights.iterdir()} == {target.name,
                                                   local.teacher_folder(
                                                       run.config).name}, "what was shipped of it before is gone"
    def never(*args): raise AssertionError("trained")
    monkeypatch.setattr(local, "fit", never)
    monkeypatch.setattr(local, "train_teacher", never)
    monkeypatch.setattr(local, "LOCAL", tmp_path / "elsewhere")
    again = local.get_run("smoke", "market")
    assert again.folder == target and again.model.classes == run.model.classes and again.provenance[
        "run"] == run.provenance["run"]
    for a, b in ((run.model, again.model), (run.teacher, again.teacher)):
        assert all(torch.allclose(v, w, rtol=1e-3, atol=1e-3) for v, w in zip(a.state_dict().values(),
                                                                              b.state_dict().values()))
    assert "smoke-market" in ship.row(target) and "8 rendered people" in ship.row(target)


def test_a_regime_is_measured(local, monkeypatch):
    sys.path.insert(0, str(BENCH))
    regime = importlib.import_module("regime")
    sys.path.remove(str(BENCH))
    monkeypatch.setattr(regime, "REGIMES", {"tiny": ("a tiny one", {"shots": 4}, {"people": 10})})
    small = {"ea_init": "rendered", "g_init": "rendered", "precision": "float32"}
    for name in ("asked_config", "get_run"):
        monkeypatch.setattr(regime, name, lambda tier, *a, made=getattr(local, name),
                            **k: made("smoke", *a, **small | k))
    row = regime.run_regime("tiny", 0)
    assert set(row) == set(regime.COLUMNS) and row["photos"] == 32
    assert 0 < row["control"] <= 100 and row["worth"] == row["true swaps"] - row["control"]
    with pytest.raises(ValueError, match="taught no generator"):
        regime.run_own("tiny", 0, "teacher")
    monkeypatch.setitem(regime.REGIMES, "own", ("DG-Net itself", {"shots": 4}, {}))
    own = regime.run_own("own", 0, "conditional")
    assert own["control, validation"] == pytest.approx(row["control"]) and own["gain, test"] == own[
        "DG-Net, test"] - own["control, test"]


def test_a_switch_is_set_back_and_judged(local, monkeypatch):
    sys.path.insert(0, str(BENCH))
    switches = importlib.import_module("switches")
    sys.path.remove(str(BENCH))
    from dgnet.config import LossConfig, make_config
    official, mini = make_config("paper"), make_config("mini")
    assert all(getattr(official, k) == v for _, changes in switches.BACK.values() for k,
               v in changes.items()), "each is set back to the official value"
    changed = {k for k in LossConfig.__annotations__ if getattr(official, k) != getattr(mini, k)}
    assert changed | set(switches.BEGAN) == set(switches.SWITCHES["official"][
        1]), "every change that mini makes, or made, to the method is tried"
    assert {**switches.BEGAN, **switches.SWITCHES["three"][1]} == {k: getattr(mini, k)
                                                                   for k in switches.BEGAN}, "`three` is mini today"
    made = local.get_run
    monkeypatch.setattr(switches, "get_run", lambda tier, *a, **k: made("smoke", *a, **k))
    monkeypatch.setattr(switches, "unseen_swaps", lambda run: local.unseen_swaps(run, 8))
    row = switches.run_switch("alpha", 0)
    assert set(row) == set(switches.COLUMNS) and 0 < row["mAP"] <= 100 and row["low"] <= row["swap / copy"] <= row[
        "high"]
