"Every benchmark runs at its tiny size and writes the JSON that it promises; bad arguments end in one line."
import contextlib
import importlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "benchmarks"
SCRIPTS = ("steps", "profile_step", "evaluation", "throughput")
PROMISED = {   # columns of the rows, beside what all have
    "steps": {"size", "phase", "precision", "merge", "compile", "plain", "how", "batch", "median_ms", "min_ms",
              "spread", "per_pair_ms", "cpu_ms", "system_share", "peak_mib", "gflop", "must_gflop", "light_gb",
              "floor_ms", "gflop_s", "of_peak", "losses"},
    "profile_step": {"size", "phase", "precision", "by_kind", "by_pass", "by_network", "by_operation", "by_shape",
                     "copies", "convolutions", "optimisers"},
    "evaluation": {"size", "queries", "gallery", "method", "measured", "median_ms", "cpu_ms", "mAP", "peak_mib",
                   "above_mib"},
    "throughput": {"work", "network", "items", "images_s", "median_ms", "spread", "peak_mib", "of_peak"},
}


def run(name: str, *args) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(BENCH / f"{name}.py"), *map(str, args)], capture_output=True, text=True,
                          env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    "All of them, once, the way `make bench ARGS=--quick` calls them."
    out = tmp_path_factory.mktemp("bench")
    process = run("run_all", "--quick", "--device", "cpu", "--threads", 1, "--out", out)
    assert process.returncode == 0, process.stderr[-2000:]
    contents = {name: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in SCRIPTS}
    return process.stdout, contents, out


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_writes_what_is_promised(quick, name):
    content = quick[1][name]
    assert content["name"] == name and content["quick"] is True and content["seconds"] > 0 and content["rows"]
    facts = {"cpu", "cores", "threads", "ram_gib", "gpu", "python", "torch", "numpy", "code", "device"}
    assert facts <= set(content["machine"]) and content["machine"]["threads"] == 1
    peak = content["peak"]
    assert all(peak[d][k] > 0 for d in ("float32", "bfloat16") for k in ("conv", "matmul")) and peak["copy_gb_s"] > 0
    for row in content["rows"]:
        assert PROMISED[name] <= set(row), PROMISED[name] - set(row)
        assert row["median_ms"] > 0
    assert not [f for f in quick[2].iterdir() if f.suffix != ".json"], "nothing half written is left"


def test_the_output_says_where_it_was_measured(quick):
    assert quick[0].count("measured peak, GFLOP/s") == len(SCRIPTS) and "all done" in quick[0]
    assert f"torch {torch.__version__.split('+')[0]}" in quick[0]
    assert "measured on a CPU, with small counts" in quick[0]


def test_steps_do_what_is_needed_and_nothing_else(quick):
    rows = quick[1]["steps"]["rows"]
    assert {r["phase"] for r in rows} == {"first", "full"}
    for r in rows:
        assert 0.999 <= r["gflop"] / r["must_gflop"] < 1.01, "a step does what the losses need, and nothing else"
    first, full = (next(r for r in rows if r["phase"] == p) for p in ("first", "full"))
    more = set(full["losses"]) - set(first["losses"])
    assert set(first["losses"]) < set(full["losses"]) and {"prim", "fine", "cyc"} <= more
    assert first["gflop"] < full["gflop"]
    assert quick[1]["steps"]["predicted"][0]["hours_100k"] > 0


def test_shares_sum_to_one_and_know_the_networks(quick):
    for row in quick[1]["profile_step"]["rows"]:
        for by in ("by_kind", "by_pass", "by_network"):
            assert sum(s["share"] for s in row[by]) == pytest.approx(1)
        networks = {s["what"] for s in row["by_network"]}
        assert {f"{n} ({d})" for n in ("E_a", "E_s", "G", "D") for d in ("forward", "backward")} <= networks
        assert "teacher (forward)" in networks and "teacher (backward)" not in networks
        shares = {s["what"]: s["share"] for s in row["by_kind"]}
        assert {"convolution", "convolution backward", "optimisers"} <= set(shares) and shares.get("other", 0) < 0.2


def test_the_loop_and_the_package_agree(quick):
    ours, loop = quick[1]["evaluation"]["rows"]
    assert (ours["method"], loop["method"]) == ("package", "loop")
    assert ours["mAP"] == pytest.approx(loop["mAP"], abs=1e-6) and 0.05 < ours["mAP"] < 0.95


def test_counting_is_the_sum_of_the_layers():
    common = bench_module("common")
    from torch.utils.flop_counter import FlopCounterMode
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(8, 4, 1)), torch.randn(2, 3, 8, 8)
    with common.counting() as ours:
        net(x).sum().backward()
    with FlopCounterMode(display=False) as theirs:
        net(x).sum().backward()
    first, second = 2 * 2 * 64 * 3 * 8 * 9, 2 * 2 * 64 * 8 * 4
    assert ours.flop == theirs.get_total_flops() == 2 * first + 3 * second and ours.first == first
    with common.counting() as c:
        torch.zeros(1000).add(1.0)
        torch.zeros(10).view(2, 5)
    assert c.flop == c.heavy == 0 and 8000 <= c.light <= 8000 + 4000 * 2 + 200


def bench_module(name):
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCH))


def test_growth_is_the_slope():
    growth = bench_module("common").growth
    kinds = {"flat": 0.0, "line": 1.0, "square": 2.0}
    rows = [{"kind": kind, "n": n, "median_ms": 3.0 * n**e} for kind, e in kinds.items() for n in (40, 10, 20)]
    slopes = growth([*rows, {"kind": "alone", "n": 10, "median_ms": 1.0}], "n", ("kind",))
    assert [g["kind"] for g in slopes] == list(kinds), "one size says nothing about growth"
    assert [g["exponent"] for g in slopes] == pytest.approx([0, 1, 2])
    assert slopes[1]["points"] == [(10, 30.0), (20, 60.0), (40, 120.0)]
    assert all(g["work_is"] == "n" and (g["from"], g["to"]) == (10, 40) for g in slopes)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_steps_are_timed_at_several_batches(device):
    cases, phases = bench_module("steps").cases, ("first", "full")
    unset = dict.fromkeys(("sizes", "precisions", "merge", "compile", "plain", "repeat", "warm_up", "batch"))
    usual = unset | {"quick": False, "phases": phases, "recipe": "official", "set": []}
    def asked(**more): return cases(Namespace(**usual | more), device)
    every = asked()
    for phase, precision in product(phases, ("float32", "bfloat16")):
        wanted = {"size": "paper", "phase": phase, "precision": precision, "merge": True, "compile": False}
        assert len({c["batch"] for c in every if wanted.items() <= c.items()}) >= 2
    assert {c["batch"] for c in asked(batch=[3, 5])} == {3, 5} and len(asked(quick=True)) == 2
    assert len({json.dumps(c) for c in every}) == len(every), "no case twice"
    plain = {(c["size"], c["phase"], c["precision"]) for c in every if c["plain"]}
    assert plain == {(c["size"], phase, "float32") for c in every for phase in phases}


@pytest.mark.parametrize("phase", ["first", "full"])
def test_the_plain_step_computes_the_same(phase):
    "Losses of three steps, which follow from two updates of all weights; so the gradients are the same too."
    steps, plain = bench_module("steps"), bench_module("plain")
    case = dict(size="smoke", phase=phase, precision="float32", merge=False, batch=None, recipe="official",
                set={"drop_prim": 0.0, "drop_fine": 0.0}, device="cpu")
    def course(context, **more):
        with context():
            run = steps.Training(case | more)
            return [{k: v.item() for k, v in run.step(k).items()} for k in range(3)]
    ours, theirs = course(contextlib.nullcontext), course(plain.plain, plain=True)
    for a, b in zip(ours, theirs):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    assert ours[0] != ours[2], "the networks have learnt"


def test_growth_is_written_and_printed(quick):
    slopes = quick[1]["throughput"]["growth"]
    assert [(g["work"], g["from"], g["to"]) for g in slopes] == [("renderer", 4, 8)] and len(slopes[0]["points"]) == 2
    assert "growth: time ~ items ^ exponent" in quick[0]
    assert quick[1]["evaluation"]["growth"] == quick[1]["steps"]["growth"] == []


@pytest.mark.parametrize("script, args, words", [
    ("steps", ["--threads", "0"], "argument --threads: 0: give a whole number above 0"),
    ("steps", ["--repeat", "many"], "argument --repeat: many: give a whole number above 0"),
    ("steps", ["--sizes", "huge"], "argument --sizes: invalid choice: 'huge'"),
    ("steps", ["--set", "lam_img"], "lam_img: give FIELD=VALUE"),
    ("evaluation", ["--queries", "-3"], "argument --queries: -3: give a whole number above 0"),
    ("throughput", ["--work", "nothing"], "argument --work: invalid choice: 'nothing'"),
    ("run_all", ["--only", "nothing"], "argument --only: invalid choice: 'nothing'"),
])
def test_bad_arguments(script, args, words, tmp_path):
    process = run(script, "--quick", "--device", "cpu", "--out", tmp_path / "out", *args)
    assert process.returncode == 2 and words in process.stderr and "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()


def test_a_case_that_fails_ends_in_one_line(tmp_path):
    process = run("steps", "--quick", "--device", "cpu", "--out", tmp_path, "--phases", "first", "--set",
                  "no_such_field=1")
    assert process.returncode == 2 and "no field no_such_field in Config" in process.stderr
    assert "Traceback" not in process.stderr and not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("mine")
    process = run("evaluation", "--quick", "--device", "cpu", "--out", tmp_path / "out")
    assert process.returncode == 2 and "out: a file is there; give a folder" in process.stderr
    assert "Traceback" not in process.stderr and (tmp_path / "out").read_text() == "mine"
