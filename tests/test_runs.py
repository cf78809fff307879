"""Runs by their configuration: found, shared, refused; and the command's answers to mistakes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ASK = """
import json, sys
from dgnet.model import content_hash
from dgnet.runs import get_run
said = []
run = get_run("smoke", report=lambda clock, losses: said.append(clock.it))
print(json.dumps({"weights": content_hash(run.model.state_dict()), "said": len(said), "key": run.provenance["run"]}))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "`dgnet.runs` with a local folder of its own."
    import dgnet.runs as R
    was, device = R.LOCAL, os.environ.get("DGNET_DEVICE")
    R.LOCAL, os.environ["DGNET_DEVICE"] = tmp_path_factory.mktemp("local"), "cpu"
    yield R
    R.LOCAL = was
    if device is None:
        del os.environ["DGNET_DEVICE"]
    else:
        os.environ["DGNET_DEVICE"] = device
    R._PHOTOS.clear()
    R._loaded.cache_clear()


@pytest.fixture(scope="module")
def run(runs):
    return runs.get_run("smoke")


def never(*args): raise AssertionError("something was trained")

# --- get_run --------------------------------------------------------------------------------------------------------


def test_the_second_call_trains_nothing_and_gets_the_same_weights(runs, run, monkeypatch):
    for name in ("fit", "train_teacher"): monkeypatch.setattr(runs, name, never)
    again = runs.get_run("smoke", report=never)
    assert again.folder == run.folder and again.provenance == run.provenance
    for a, b in ((run.model, again.model), (run.teacher, again.teacher)):
        assert all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values()))


def test_a_finished_run_holds_what_it_should(runs, run):
    from dgnet.config import make_config, run_key
    assert run.folder.name == run_key(make_config("smoke"))
    assert {p.name for p in run.folder.iterdir()} - {"lock"} == {"done.json", "log.csv",
                                                                 "model.safetensors"}, "no checkpoint is left over"
    assert not run.model.training and not run.teacher.training and run.log.it.iloc[-1] == run.config.n_iter
    assert run.model.classes == sorted(set(run.data.train.ids)) and len(run.model.classes) == run.model.n_ids
    assert 0 < run.model.metrics["both"]["mAP"] <= 1 and run.model.metrics["losses"]["it"] == run.config.n_iter
    assert {"seconds", "teacher_seconds", "device", "seed", "run", "recipe", "source",
            "iterations"} <= set(run.provenance)
    assert str(runs.LOCAL) not in json.dumps(run.provenance, default=str), "provenance names no path of this machine"


def test_a_killed_run_goes_on_and_ends_the_same(runs, run, monkeypatch):
    from dgnet.config import make_config
    part = {"seed": 3}
    real = runs.fit
    def killed(*args, stop_at=None, **kw):
        real(*args, **kw, stop_at=stop_at or 5)
        if not stop_at: raise KeyboardInterrupt
    monkeypatch.setattr(runs, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.get_run("smoke", **part)
    folder = runs.LOCAL / "runs" / runs.run_key(make_config("smoke", **part))
    assert (folder / "state.pt").exists() and not (folder / "done.json").exists()
    monkeypatch.setattr(runs, "fit", real)
    resumed = runs.get_run("smoke", **part)
    for where in (folder, runs.start_folder(make_config("smoke", **part))):
        for f in where.iterdir(): f.unlink()
    straight = runs.get_run("smoke", **part)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.state_dict().values(),
                                                 straight.model.state_dict().values()))


def weights(run): return run.model.state_dict().values()


def test_a_run_that_takes_over_anothers_beginning_is_the_run_it_would_have_been(runs, run, monkeypatch, tmp_path):
    part = {"seed": 5, "alpha": 0.4, "soft_label": "lsro"}
    runs.get_run("smoke", seed=5)
    first, real = [], runs.fit
    def counted(state, *args, **kw):
        first.append(state.it)
        return real(state, *args, **kw)
    monkeypatch.setattr(runs, "fit", counted)
    taken_over = runs.get_run("smoke", **part)
    assert first == [3, 3], "three iterations, up to the warm-up, were there"
    monkeypatch.setattr(runs, "LOCAL", tmp_path)
    alone = runs.get_run("smoke", **part)
    assert first[2:] == [0, 3] and all(torch.equal(a, b) for a, b in zip(weights(taken_over), weights(alone)))
    other = runs.get_run("smoke", seed=5)
    assert not all(torch.equal(a, b) for a, b in zip(weights(alone), weights(other))), "and what differs does matter"


def test_a_learning_curve_does_not_touch_the_run(runs, run, monkeypatch, tmp_path):
    "DGNET_CURVE ranks in between, also where a stop fell on a mark; the weights are those of a run without."
    import pandas as pd
    monkeypatch.setattr(runs, "LOCAL", tmp_path)
    monkeypatch.setenv("DGNET_CURVE", "2")
    marked = runs.get_run("smoke")
    curve = pd.read_csv(marked.folder / "curve.csv")
    assert list(curve.it) == [5, 10] and {"prim rank1", "both mAP",
                                          "seconds"} <= set(curve) and curve["both mAP"].between(0, 1).all()
    assert all(torch.equal(a, b) for a, b in zip(weights(run), weights(marked)))


def test_offline_learns_from_a_store_and_leaves_the_generator_alone(runs, run):
    offline = runs.get_run("smoke", offline=True)
    fresh = runs.TrainState(run.config, run.model.n_ids, torch.from_numpy(runs.relabel(run.data.train.ids)),
                            run.teacher.backbone).model
    assert all(torch.equal(a, b) for a, b in zip(offline.model.G.state_dict().values(),
                                                 fresh.G.state_dict().values())), "G is as it was born"
    assert offline.log.prim.iloc[-1] > 0 and offline.log.img1.isna().all(), "fed, and nothing drawn"
    store = runs.fill_store(run.model, run.data, run.config, copies=2)
    assert len(store.x_ij) == 2 * run.data.train.n and store.x_ij.dtype == torch.uint8
    assert torch.equal(store.y_i, torch.from_numpy(runs.relabel(run.data.train.ids)).repeat(2)) and not torch.equal(
        store.y_i, store.y_j)


def test_runs_that_differ_in_training_only_share_the_teacher(runs, run, monkeypatch):
    monkeypatch.setattr(runs, "train_teacher", never)
    control = runs.get_run("smoke", generate=False)
    assert control.folder != run.folder
    assert all(torch.equal(a, b) for a, b in zip(control.teacher.state_dict().values(),
                                                 run.teacher.state_dict().values()))


def test_a_weak_teacher_is_refused_with_the_remedy(runs, run):
    with pytest.raises(runs.WeakTeacher, match="below the 200% .*teacher_iter.*teacher_gate"):
        runs.get_run("smoke", teacher_gate=2.0)


def test_where_there_is_no_synthetic_world_the_message_says_how_to_give_photos(runs):
    with pytest.raises(ValueError, match="no synthetic folder.*--data folder=FOLDER"):
        runs.get_run("smoke", "folder")


def test_two_processes_ask_at_once_and_get_the_same_run(tmp_path):
    here = Path(__file__).resolve().parent.parent
    env = {**os.environ, "DGNET_ROOT": str(tmp_path), "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1",
           "DGNET_DEVICE": "cpu"}
    asked = [subprocess.Popen([sys.executable, "-c", ASK], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) for _ in range(2)]
    answers = [p.communicate(timeout=600) for p in asked]
    assert [p.returncode for p in asked] == [0, 0], answers
    one, two = (json.loads(out.splitlines()[-1]) for out, _ in answers)
    assert one["weights"] == two["weights"] and one["key"] == two["key"]
    assert min(one["said"], two["said"]) == 0 < max(one["said"], two["said"]), "one trained, the other waited"

# --- plan and progress ----------------------------------------------------------------------------------------------


def test_a_plan_counts_shared_runs_once(runs, run):
    a = runs.Recipe("a", (("market", {}), ("market", {"alpha": 0.4})))
    b = runs.Recipe("b", (("market", {"alpha": 0.4}), ("duke", {})))
    jobs = runs.plan_runs([a, b], "smoke", {})
    assert [(j.dataset, j.changes) for j in jobs] == [("market", {"alpha": 0.4}),
                                                      ("duke", {})], "the finished run is not in it"
    assert runs.plan_runs([runs.Recipe("c", ())], "smoke", {}) == []


def test_tasks_go_side_by_side_but_not_with_those_they_must_wait_for(runs):
    import threading, time
    at_work, seen, lock = set(), [], threading.Lock()
    def do(task):
        with lock:
            at_work.add(task)
            seen.append(set(at_work))
        time.sleep(0.3)
        with lock:
            at_work.discard(task)
    runs.side_by_side(["a1", "a2", "b1"], 2, do, apart=lambda t, r: t[0] == r[0])
    assert {"a1", "b1"} in seen and not any({"a1", "a2"} <= s for s in seen) and set().union(*seen) == {"a1", "a2",
                                                                                                        "b1"}
    order = []
    runs.side_by_side([3, 1, 2], 1, order.append)
    assert order == [3, 1, 2], "alone, one after the other"


def test_a_worker_trains_and_tells_and_its_failure_has_a_reason(runs, tmp_path, monkeypatch):
    here = Path(__file__).resolve().parent.parent
    for name, value in {"DGNET_ROOT": str(tmp_path), "PYTHONPATH": str(here), "DGNET_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    told, task = [], {"tier": "smoke", "dataset": "duke", "path": None, "changes": {"n_iter": 10}}
    assert runs.call_worker(task, told.append) == "trained" and not runs.WORKERS
    assert any("rendered" in t for t in told) and told[-2]["clock"][0] == 10 and set(told[-2]["losses"]) >= {"img1",
                                                                                                             "id_s"}
    assert len(list((tmp_path / "local" / "runs").glob("duke-smoke-*/done.json"))) == 3, "a teacher, a beginning, a run"
    with pytest.raises(RuntimeError, match="below the 200%"):
        runs.call_worker(task | {"changes": {"teacher_gate": 2.0}}, told.append)
    with pytest.raises(RuntimeError, match="no field nonsense"):
        runs.call_worker(task | {"changes": {"nonsense": 1}}, told.append)


def test_one_run_that_fails_does_not_stop_the_others(runs, run, capsys):
    jobs = runs.plan_runs([runs.Recipe("a", (("market", {"teacher_gate": 2.0}), ("market", {"seed": 11})))], "smoke",
                          {})
    failed = runs.train_all(jobs, "smoke")
    assert list(failed) == [runs.run_key(jobs[0].config)] and "below the 200%" in failed[runs.run_key(jobs[0].config)]
    assert runs.read_done(runs.LOCAL / "runs" / runs.run_key(jobs[1].config))


def test_with_real_photos_only_the_folders_runs_are_needed_as_the_notebook_asks_for_them(runs):
    n = runs.Recipe("a", (("market", {}), ("market", {"method": "pose"}), ("duke", {"alpha": 0.2})), {"hold_out": 100})
    assert n.needs({}) == list(n.runs) and n.needs({"market": "/x"}) == [("market", {"hold_out": 100})]
    fig8 = next(r for r in runs.NOTEBOOKS if r.stem.startswith("fig8"))
    assert all(c["hold_out"] == 100 for _, c in fig8.needs({"duke": "/x"})) and len(fig8.needs({"duke": "/x"})) == 5
    assert ([d for d, _ in fig8.needs({"market": "/x"})] == ["market"] * 5
            and [d for d, _ in fig8.needs({})] == ["duke"] * 5), "the notebook takes the first folder given"


def test_the_progress_line_counts_down(runs):
    import io
    ten = runs.make_config("smoke", warm_up=0.0)
    jobs = [runs.Job("market", {}, ten, 0), runs.Job("market", runs.CONTROL, runs.replace(ten, generate=False), 0)]
    out = io.StringIO()
    progress = runs.Progress(jobs, stream=out)
    progress.report(0, runs.Clock(0, 10, 0.0), {}, now=7.0)
    assert progress.left(7.0) is None, "nothing has been measured yet"
    progress.report(0, runs.Clock(5, 10, 60.0), {}, now=67.0)
    assert progress.left(67.0) == pytest.approx(90), "half of the first job took a minute; 7.5 of 12.5 are left"
    taught = runs.Progress([runs.Job("market", {}, ten, 40)], stream=out)
    whole, lesson = 10 + 40 * runs.TEACHER_STEP, runs.TEACHER_STEP
    for it in (0, 20): taught.report(0, runs.Clock(it, 40, 0.0), {"teacher": 1.0}, now=1.5 * it + 1)
    assert taught.left(31.0) == pytest.approx(30 * (whole / (20 * lesson) - 1)), "the teacher's lessons count too"
    both = runs.Progress(jobs, workers=2, stream=out)
    for it in (0, 5): both.report(0, runs.Clock(it, 10, 0.0), {}, now=12.0 * it + 1)
    assert both.left(61.0) == pytest.approx(60 / 5 * max(7.5, 2 * 5)), "two at a time, but the longest cannot be halved"
    shared = runs.Job("market", {"alpha": 0.4}, runs.make_config("smoke"), 0, shared=3)
    assert shared.cost == pytest.approx(7) and shared.spent(3) == 0, "what another run has done costs nothing"
    out.truncate(0)
    out.seek(0)
    progress = runs.Progress(jobs, stream=out)
    progress.report(0, runs.Clock(10, 10, 120.0), {"img1": 1.0})
    progress.finish(0)
    progress.report(1, runs.Clock(10, 10, 24.0), {"id_s": 2.0})
    first, second = out.getvalue().splitlines()
    assert first.startswith("[0 of 2 done] market DG-Net 10/10 img1 1.00 · ") and second.startswith(
        "[1 of 2 done] market control 10/10 id_s 2.00 · ")

# --- the command ----------------------------------------------------------------------------------------------------


def test_prefixes_choose_notebooks(runs):
    assert [n.stem for n in runs.choose(["table3"])] == ["table3_features"]
    assert runs.choose(None) == list(runs.NOTEBOOKS)


@pytest.mark.parametrize("args, says", [
    (["--only", "fig99"], "no notebook starts with fig99"),
    (["--data", "market"], "write NAME=FOLDER"),
    (["--data", "market=/no/such/folder"], "is not a folder"),
    (["--data", "markt={folder}"], "no dataset markt"),
    (["--data", "market={folder}"], "no known dataset in it"),
])
def test_mistakes_get_a_message_and_exit_code_2(runs, capsys, tmp_path, args, says):
    (tmp_path / "empty").mkdir()
    assert runs.reproduce_cli(["--tier", "smoke", *(a.format(folder=tmp_path / "empty") for a in args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dgnet_reproduce: ") and says in said and "Traceback" not in said


def test_an_unknown_tier_is_refused_by_the_parser(runs, capsys):
    with pytest.raises(SystemExit) as e:
        runs.reproduce_cli(["--tier", "huge"])
    assert e.value.code == 2 and "invalid choice" in capsys.readouterr().err


def notebook(path, tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": tags} if tags else {}, "source": ["tier = 'mini'"],
            "outputs": [], "execution_count": None}
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def test_a_notebook_without_parameters_tag_is_refused(runs, monkeypatch, tmp_path, capsys):
    notebook(tmp_path / "nbs" / "fake.ipynb", [])
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(runs, "NOTEBOOKS", (runs.Recipe("fake", ()),))
    assert runs.reproduce_cli(["--tier", "smoke"]) == 2
    assert "no cell is tagged 'parameters'" in capsys.readouterr().err
    notebook(tmp_path / "nbs" / "fake.ipynb", ["parameters"])
    runs.check_parameters(tmp_path / "nbs" / "fake.ipynb")


def test_ctrl_c_is_answered_politely(runs, monkeypatch, capsys):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(runs, "reproduce", stop)
    assert runs.reproduce_cli([]) == 130 and "goes on from here" in capsys.readouterr().err
