"""Two processes compute what one does with the same batch: losses, weights, features, pictures; what they refuse; the
command."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
QUIET = {"DGNET_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def by_two(folder, count=2):
    "`together.py` in two processes, started as torchrun does; what the first one found."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    place = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = [{**os.environ, **QUIET, **{k: str(v) for k, v in (place | {"RANK": r, "LOCAL_RANK": r}).items()}}
           for r in range(count)]
    started = [subprocess.Popen([sys.executable, str(HERE / "together.py"), str(folder)], env=e, stderr=subprocess.PIPE,
                                text=True) for e in env]
    try:
        errors = [p.communicate(timeout=240)[1] for p in started]
    finally:
        [p.kill() for p in started]
    assert (folder / "said.pt").exists(), "\n".join(errors)[-3000:]
    return torch.load(folder / "said.pt", weights_only=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A world and an untrained model, and what one process and two made of them."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.synthetic import write_domain
    base = tmp_path_factory.mktemp("parallel")
    write_domain("market", base / "world", n_train_ids=4, n_test_ids=2, n_val_ids=0, images_per_id=3,
                 test_images_per_id=2, height=64, width=32, seed=0)
    torch.manual_seed(0)
    DGNet(make_config("smoke", ea_init="random"), 8).save(base / "model.safetensors")
    return base


@pytest.fixture(scope="module")
def one(base):
    "In this very process, with one thread like the others."
    from dgnet.distributed import SINGLE_PROCESS
    from together import everything
    threads = torch.get_num_threads()
    (base / "one").mkdir()
    torch.set_num_threads(1)
    try:
        return everything(base / "one", SINGLE_PROCESS)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(base):
    (base / "two").mkdir()
    return by_two(base / "two")


def apart(a, b): return abs(a - b) / abs(a)


@pytest.mark.parametrize("merge", [False, True], ids=["official passes", "merged passes"])
@pytest.mark.parametrize("it", [0, 6], ids=["before the warm-up", "after it"])
def test_the_same_losses_gradients_and_statistics(one, two, merge, it):
    a, b = one["numbers"][merge, it], two["numbers"][merge, it]
    assert one["count"] == 1 and two["count"] == 2 and [list(r) for r in a["losses"]] == [list(r) for r in b["losses"]]
    assert ("prim" in a["losses"][0]) == (it == 6), "all losses are there after the warm-up"
    worst = max((apart(r[k], s[k]), n, k) for n, (r, s) in enumerate(zip(a["losses"], b["losses"])) for k in r)
    assert worst[0] < 1e-4, worst
    assert max((apart(v, b["losses"][0][k]), k) for k, v in a["losses"][0].items())[0] < 1e-5, "the first step"
    # of the first step; a sign of |x| that rounding turns over counts more than rounding
    # of the first step; a sign of |x| that rounding turns over counts more than rounding
    # of the first step; a sign of |x| that rounding turns over counts more than rounding
    # of the first step; a sign of |x| that rounding turns over counts more than rounding
    for net in ("E_a", "E_s", "G", "D"):
        g, h = (torch.cat([v.flatten() for k, v in side["grads"].items() if k.startswith(net + ".")])
                for side in (a, b))
        assert (g - h).norm() < 1e-3 * g.norm(), net
    # of what has no effect, such as a bias before a norm, Adam makes steps of the full rate out of rounding: 1 in the
    # first, up to √2 in the second, either way
    # of what has no effect, such as a bias before a norm, Adam makes steps of the full rate out of rounding: 1 in the
    # first, up to √2 in the second, either way
    # of what has no effect, such as a bias before a norm, Adam makes steps of the full rate out of rounding: 1 in the
    # first, up to √2 in the second, either way
    # of what has no effect, such as a bias before a norm, Adam makes steps of the full rate out of rounding: 1 in the
    # first, up to √2 in the second, either way
    for k, v in a["weights"].items():
        bound = 4.9e-5 if k.split(".")[0] in ("E_s", "G", "D") else 1e-4 * max(1.0, float(v.abs().max()))
        assert (v.double() - b["weights"][k].double()).abs().max() <= bound, k


def test_the_same_by_the_papers_recipe(one, two):
    (a,), (b,) = one["numbers"]["paper"], two["numbers"]["paper"]
    assert max((apart(a[k], b[k]), k) for k in a)[0] < 1e-5


def test_batch_norm_statistics_are_equal_everywhere(two):
    for name, n in two["numbers"].items():
        if name != "paper":
            assert n["norms"].shape[0] == 2 and torch.equal(*n["norms"]), name


def test_local_statistics_are_another_recipe_with_equal_running_averages(one, two):
    (row,), norms = two["local"]
    assert torch.equal(*norms), "their mean, in every process"
    assert apart(one["numbers"][True, 6]["losses"][0]["prim"],
                 row["prim"]) > 1e-3, "local statistics see half of the rows"


def test_resumed_bit_for_bit_and_by_another_number_of_processes(base, one, two):
    from dgnet.distributed import SINGLE_PROCESS
    from dgnet.train import fit
    from together import begin, photos
    assert one["resumed"] and two["resumed"]
    logs = [(base / n / "parts" / "log.csv").read_text().splitlines() for n in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 5 and [l.split(",")[0] for l in logs[1]] == ["it", "1", "2", "3",
                                                                                        "4"], "one writer, no row twice"
    _, teacher, state = begin(SINGLE_PROCESS, n_iter=4)
    assert fit(state, teacher, *photos(), base / "two" / "parts").it == 4


def test_a_batch_that_cannot_be_shared_is_refused(one, two):
    assert one["refusal"] is None, "one process shares nothing"
    assert two["refusal"].startswith("batch=3: 2 processes cannot share 3 pairs equally")


def test_the_same_features(one, two):
    for a, b in zip(one["features"], two["features"]):
        for v, w in zip(a, b):
            assert v.shape == w.shape and torch.allclose(v.double(), w.double(), atol=1e-5)
    assert one["features"][1][2].tolist() == list(range(13)) == two["features"][1][2].tolist()


def test_the_same_files(base, one, two):
    made = [{p.relative_to(base / n): p.read_bytes() for p in (base / n / "set").rglob("*") if p.is_file()}
            for n in ("one", "two")]
    made = [{str(k).split("/", 1)[1]: v for k, v in m.items()} for m in made]
    assert one["made"] == two["made"] == 20 and sum(k.endswith(".png") for k in made[0]) == 20
    assert made[0].keys() == made[1].keys() and [k for k in made[0] if made[0][k] != made[1][k]] == []


def test_who_is_left_behind_is_told(two): assert two["abandoned"] == "told"


def test_the_command_trains_the_run_that_get_run_finds(tmp_path, monkeypatch):
    from dgnet import parallel, runs
    said = parallel.launch(2, "run", "--tier", "smoke", "--set", "n_iter=4", "seed=5", DGNET_ROOT=str(tmp_path),
                           **QUIET)
    assert "4 iterations" in said and "by 2;" in said and said.count("\n") == 1, "said once"
    monkeypatch.setattr(runs, "LOCAL", tmp_path / "local")
    monkeypatch.setattr(runs, "_train", None)   # nothing is left to train
    run = runs.get_run("smoke", n_iter=4, seed=5)
    assert run.provenance["processes"] == 2 and run.config.n_iter == 4 and json.loads((run.folder
                                                                                       / "done.json").read_text())[
                                                                                           "processes"] == 2


def test_what_a_launched_command_complains_of_is_raised_without_the_launchers_words(monkeypatch):
    from dgnet import parallel
    said = ("W1122 warning\ndgnet.parallel: batch=3: 2 processes cannot share 3 pairs "
            "equally\nTraceback\ndgnet.parallel FAILED\nRoot Cause")
    monkeypatch.setattr(parallel.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 2, "", said))
    with pytest.raises(RuntimeError, match="^dgnet.parallel: batch=3: 2 processes cannot share 3 pairs equally$"):
        parallel.launch(2, "run")
