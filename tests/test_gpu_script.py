"""`benchmarks/gpu.py`: stages that go on where they were stopped, a deadline that holds, what comes home, and answers
to mistakes; at smoke size on a CPU."""
import argparse
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

CODE = Path(__file__).resolve().parent.parent
SCRIPT = CODE / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    "The script as a module, at home in a folder of its own."
    monkeypatch.setenv("DGNET_ROOT", str(tmp_path))
    for name in ("OUT", "DGNET_SET", "DGNET_STOP", "DGNET_DEVICE", "DGNET_CODE"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "shards", lambda tier, out, size: [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    was = dict(os.environ)
    yield module
    os.environ.clear()
    os.environ.update(was)


def asked(gpu, *args):
    a = gpu.parser().parse_args(["run", "--tier", "smoke", "--device", "cpu", *map(str, args)])
    a.began = time.time()
    return a


def command(*args, root=None):
    env = {k: v for k, v in os.environ.items() if k not in ("OUT", "DGNET_SET",
                                                            "DGNET_STOP")} | ({"DGNET_ROOT": str(root)} if root else {})
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], capture_output=True, text=True,
                          env=env | {"OMP_NUM_THREADS": "1"})

# --- stages and the deadline ------------------------------------------------------------------------------------------


def test_stages_go_in_order_are_not_repeated_and_their_states_are_kept(gpu, monkeypatch, tmp_path):
    told, answers = [], {"tests": ["done"], "runs": ["left", "done"], "market": ["skipped", "skipped"],
                         "bench": ["failed", "done"]}
    for name in answers:
        def stage(call, name=name, **how):
            told.append(name)
            return {"state": answers[name].pop(0), "said": f"said {name}"}
        monkeypatch.setattr(gpu, f"stage_{name}", stage)
    monkeypatch.setattr(gpu.Call, "start", lambda *a, **k: None)
    out = tmp_path / "out"
    assert gpu.run(asked(gpu, "--out", out)) == 3, "something is left: call again"
    assert told == ["tests", "runs", "market", "bench"]
    status = json.loads((out / "status.json").read_text())
    assert {k: v["state"] for k, v in status["stages"].items()} == {"tests": "done", "runs": "left",
                                                                    "market": "skipped", "bench": "failed"}
    assert gpu.run(asked(gpu, "--out", out)) == 0 and told[4:] == ["runs", "market",
                                                                   "bench"], "what is done is not done again"
    assert len(json.loads((out / "status.json").read_text())["calls"]) == 2
    with pytest.raises(ValueError, match="begun at tier smoke, not mini"):
        gpu.run(gpu.parser().parse_args(["run", "--tier", "mini", "--device", "cpu"]))


def test_what_failed_is_told_by_the_exit_code(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "stage_tests", lambda call: {"state": "failed", "said": "1 failed"})
    assert gpu.run(asked(gpu, "--stages", "tests", "--out", tmp_path / "out")) == 1


def test_the_deadline_holds_even_for_a_child_that_does_not_listen(gpu, tmp_path):
    "It and what it started are ended; DGNET_STOP told it before."
    call = gpu.Call(asked(gpu, "--minutes", 0.05), dict(os.environ))
    program = ("import os, signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); p = "
               "subprocess.Popen(['sleep', '60']);" "print('told', float(os.environ['DGNET_STOP']) - time.time(), "
               "p.pid, flush=True); time.sleep(60)")
    began = time.time()
    assert call.run("deaf", [sys.executable, "-c", program]) is None
    assert 1.5 < time.time() - began < 10, "three seconds, less the time to pack, and three more for good manners"
    _, left, pid = (gpu.HERE / "deaf.log").read_text().split()[-3:]
    assert float(left) < 3
    time.sleep(0.2)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "the grandchild is gone too"


def test_a_stage_is_not_begun_when_no_time_is_left(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "stage_tests", lambda call: pytest.fail("begun"))
    assert gpu.run(asked(gpu, "--stages", "tests", "--minutes", 0.01, "--least", 5, "--out", tmp_path / "out")) == 3


def test_the_schedule_is_scaled_to_the_budget(gpu, tmp_path, monkeypatch):
    "Speeds are given here; half of what the runs need is allowed, so every length is halved."
    import dgnet.runs as R
    monkeypatch.setattr(R, "LOCAL", tmp_path / "local")
    monkeypatch.setenv("DGNET_DEVICE", "cpu")
    speeds = {"teacher": 0.5, "dgnet": 1.0, "rival": 0.25}
    monkeypatch.setattr(gpu, "speeds", lambda *a: speeds)
    jobs = R.plan_runs(gpu.recipes(["fig1", "table2"]), "full", {})
    whole = gpu.needed(jobs, speeds)
    cfg = jobs[0].config
    main = next(j for j in jobs if j.changes == {})
    assert whole == pytest.approx(0.5 * cfg.teacher_iter + main.spent(cfg.n_iter) + 2 * 0.25 * cfg.rival_iter + 0.25
                                  * cfg.n_iter), "teacher, run, two rivals, the bound of Figure 1"
    task = {"tier": "full", "labels": ["fig1", "table2"], "paths": {}, "budget": whole, "out": str(tmp_path / "s.json"),
            "share": 0.5}
    gpu._schedule(task)
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["factor"] == pytest.approx(0.5) and found["set"] == {k: round(getattr(cfg, k) / 2) for k in ("n_iter", "teacher_iter", "rival_iter")}
    assert f"n_iter {cfg.n_iter // 2} (of {cfg.n_iter})" in found["said"]
    gpu._schedule(task | {"budget": 4 * whole})
    assert json.loads((tmp_path / "s.json").read_text())["set"] == {}, "what fits is left alone"


def test_dgnet_set_changes_every_run_and_its_name(monkeypatch):
    from dgnet.config import make_config, run_key
    from dgnet.runs import asked_config
    monkeypatch.delenv("DGNET_SET", raising=False)
    assert asked_config("full") == make_config("full")
    monkeypatch.setenv("DGNET_SET", json.dumps({"n_iter": 77, "teacher_iter": 5}))
    assert asked_config("full") == make_config("full", n_iter=77,
                                               teacher_iter=5) and run_key(asked_config("full")) != run_key(
                                                   make_config("full"))
    assert asked_config("full", n_iter=9).n_iter == 9, "what a run itself asks for wins"
    for wrong, words in (("{", "not JSON"), ("[1]", "object of fields"), ('{"nonsense": 1}', "no field nonsense")):
        monkeypatch.setenv("DGNET_SET", wrong)
        with pytest.raises(ValueError, match=words):
            asked_config("full")

# --- home
# --------------------------------------------------------------------------------------------------------------


def made_there(root):
    "A machine on which things were made, some of which must stay there."
    wanted = {"figures/smoke/fig1_swap_grid.png": b"p" * 5000, "figures/smoke/fig1_swap_grid.json": b"{}",
              "figures/paper/table3_features_smoke.json": b"{}", "local/gpu/runs.log": b"log",
              "local/gpu/junit_cuda.xml": b"<x/>", "local/bench/cpu/steps.json": b"{}",
              "local/runs/market-smoke-1/log.csv": b"it", "local/executed/smoke/fig1_swap_grid.ipynb": b"{}"}
    kept = {"local/figures/smoke/table3_features.png": b"a real person",
            "local/executed/smoke-real/fig1_swap_grid.ipynb": b"real people",
            "local/runs/market-smoke-1/state.pt": b"big", "figures/mini/fig1_swap_grid.png": b"mini",
            "local/data/market-1/photo.jpg": b"photo"}
    for name, content in {**wanted, **kept}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return wanted


def test_what_comes_home_is_what_may_and_arrives_whole(gpu, tmp_path, capsys):
    wanted, out, home = made_there(tmp_path), tmp_path / "out", tmp_path / "home"
    call = gpu.Call(asked(gpu), dict(os.environ))
    gpu.pack(call, out)
    assert {p.name for p in out.iterdir()} == {"home-1.tar.gz", "status.json"}
    home.mkdir()
    assert gpu.unpack(argparse.Namespace(folder=out, into=home)) == 0
    there = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()}
    assert {k: v for k, v in there.items()
            if k != "local/gpu/status.json"} == wanted, "no picture of a real person, no checkpoint, no photo"
    assert json.loads(there["local/gpu/status.json"])["left_out"] == []


def test_large_things_are_spread_over_files_and_what_does_not_fit_is_named(gpu, tmp_path, monkeypatch):
    rng = __import__("random").Random(0)
    made_there(tmp_path)
    for k in range(12):
        (tmp_path / f"figures/smoke/big{k:02d}.png").write_bytes(rng.randbytes(600_000))
    (tmp_path / "figures/smoke/zz_huge.png").write_bytes(rng.randbytes(1_200_000))
    def generator(tier, out, size):
        parts = [out / f"generator.part{k}" for k in (1, 2)]
        for p, content in zip(parts, (b"first half, ", b"second half")): p.write_bytes(content)
        return parts
    monkeypatch.setattr(gpu, "shards", generator)
    out, home = tmp_path / "out", tmp_path / "home"
    call = gpu.Call(asked(gpu, "--file-mib", 1), dict(os.environ))
    gpu.pack(call, out)
    files = list(out.iterdir())
    assert len(files) == 8 and all(f.stat().st_size <= 2**20
                                   for f in files), "five archives, two parts of the generator, the status"
    left = call.status["left_out"]
    assert "figures/smoke/zz_huge.png" in left and len([f for f in left if "/big" in f]) == 12 - 5
    home.mkdir()
    gpu.unpack(argparse.Namespace(folder=out, into=home))
    assert (home / "local/gpu/generator-smoke.safetensors").read_bytes() == b"first half, second half"
    assert len(list((home / "figures/smoke").glob("big*"))) == 5


def test_what_was_damaged_or_does_not_belong_is_refused(gpu, tmp_path):
    made_there(tmp_path)
    out, call = tmp_path / "out", gpu.Call(asked(gpu), dict(os.environ))
    gpu.pack(call, out)
    def unpack(): return gpu.unpack(argparse.Namespace(folder=out, into=tmp_path / "home"))
    archive = out / "home-1.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-9] + b"x" * 9)
    with pytest.raises(ValueError, match="home-1.tar.gz: damaged"):
        unpack()
    archive.unlink()
    with pytest.raises(ValueError, match="home-1.tar.gz: missing"):
        unpack()
    for name in ("dgnet/core.py", "local/../../escaped", "/etc/x"):
        with tarfile.open(archive, "w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        status = json.loads((out / "status.json").read_text())
        status["files"]["home-1.tar.gz"]["sha256"] = hashlib.sha256(archive.read_bytes()).hexdigest()
        (out / "status.json").write_text(json.dumps(status))
        with pytest.raises(ValueError, match="does not belong"):
            unpack()
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("core.py"))

# --- packages
# ------------------------------------------------------------------------------------------------------------


def test_packages_that_are_lacking_come_from_wheels_or_are_named(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "NEEDED", ("a_package_nobody_has",))
    with pytest.raises(RuntimeError, match="lacks a_package_nobody_has.*gpu.py wheels"):
        gpu.prepare(tmp_path / "wheels")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "a_package_nobody_has-1.0-py3-none-any.whl", "w") as z:
        z.writestr("a_package_nobody_has.py", "answer = 42\n")
        info = "a_package_nobody_has-1.0.dist-info/"
        z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: a-package-nobody-has\nVersion: 1.0\n")
        z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(info + "RECORD", "")
    env = gpu.prepare(tmp_path / "wheels")
    done = subprocess.run([sys.executable, "-c", "import a_package_nobody_has as a, dgnet; print(a.answer)"], env=env,
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "42\n", done.stderr


def test_training_needs_no_notebook_software():
    "nbdev, papermill and Jupyter may be missing where one only trains."
    block = ("import sys\nfor m in ('nbdev', 'papermill', 'nbformat', 'nbclient', 'ipykernel', 'IPython', 'fastcore', "
             "'execnb', 'ipywidgets', 'torch_fidelity'): sys.modules[m] = None\n")
    done = subprocess.run([sys.executable, "-c", block + "import dgnet.runs, dgnet.train, dgnet.generate, dgnet.rank, "
                           "dgnet.own"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(CODE)})
    assert done.returncode == 0, done.stderr[-500:]

# --- the command
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args, words", [
    (["run", "--minutes", "0"], "argument --minutes: 0: give a number above 0"),
    (["run", "--tier", "paper"], "argument --tier: invalid choice"),
    (["run", "--stages", "nothing"], "argument --stages: invalid choice"),
    (["run", "--market", "/no/such/folder"], "--market /no/such/folder: is not a folder"),
    (["unpack", "/no/such/folder"], "/no/such/folder: no status.json in it"),
    (["run", "--tier", "smoke", "--device", "cpu", "--only", "fig99", "--stages", "runs"], "no notebook starts with fig99"),
    ([], "arguments are required"),
])
def test_mistakes(args, words, tmp_path):
    done = command(*args, *(["--out", tmp_path / "out"] if args[:1] == ["run"] else []), root=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_interrupted_and_called_again_it_trains_draws_and_packs(tmp_path):
    """The whole way, without a GPU: the first call has no time to finish, the second ends it; its picture comes home as
    an executed notebook (smoke stores no artefact)."""
    root, out, home = tmp_path / "there", tmp_path / "out", tmp_path / "home"
    root.mkdir()
    home.mkdir()
    for name in ("nbs", "dgnet", "settings.ini"): (root / name).symlink_to(CODE / name)
    common = ["run", "--tier", "smoke", "--device", "cpu", "--stages", "runs", "--only", "fig1", "--out", out, "--code",
              "a commit"]
    first = command(*common, "--minutes", "0.1", root=root)
    assert first.returncode == 3 and "runs     left" in first.stdout, first.stdout + first.stderr
    second = command(*common, root=root)
    assert second.returncode == 0, second.stdout + second.stderr
    status = json.loads((out / "status.json").read_text())
    assert status["stages"]["runs"]["trained"] == ["market DG-Net",
                                                   "market bound"] and status["stages"]["runs"]["notebooks"] == [
                                                       "fig1_swap_grid"] and len(status["calls"]) == 2
    assert command("unpack", out, "--into", home).returncode == 0
    assert (home / "local/executed/smoke/fig1_swap_grid.ipynb").is_file() and len(
        list(home.glob("local/runs/market-smoke-*/log.csv"))) >= 1
    from safetensors import safe_open
    from dgnet.model import DGNet, config_from_dict
    with safe_open(home / "local/gpu/generator-smoke.safetensors", "pt") as f:
        keys, about = set(f.keys()), f.metadata()
        cfg = config_from_dict(json.loads(about["dgnet"])["config"])
        assert keys == {k for k in DGNet(cfg, 8, start=False).state_dict()
                        if k.startswith(("E_s.", "G."))} and str(f.get_tensor(min(keys)).dtype) == "torch.float16"
