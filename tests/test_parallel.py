"""Two processes compute what one does with the same batch: losses, weights, pictures; what they refuse; the command."""
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
    "`together.py` in two processes, started as torchrun does; the results of the first one."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    def start(rank):
        env = {k: str(v) for k, v in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        return subprocess.Popen([sys.executable, str(HERE / "together.py"), str(folder)],
                                env={**os.environ, **QUIET, **env}, stderr=subprocess.PIPE, text=True)
    processes = [start(rank) for rank in range(count)]
    try:
        errors = [p.communicate(timeout=240)[1] for p in processes]
    finally:
        for p in processes: p.kill()
    assert (folder / "results.pt").exists(), "\n".join(errors)[-3000:]
    return torch.load(folder / "results.pt", weights_only=False)


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
    for net in ("E_a", "E_s", "G", "D"):
        g, h = (torch.cat([v.flatten() for k, v in side["grads"].items() if k.startswith(net + ".")])
                for side in (a, b))
        assert (g - h).norm() < 1e-3 * g.norm(), net
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
    whole = one["numbers"][True, 6]["losses"][0]
    assert apart(whole["prim"], row["prim"]) > 1e-3, "local statistics see half of the rows"


def test_resumed_bit_for_bit_and_by_another_number_of_processes(base, one, two):
    from dgnet.distributed import SINGLE_PROCESS
    from dgnet.train import fit
    from together import begin, photos
    assert one["resumed"] and two["resumed"]
    logs = [(base / n / "parts" / "log.csv").read_text().splitlines() for n in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 5
    assert [row.split(",")[0] for row in logs[1]] == ["it", "1", "2", "3", "4"], "one writer, no row twice"
    _, teacher, state = begin(SINGLE_PROCESS, n_iter=4)
    assert fit(state, teacher, *photos(), base / "two" / "parts").it == 4


def test_a_batch_that_cannot_be_shared_is_refused(one, two):
    assert one["refusal"] is None, "one process shares nothing"
    assert two["refusal"].startswith("batch=3: 2 processes cannot share 3 pairs equally")


def test_the_same_files(base, one, two):
    def files(n):
        folder = base / n / "set"
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    first, second = files("one"), files("two")
    assert one["pictures"] == two["pictures"] == 20 and sum(name.endswith(".png") for name in first) == 20
    assert first.keys() == second.keys() and [name for name in first if first[name] != second[name]] == []


def test_who_is_left_behind_is_told(two): assert two["abandoned"] == "told"


def test_the_command_trains_the_run_that_get_run_finds(tmp_path, monkeypatch):
    from dgnet import parallel, runs
    text = parallel.launch(2, "run", "--tier", "smoke", "--set", "n_iter=4", "seed=5", DGNET_ROOT=str(tmp_path),
                           **QUIET)
    assert "4 iterations" in text and "by 2;" in text and text.count("\n") == 1, "said once"
    monkeypatch.setattr(runs, "LOCAL", tmp_path / "local")
    monkeypatch.setattr(runs, "_train", None)   # nothing is left to train
    run = runs.get_run("smoke", n_iter=4, seed=5)
    facts = json.loads((run.folder / "done.json").read_text())
    assert run.provenance["processes"] == 2 == facts["processes"] and run.config.n_iter == 4


def test_what_a_launched_command_complains_of_is_raised_without_the_launchers_words(monkeypatch):
    from dgnet import parallel
    stderr = ("W1122 warning\ndgnet.parallel: batch=3: 2 processes cannot share 3 pairs equally\n"
              "Traceback\ndgnet.parallel FAILED\nRoot Cause")
    monkeypatch.setattr(parallel.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 2, "", stderr))
    with pytest.raises(RuntimeError, match="^dgnet.parallel: batch=3: 2 processes cannot share 3 pairs equally$"):
        parallel.launch(2, "run")
