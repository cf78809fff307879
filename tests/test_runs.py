"""Runs by their configuration: found, shared, refused; and the command's answers to mistakes."""
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
ASK = """
import json, sys
from dgnet.model import content_hash
from dgnet.runs import get_run
reports = []
run = get_run("smoke", report=lambda progress, losses: reports.append(progress.it))
answer = {"weights": content_hash(run.model.state_dict()), "reports": len(reports), "key": run.provenance["run"]}
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "`dgnet.runs` with a local folder of its own."
    import dgnet.runs as R
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGNET_DEVICE", "cpu")
        patch.setattr(R, "LOCAL", tmp_path_factory.mktemp("local"))
        yield R
    R._PHOTOS.clear()
    R._loaded.cache_clear()


@pytest.fixture(scope="module")
def planning(runs):
    "`dgnet.planning`, which looks for runs where `runs` has them."
    import dgnet.planning
    return dgnet.planning


@pytest.fixture(scope="module")
def reproduce(runs):
    "`dgnet.reproduce`, which trains them there."
    import dgnet.reproduce
    return dgnet.reproduce


@pytest.fixture(scope="module")
def run(runs):
    return runs.get_run("smoke")


def never(*args): raise AssertionError("something was trained")


def same(one, two):
    return all(torch.equal(v, w) for v, w in zip(one.state_dict().values(), two.state_dict().values(), strict=True))

# --- get_run --------------------------------------------------------------------------------------------------------


def test_the_second_call_trains_nothing_and_gets_the_same_weights(runs, run, monkeypatch):
    for name in ("fit", "train_teacher"): monkeypatch.setattr(runs, name, never)
    again = runs.get_run("smoke", report=never)
    assert again.folder == run.folder and again.provenance == run.provenance
    assert same(run.model, again.model) and same(run.teacher, again.teacher)


def test_a_finished_run_holds_what_it_should(runs, run):
    from dgnet.config import make_config, run_key
    assert run.folder.name == run_key(make_config("smoke"))
    files = {p.name for p in run.folder.iterdir()} - {"lock"}
    assert files == {"done.json", "log.csv", "model.safetensors"}, "no checkpoint is left over"
    assert not run.model.training and not run.teacher.training and run.log.it.iloc[-1] == run.config.n_iter
    assert run.model.classes == sorted(set(run.data.train.ids)) and len(run.model.classes) == run.model.n_ids
    assert 0 < run.model.metrics["both"]["mAP"] <= 1 and run.model.metrics["losses"]["it"] == run.config.n_iter
    assert {"seconds", "teacher_seconds", "device", "seed", "run", "recipe", "source",
            "iterations"} <= set(run.provenance)
    assert str(runs.LOCAL) not in json.dumps(run.provenance, default=str), "provenance names no path of this machine"


def test_a_killed_run_goes_on_and_ends_the_same(runs, run, monkeypatch):
    from dgnet.config import make_config, run_key
    part, fit = {"seed": 3}, runs.fit
    def killed(*args, stop_at=None, **kw):
        fit(*args, **kw, stop_at=stop_at or 5)
        if not stop_at: raise KeyboardInterrupt
    monkeypatch.setattr(runs, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.get_run("smoke", **part)
    folder = runs.LOCAL / "runs" / run_key(make_config("smoke", **part))
    assert (folder / "state.pt").exists() and not (folder / "done.json").exists()
    monkeypatch.setattr(runs, "fit", fit)
    resumed = runs.get_run("smoke", **part)
    for f in (*folder.iterdir(), *runs.prefix_folder(make_config("smoke", **part)).iterdir()): f.unlink()
    assert same(resumed.model, runs.get_run("smoke", **part).model)


def test_a_run_that_takes_over_anothers_beginning_is_the_run_it_would_have_been(runs, run, monkeypatch, tmp_path):
    part = {"seed": 5, "alpha": 0.4, "soft_label": "lsro"}
    runs.get_run("smoke", seed=5)
    first, fit = [], runs.fit
    def counted(state, *args, **kw):
        first.append(state.it)
        return fit(state, *args, **kw)
    monkeypatch.setattr(runs, "fit", counted)
    resumed = runs.get_run("smoke", **part)
    assert first == [3, 3], "three iterations, up to the warm-up, were there"
    monkeypatch.setattr(runs, "LOCAL", tmp_path)
    alone = runs.get_run("smoke", **part)
    assert first[2:] == [0, 3] and same(resumed.model, alone.model)
    assert not same(alone.model, runs.get_run("smoke", seed=5).model), "and what differs does matter"


def test_offline_learns_from_stored_images_and_leaves_the_generator_alone(runs, run):
    from dgnet.datasets import relabel
    from dgnet.train import TrainState
    offline, labels = runs.get_run("smoke", offline=True), torch.from_numpy(relabel(run.data.train.ids))
    fresh = TrainState(run.config, run.model.n_ids, labels, run.teacher.backbone).model
    assert same(offline.model.G, fresh.G), "G is as it was born"
    assert offline.log.prim.iloc[-1] > 0 and offline.log.img1.isna().all(), "fed, and nothing drawn"
    generated = runs.generate_training_set(run.model, run.data, run.config, copies=2)
    assert len(generated.x_ij) == 2 * run.data.train.n and generated.x_ij.dtype == torch.uint8
    assert torch.equal(generated.y_i, labels.repeat(2)) and not torch.equal(generated.y_i, generated.y_j)


def test_runs_that_differ_in_training_only_share_the_teacher(runs, run, monkeypatch):
    monkeypatch.setattr(runs, "train_teacher", never)
    control = runs.get_run("smoke", generate=False)
    assert control.folder != run.folder and same(control.teacher, run.teacher)


def test_a_weak_teacher_is_refused_with_the_remedy(runs, run):
    with pytest.raises(runs.WeakTeacher, match="below the 200% .*teacher_iter.*teacher_gate"):
        runs.get_run("smoke", teacher_gate=2.0)


def test_where_there_is_no_synthetic_world_the_message_says_how_to_give_photos(runs):
    with pytest.raises(ValueError, match="no synthetic folder.*--data folder=FOLDER"):
        runs.get_run("smoke", "folder")


def test_two_processes_ask_at_once_and_get_the_same_run(tmp_path):
    env = {**os.environ, "DGNET_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
           "DGNET_DEVICE": "cpu"}
    processes = [subprocess.Popen([sys.executable, "-c", ASK], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True) for _ in range(2)]
    answers = [p.communicate(timeout=600) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], answers
    one, two = (json.loads(out.splitlines()[-1]) for out, _ in answers)
    assert one["weights"] == two["weights"] and one["key"] == two["key"]
    assert min(one["reports"], two["reports"]) == 0 < max(one["reports"], two["reports"]), "one trained, one waited"


# --- plan and progress ----------------------------------------------------------------------------------------------


def test_a_plan_counts_shared_runs_once(planning, run):
    a = planning.NotebookPlan("a", (("market", {}), ("market", {"alpha": 0.4})))
    b = planning.NotebookPlan("b", (("market", {"alpha": 0.4}), ("duke", {})))
    jobs = [(j.dataset, j.changes) for j in planning.plan_runs([a, b], "smoke", {})]
    assert jobs == [("market", {"alpha": 0.4}), ("duke", {})], "the finished run is not in it"
    assert planning.plan_runs([planning.NotebookPlan("c", ())], "smoke", {}) == []


def test_tasks_go_side_by_side_but_not_with_those_they_must_wait_for(reproduce):
    at_work, together, lock = set(), [], threading.Lock()
    def do(task):
        with lock:
            at_work.add(task)
            together.append(set(at_work))
        time.sleep(0.3)
        with lock:
            at_work.discard(task)
    reproduce.side_by_side(["a1", "a2", "b1"], 2, do, apart=lambda t, r: t[0] == r[0])
    assert {"a1", "b1"} in together and not any({"a1", "a2"} <= s for s in together)
    assert set().union(*together) == {"a1", "a2", "b1"}
    order = []
    reproduce.side_by_side([3, 1, 2], 1, order.append)
    assert order == [3, 1, 2], "alone, one after the other"


def test_a_worker_trains_and_tells_and_its_failure_has_a_reason(reproduce, tmp_path, monkeypatch):
    for name, value in {"DGNET_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT), "DGNET_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    lines, task = [], {"tier": "smoke", "dataset": "duke", "path": None, "changes": {"n_iter": 10}}
    assert reproduce.call_worker(task, lines.append) == "trained" and not reproduce.WORKERS
    assert any("rendered" in line for line in lines)
    assert lines[-2]["progress"][0] == 10 and set(lines[-2]["losses"]) >= {"img1", "id_s"}
    assert len(list((tmp_path / "local" / "runs").glob("duke-smoke-*/done.json"))) == 3, "a teacher, a prefix, a run"
    with pytest.raises(RuntimeError, match="below the 200%"):
        reproduce.call_worker(task | {"changes": {"teacher_gate": 2.0}}, lines.append)
    with pytest.raises(RuntimeError, match="no field nonsense"):
        reproduce.call_worker(task | {"changes": {"nonsense": 1}}, lines.append)


def test_one_run_that_fails_does_not_stop_the_others(runs, reproduce, planning, run, capsys):
    from dgnet.config import run_key
    plan = planning.NotebookPlan("a", (("market", {"teacher_gate": 2.0}), ("market", {"seed": 11})))
    jobs = planning.plan_runs([plan], "smoke", {})
    weak, good = (run_key(j.config) for j in jobs)
    failed = reproduce.train_all(jobs, "smoke")
    assert list(failed) == [weak] and "below the 200%" in failed[weak] and runs.read_done(runs.LOCAL / "runs" / good)


def test_with_real_photos_only_the_folders_runs_are_needed_as_the_notebook_asks_for_them(planning):
    three = (("market", {}), ("market", {"method": "pose"}), ("duke", {"alpha": 0.2}))
    plan = planning.NotebookPlan("a", three, {"hold_out": 100})
    assert plan.needs({}) == list(three) and plan.needs({"market": "/x"}) == [("market", {"hold_out": 100})]
    fig8 = next(n for n in planning.NOTEBOOKS if n.stem.startswith("fig8"))
    assert all(c["hold_out"] == 100 for _, c in fig8.needs({"duke": "/x"})) and len(fig8.needs({"duke": "/x"})) == 5
    assert ([d for d, _ in fig8.needs({"market": "/x"})] == ["market"] * 5
            and [d for d, _ in fig8.needs({})] == ["duke"] * 5), "the notebook takes the first folder given"


def two_jobs(planning) -> list:
    "Ten iterations of DG-Net, and ten of its control."
    from dgnet.config import make_config
    ten, control = (make_config("smoke", warm_up=0.0, generate=g) for g in (True, False))
    return [planning.Job("market", {}, ten, 0), planning.Job("market", planning.CONTROL, control, 0)]


def test_the_progress_line_counts_down(planning):
    from dgnet.config import make_config
    from dgnet.loop import Progress
    Job, JobsLine, jobs, out = planning.Job, planning.JobsLine, two_jobs(planning), io.StringIO()
    line = JobsLine(jobs, stream=out)
    line.report(0, Progress(0, 10, 0.0), {}, now=7.0)
    assert line.left(7.0) is None, "nothing has been measured yet"
    line.report(0, Progress(5, 10, 60.0), {}, now=67.0)
    assert line.left(67.0) == pytest.approx(90), "half of the first job took a minute; 7.5 of 12.5 are left"
    taught = JobsLine([Job("market", {}, jobs[0].config, 40)], stream=out)
    whole, lesson = 10 + 40 * planning.TEACHER_STEP, planning.TEACHER_STEP
    for it in (0, 20): taught.report(0, Progress(it, 40, 0.0), {"teacher": 1.0}, now=1.5 * it + 1)
    assert taught.left(31.0) == pytest.approx(30 * (whole / (20 * lesson) - 1)), "the teacher's lessons count too"
    both = JobsLine(jobs, workers=2, stream=out)
    for it in (0, 5): both.report(0, Progress(it, 10, 0.0), {}, now=12.0 * it + 1)
    assert both.left(61.0) == pytest.approx(60 / 5 * max(7.5, 2 * 5)), "two at a time, but the longest cannot be halved"
    shared = Job("market", {"alpha": 0.4}, make_config("smoke"), 0, shared=3)
    assert shared.cost == pytest.approx(7) and shared.cost_until(3) == 0, "what another run has done costs nothing"


def test_the_progress_line_names_the_runs(planning):
    from dgnet.loop import Progress
    out = io.StringIO()
    line = planning.JobsLine(two_jobs(planning), stream=out)
    line.report(0, Progress(10, 10, 120.0), {"img1": 1.0})
    line.finish(0)
    line.report(1, Progress(10, 10, 24.0), {"id_s": 2.0})
    first, second = out.getvalue().splitlines()
    assert first.startswith("[0 of 2 done] market DG-Net 10/10 img1 1.00 · ")
    assert second.startswith("[1 of 2 done] market control 10/10 id_s 2.00 · ")


# --- the command ----------------------------------------------------------------------------------------------------


def test_prefixes_choose_notebooks(planning):
    assert [n.stem for n in planning.choose_notebooks(["table3"])] == ["table3_features"]
    assert planning.choose_notebooks(None) == [n for n in planning.NOTEBOOKS if not n.extra]
    assert [n.stem for n in planning.choose_notebooks(["study"])] == ["study_when_it_helps"]


@pytest.mark.parametrize("args, words", [
    (["--only", "fig99"], "no notebook starts with fig99"),
    (["--data", "market"], "write NAME=FOLDER"),
    (["--data", "market=/no/such/folder"], "is not a folder"),
    (["--data", "markt={folder}"], "no dataset markt"),
    (["--data", "market={folder}"], "no known dataset in it"),
])
def test_mistakes_get_a_message_and_exit_code_2(reproduce, capsys, tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    args = [a.format(folder=tmp_path / "empty") for a in args]
    assert reproduce.reproduce_cli(["--tier", "smoke", *args]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dgnet_reproduce: ") and words in message and "Traceback" not in message


def test_an_unknown_tier_is_refused_by_the_parser(reproduce, capsys):
    with pytest.raises(SystemExit) as e:
        reproduce.reproduce_cli(["--tier", "huge"])
    assert e.value.code == 2 and "invalid choice" in capsys.readouterr().err


def notebook(path, tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": tags} if tags else {}, "source": ["tier = 'mini'"],
            "outputs": [], "execution_count": None}
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def test_a_notebook_without_parameters_tag_is_refused(reproduce, planning, monkeypatch, tmp_path, capsys):
    notebook(tmp_path / "nbs" / "fake.ipynb", [])
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(planning, "NOTEBOOKS", (planning.NotebookPlan("fake", ()),))
    assert reproduce.reproduce_cli(["--tier", "smoke"]) == 2
    assert "no cell is tagged 'parameters'" in capsys.readouterr().err
    notebook(tmp_path / "nbs" / "fake.ipynb", ["parameters"])
    reproduce.check_parameters(tmp_path / "nbs" / "fake.ipynb")


def test_ctrl_c_is_answered_politely(reproduce, monkeypatch, capsys):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(reproduce, "reproduce", stop)
    assert reproduce.reproduce_cli([]) == 130 and "goes on from here" in capsys.readouterr().err
