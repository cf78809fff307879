"""One training step: time, peak memory, arithmetic, bytes, and the share of the machine's peak that it reaches.

Per size (the paper's networks at 256x128 with K = 751; tier mini; tier smoke), batch, phase (first: before the warm-up
ends; full: all losses on), precision, and with E_a's passes merged or not; on a GPU also compiled, and as CUDA graphs;
and beside them the same step written plainly (plain.py). Random photos and a teacher of random weights: the arithmetic
is that of a real run. The coin of D11 is not tossed but alternated, so that its two kinds of step weigh the same every
time; a time is the mean of the two medians."""
import argparse
import sys
from contextlib import nullcontext
from dataclasses import replace

from common import (benchmark, counting, growth, growth_table, memory, options, positive, ratios, statistics, timed,
                    usage)

SIZES = {"paper": dict(tier="paper", ea_init="random"), "mini": dict(tier="mini", ea_init="random"),
         "smoke": dict(tier="smoke", ea_init="random")}
K = 751   # people of Market-1501's training set
PHASES = ("first", "full")
# beside the first: how time and memory grow
MORE_BATCHES = {("paper", "cpu"): [2], ("paper", "cuda"): [4, 16], ("mini", "cpu"): [4, 16], ("mini", "cuda"): [4, 16]}


def config(case: dict):
    "The configuration of a case."
    from dgnet.config import make_config
    changes = {"precision": case["precision"], "merge_passes": case["merge"], **SIZES[case["size"]],
               **({"batch": case["batch"]} if case["batch"] else {})}
    return make_config(recipe=case["recipe"], **{**changes, **case["set"]})


class Training:
    "A training run on random photos, held at one point of its schedule."
    def __init__(self, case: dict):
        import torch

        from dgnet.core import keep_freed_memory
        from dgnet.teacher import make_teacher
        from dgnet.train import TrainState
        self.cfg, self.device = config(case), torch.device(case["device"])
        if self.device.type == "cpu" and not case.get("plain"): keep_freed_memory()   # as `fit` does
        torch.manual_seed(0)
        self.images = torch.randint(0, 256, (256, 3, self.cfg.height, self.cfg.width), dtype=torch.uint8)
        self.labels = torch.arange(64).repeat_interleave(4)
        self.state = TrainState(self.cfg, K, self.labels, device=self.device)
        teacher = make_teacher(self.cfg, K).to(self.device, memory_format=torch.channels_last)
        self.teacher = teacher.train(self.cfg.teacher_train)
        for net in (self.state.model, self.teacher) if case.get("plain") else ():
            net.to(memory_format=torch.contiguous_format)
        # the middle of what comes before the warm-up's end, and of what comes after the ramps until the rates fall
        ramps_end = self.cfg.warm_up + max(self.cfg.ramp, self.cfg.code_ramp)
        low, high = (0.0, self.cfg.warm_up) if case["phase"] == "first" else (ramps_end, self.cfg.decay_at[0])
        self.it = int((low + high) / 2 * self.cfg.n_iter)
        self.coins = [replace(self.cfg, encoder_again=p) for p in (0.0, 1.0)]

    def compile(self, mode: bool | str) -> None:
        "From here on as `Config.compile` says."
        from dgnet.model import compile_networks
        compile_networks(self.state.model, mode)
        self.coins = [replace(c, compile=mode) for c in self.coins]

    def step(self, k: int) -> dict:
        "One step, always of the same iteration; the encoders' coin falls on its other side every time."
        from dgnet.train import train_step
        self.state.it, self.state.cfg = self.it, self.coins[k % 2]
        return train_step(self.state, self.teacher, self.images, self.labels)

    def needed(self, again: bool) -> list:
        """What the losses ask of the networks: (what for, network, images, forward, gradients to the input, to the
        weights)."""
        from dgnet.schedule import loss_weights
        cfg, w, b = self.cfg, loss_weights(self.it, self.cfg), 2 * self.cfg.batch
        live = not cfg.detach_code
        code = (cfg.lam_code1 or cfg.lam_code2 or cfg.lam_cyc) and (w["code1"] or w["code2"] or w["cyc"])
        feed = cfg.lam_prim * cfg.feed and (w["prim"] or w["fine"])
        rows = [("a of photo and positive", "E_a", 2 * b, 1, 0, live), ("s of photo", "E_s", b, 1, 0, 1),
                ("three decodes", "G", 3 * b, 1, 1, 1), ("D's loss", "D", 2 * b, 1, 0, 1),
                ("D's R1 penalty: gradient, and through it", "D", b, 0, 2, 1), ("L_adv", "D", b, 1, 1, 0),
                ("L^c_id", "E_a", b, 1, 1, 0), ("L^s_id on erased copies", "E_a", 2 * b, 1, 0, 1)]
        if code and again:
            rows += [("L^code1", "E_a", b, 1, 0, 1)] * live + [("L^code2", "E_s", b, 1, 0, 1)]
        if code and not again:
            rows += [("L^code2", "E_s", b, 1, 1, 0)]
        if code and cfg.lam_cyc:
            rows += [("cycle", "G", b, 1, 1, 1)]
        if feed:
            rows += [("L_prim and L_fine", "E_a", b, 1, 0, 1), ("soft label", "teacher", 2 * b, 1, 0, 0)]
        return rows

    def per_image(self) -> dict:
        "Flop of each network's pass over one photo: (all, its first convolution)."
        import torch
        model, teacher = self.state.model, self.teacher
        x = torch.zeros(2, 3, self.cfg.height, self.cfg.width, device=self.device)
        passes = {"E_a": (model.E_a, x), "E_s": (model.encode_structure, x), "D": (model.D, x),
                  "G": (model, x, x), "teacher": (teacher, x)}
        flop, modes = {}, {v: v.training for v in [*model.modules(), *teacher.modules()]}
        model.eval()
        teacher.eval()   # nothing is stored in a batch norm
        for name, (net, *inputs) in passes.items():
            with torch.no_grad(), counting() as c:
                net(*inputs)
            flop[name] = (c.flop / 2, c.first / 2)
        with torch.no_grad(), counting() as c:
            model.E_a.encode(x)
        for module, mode in modes.items():
            module.training = mode
        flop["G"] = (flop["G"][0] - flop["E_s"][0] - c.flop / 2, 0)
        return flop

    def must(self, again: bool) -> float:
        """Flop that the losses cannot do without: a gradient costs what the pass costs; one to the weights needs those
        inside, but stops at the first convolution."""
        flop, total = self.per_image(), 0
        for _, net, n, forward, to_x, to_w in self.needed(again):
            whole, first = flop[net]
            total += n * (whole * (forward + max(to_x, to_w) + to_w) - (first if to_w and not to_x else 0))
        return total


def measure(case: dict) -> dict:
    "Times, memory, arithmetic and bytes of one kind of step."
    from plain import plain
    with plain() if case["plain"] else nullcontext():
        return measured(case, Training(case))


def measured(case: dict, run: Training) -> dict:
    "`measure`, of this training."
    gpu, n, counts = case["device"] == "cuda", 2 * -(-case["repeat"] // 2), []
    must = (run.must(False) + run.must(True)) / 2
    for k in range(2):   # they are counted, and warm up
        with counting() as c:
            losses = run.step(k)
        counts.append(c)
    run.compile(case["compile"])
    for k in range(2, case["warm_up"]): run.step(k)
    before = usage()
    times = timed(run.step, n, case["device"])
    used = {k: (v - before[k]) / n for k, v in usage().items()}
    halves = [statistics(times[k::2]) for k in range(2)]
    mean = {k: sum(h[k] for h in halves) / 2 for k in ("median_ms", "min_ms", "mean_ms")}
    bad = [k for k, v in losses.items() if not v.isfinite()]
    if bad:
        raise SystemExit(f"loss {', '.join(bad)} is not finite: the step is not what training does")
    flop, heavy, light = (sum(getattr(c, k) for c in counts) / 2 for k in ("flop", "heavy", "light"))
    cfg = run.cfg
    return {"size": case["size"], "image": f"{cfg.height}x{cfg.width}", "batch": cfg.batch, "phase": case["phase"],
            "precision": cfg.precision, "merge": cfg.merge_passes, "compile": case["compile"], "plain": case["plain"],
            "how": "plain" if case["plain"] else cfg.precision, "recipe": case["recipe"], "set": case["set"],
            "n_ids": K, "n": n, "warm_up": max(2, case["warm_up"]), **mean, "spread": max(h["spread"] for h in halves),
            "coin_ms": [h["median_ms"] for h in halves], "total_s": sum(times), "it_per_s": n / sum(times),
            "per_pair_ms": mean["median_ms"] / cfg.batch, "cpu_ms": 1e3 * used["cpu"],
            "system_share": used["system"] / used["cpu"], "page_faults": used["faults"], "losses": sorted(losses),
            "gflop": flop / 1e9, "must_gflop": must / 1e9, "heavy_gb": heavy / 1e9, "light_gb": light / 1e9,
            "gflop_s": flop / 1e6 / mean["median_ms"], "peak_mib": memory(case["device"])["peak"],
            "milestones": [cfg.warm_up], "n_iter_paper": 100_000, "device_memory": gpu}


def enough(asked: bool, compiled: bool, merged: bool) -> bool:
    """Of the compiled ones, and of the batches that nobody asked for, the merged are enough; the latter are not
    compiled."""
    if asked: return merged or not compiled
    return merged and not compiled


def cases(a: argparse.Namespace, device: str) -> list:
    "Every combination that was asked for."
    gpu = device == "cuda"
    if a.quick:
        a.sizes, a.precisions, a.merge = a.sizes or ["smoke"], a.precisions or ["float32"], a.merge or "on"
    sizes, precisions = a.sizes or (["paper"] if gpu else ["paper", "mini"]), a.precisions or ["float32", "bfloat16"]
    modes = {"on": [True], "off": [False], "both": [False, True], "graphs": ["reduce-overhead"],
             "all": [False, True, "reduce-overhead"]}
    compiled = modes[a.compile or ("all" if gpu and not a.quick else "off")]
    every = []
    for size in sizes:
        small = size != "paper"
        merge = a.merge or ("on" if small else "both")   # mini and smoke always merge
        merges = {"on": [True], "off": [False], "both": [False, True]}[merge]
        usual = (200, 20, 8) if gpu else (40, 6, None) if small else (6, 2, 4)
        repeat, warm_up = (given or (2 if a.quick else u) for given, u in zip((a.repeat, a.warm_up), usual))
        more = [] if a.quick else MORE_BATCHES.get((size, device), [])
        batches = a.batch or [None if small else usual[2], *more]
        for phase in a.phases:
            for p in precisions:
                every += [dict(size=size, phase=phase, precision=p, merge=m, compile=c, batch=b, recipe=a.recipe,
                               repeat=repeat, warm_up=warm_up, set=dict(a.set))
                          for b in batches for c in compiled for m in merges
                          if enough(b in (a.batch or batches[:1]), c, m or len(merges) == 1)]
        if a.plain == "on" or not a.plain and not a.quick:
            every += [dict(size=size, phase=phase, precision="float32", merge=merges[0], compile=False,
                           batch=batches[0], recipe=a.recipe, repeat=max(2, repeat // 2), warm_up=warm_up,
                           set={"checkpointing": False, **dict(a.set)}, plain=True) for phase in a.phases]
    return [{"plain": False, **c} for c in every]


def value(text: str) -> tuple:
    "For argparse: FIELD=VALUE of the configuration."
    name, sign, v = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text}: give FIELD=VALUE, a field of the configuration")
    for kind in (int, float):
        try:
            return name, kind(v)
        except ValueError:
            pass
    return name, {"True": True, "False": False}.get(v, v)


SAME = ("size", "batch", "phase", "merge", "compile")   # what rows agree in that are compared
NOTES = [
    "plain: float32, the usual layout, an operation for each norm, activation, doubling and padding, deep copies in "
    "place of frozen networks, freed memory given back; see plain.py",
    "measured on {device}",
    "GFLOP: counted in the step, its backward passes and D's double one included; needed: what the losses cannot do "
    "without.",
    "floor: the counted arithmetic at the measured peak, then all other operations' bytes at the measured copy rate; "
    "caches and fusion can go below its second part.",
    "CPU ms: processor time of a step, over all threads; system: the operating system's share of it, nearly all of it "
    "zeroing fresh memory.",
]


def compare(rows: list) -> list:
    "The ratios that the report names."
    pairs = [r for of in ("median_ms", "peak_mib") for p in ("float32", "bfloat16")
             for r in ratios(rows, "how", "plain", p, SAME, of)]
    pairs += ratios(rows, "how", "float32", "bfloat16", SAME)
    pairs += ratios(rows, "merge", False, True, ("size", "batch", "phase", "how", "compile"))
    for mode in (True, "reduce-overhead"):
        pairs += ratios(rows, "compile", False, mode, ("size", "batch", "phase", "how", "merge"))
    return pairs + ratios(rows, "how", "float32", "bfloat16", SAME, "peak_mib")


def predict(rows: list) -> list:
    "Milliseconds a step over a whole run of the paper, and hours for all of it, from the rows of both phases."
    keys, predicted = ("size", "batch", "how", "merge", "compile"), []
    full = {tuple(r[k] for k in keys): r for r in reversed(rows) if r["phase"] == "full"}
    for r in rows:
        other = full.get(tuple(r[k] for k in keys))
        if r["phase"] != "first" or not other: continue
        ms = r["milestones"][0] * r["mean_ms"] + (1 - r["milestones"][0]) * other["mean_ms"]
        predicted.append({k: r[k] for k in keys} | {"ms": ms, "hours_100k": ms * 1e5 / 3.6e6})
    return predicted


def finish(rows: list, peak: dict) -> dict:
    "Fractions of the peak, ratios, and the predicted time of the paper's 100,000 iterations."
    for r in rows:
        r["of_peak"] = r["gflop_s"] / r["peak_gflop_s"]
        # no step can take less than its arithmetic at the measured peak and the other operations' bytes at the measured
        # copy rate
        r["floor_ms"] = r["gflop"] / r["peak_gflop_s"] * 1e3 + r["light_gb"] / peak["copy_gb_s"] * 1e3
    fast = [r for r in rows if not r["plain"]]
    grown, predicted = growth(fast, "batch", ("size", "phase", "precision", "merge", "compile")), predict(rows)
    device = "the GPU"
    if not rows[0]["device_memory"]:
        device = "a CPU, with small counts: what a GPU needs is not in here, run the same command there"
    hours = {"title": "100,000 iterations, predicted from the mean step of both phases", "rows": predicted,
             "columns": {"size": "size", "batch": "batch", "how": "precision", "merge": "merged",
                         "compile": "compiled", "ms": "ms/it", "hours_100k": "hours"}}
    return {"ratios": compare(rows), "predicted": predicted, "growth": grown,
            "tables": growth_table(grown, "growth: time ~ batch ^ exponent") + [hours],
            "notes": [n.format(device=device) for n in NOTES]}


COLUMNS = {"size": "size", "image": "image", "batch": "batch", "phase": "phase", "how": "precision", "merge": "merged",
           "compile": "compiled", "median_ms": "ms", "min_ms": "least", "spread": "spread", "per_pair_ms": "ms/pair",
           "cpu_ms": "CPU ms", "system_share": "system", "it_per_s": "it/s", "gflop": "GFLOP", "must_gflop": "needed",
           "light_gb": "GB light", "floor_ms": "floor ms", "gflop_s": "GFLOP/s", "of_peak": "of peak",
           "peak_mib": "peak MiB"}


def main() -> int:
    p = options("steps", __doc__.partition("\n\n")[0].replace("\n", " "))
    p.add_argument("--sizes", nargs="+", choices=SIZES, help="default: paper and mini; on a GPU paper")
    p.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    p.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"))
    p.add_argument("--merge", choices=("on", "off", "both"),
                   help="one batch through E_a instead of several; default: both at the paper's size, on elsewhere")
    p.add_argument("--compile", choices=("on", "off", "both", "graphs", "all"),
                   help="torch.compile of E_a, E_s and G; graphs: the mode of it that replays CUDA graphs; default: "
                   "all on a GPU, off on a CPU")
    p.add_argument("--plain", choices=("on", "off"),
                   help="the same step written plainly, once per size and phase; default: on, in a quick run off")
    p.add_argument("--recipe", choices=("official", "paper"), default="official")
    p.add_argument("--batch", type=positive, nargs="+",
                   help="photos x_i in a step, and as many x_j; default at the paper's size: 4 on a CPU, 8 on a GPU, "
                   "the tier's own elsewhere, and one or two more to see time and memory grow")
    p.add_argument("--warm-up", type=positive, help="steps before the timed ones")
    p.add_argument("--set", type=value, nargs="+", default=[], metavar="FIELD=VALUE",
                   help="any field of the configuration")
    return benchmark("steps", __file__, p, cases, measure, finish, COLUMNS)


if __name__ == "__main__": sys.exit(main())
