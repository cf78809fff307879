"""Where the time of a training step goes: by kind of operation, by pass and network (forward and backward), by single
operation, and by the shapes of its tensors; and which passes copy.

A backward operation is told to belong to the pass whose forward operation it differentiates (by autograd's sequence
numbers); what the optimisers do, what accumulates gradients and what draws the batch stand by themselves. The profiler
costs time of its own: shares count, not milliseconds."""
import argparse
import re
import sys
from collections import defaultdict
from itertools import product

from common import benchmark, options, positive
from steps import PHASES, SIZES, Training, value

GROUPS = (   # of operations; the first pattern that is found in the name decides
    ("convolution backward", r"convolution_backward|conv\w*_backward|wgrad|dgrad"),
    ("convolution", r"conv|implicit_gemm|cudnn_convolution"),
    ("matrix product", r"addmm|aten::mm|bmm|matmul|linear|gemm"),
    ("norm", r"batch_norm|instance_norm|layer_norm|var_mean|std_mean|var_backward|std_backward|rsqrt"),
    ("padding", r"pad\w*\d|reflection"),
    ("activation", r"leaky_relu|relu|threshold|softplus|softmax"),
    ("pooling and upsampling", r"pool|upsample"),
    ("casts and copies", r"copy|_to\b|to_copy|contiguous|clone|aten::cat|roll|flip|gather|index|stack|split"),
    ("reduction", r"sum|mean|norm|abs|l1_loss|nll|kl_div|max|min"),
    ("elementwise", r"add|sub|mul|div|sqrt|pow|neg|exp|log|where|lerp|sign|fill|zero|bernoulli|dropout"
                    r"|lt|gt|ge|le|eq|ne|clamp"),
)
PREFIX = "dgnet: "   # marks our own ranges in the trace


def group(name: str) -> str:
    "The kind of an operation."
    return next((g for g, pattern in GROUPS if re.search(pattern, name)), "other")


def labelled(f, label: str):
    "A function whose calls are marked in the trace."
    from torch.profiler import record_function
    def call(*args, **kw):
        with record_function(PREFIX + label):
            return f(*args, **kw)
    return call


def mark(run: Training) -> None:
    "Mark the parts of a step and every pass through a network, from outside: the package stays as it is."
    import dgnet.train as train
    for name, label in {"draw_batch": "draw the batch", "batch_to": "move the batch",
                        "decode_batch": "encode and decode", "d_losses": "D's loss", "r1_penalty": "D's R1 penalty",
                        "image_losses": "losses of images", "identity_losses": "L^s_id",
                        "code_losses": "losses of codes", "feed_losses": "feed", "update": "step"}.items():
        setattr(train, name, labelled(getattr(train, name), label))
    m = run.state.model
    for name, net in {"E_a": m.E_a, "E_s": m.E_s, "G": m.G, "D": m.D, "teacher": run.teacher}.items():
        net.forward = labelled(net.forward, name)


def own_time(e, gpu: bool) -> float:
    "Microseconds of an event itself, without what it calls."
    return e.self_device_time_total if gpu else e.self_cpu_time_total


class Trace:
    "The events of some steps, each with the pass it belongs to."
    def __init__(self, events: list, gpu: bool):
        self.events = [e for e in events if own_time(e, gpu) > 0 or e.sequence_nr >= 0]
        self.gpu = gpu
        self.labels = {}
        sources = {}   # sequence number → label of the forward operation
        for e in events:
            if e.scope != 1 and e.sequence_nr >= 0 and (label := self.enclosing(e)):
                sources.setdefault(e.sequence_nr, label)
        for e in events:
            self.labels[id(e)] = self.label(e, sources)

    @staticmethod
    def parents(e):
        while e is not None:
            yield e
            e = e.cpu_parent

    def enclosing(self, e) -> str | None:
        """Part and network of the ranges around an event: `L^s_id: E_a`. A range inside the backward pass counts too
        (the penalty's)."""
        labels = []
        for p in self.parents(e):
            if p.scope == 1 and p.name.startswith("autograd::engine") and not labels: return None
            if p.name.startswith(PREFIX): labels.append(p.name[len(PREFIX):])
        if not labels or labels == ["step"]: return None
        return ": ".join(dict.fromkeys(v for v in reversed(labels) if v != "step"))

    def label(self, e, sources: dict) -> str:
        for p in self.parents(e):
            if p.name.startswith("Optimizer.step"):
                return f"optimiser {p.name.split('#')[1].split('.')[0]}"
            if p.name.startswith("Optimizer.zero_grad"): return "zero_grad"
            if "AccumulateGrad" in p.name: return "accumulate gradients"
            if p.scope == 1 and p.sequence_nr in sources:
                inside = any(q.name == PREFIX + "D's R1 penalty" for q in self.parents(p))
                return "D's R1 penalty: its gradient" if inside else f"{sources[p.sequence_nr]} (backward)"
        return self.enclosing(e) or "rest"

    def shares(self, key, n: int) -> list:
        "Milliseconds per step and share of all, largest first."
        times, count = defaultdict(float), defaultdict(int)
        for e in self.events:
            if (t := own_time(e, self.gpu)) > 0:
                times[key(e)] += t
                count[key(e)] += 1
        total = sum(times.values())
        return [{"what": str(k), "ms": v / 1e3 / n, "share": v / total, "calls": count[k] / n}
                for k, v in sorted(times.items(), key=lambda kv: -kv[1])]


def measure(case: dict) -> dict:
    "Shares of one kind of step."
    import time

    import torch
    from torch.profiler import ProfilerActivity, profile
    run = Training(case)
    gpu, n = case["device"] == "cuda", 2 * -(-case["repeat"] // 2)
    mark(run)
    for k in range(2): run.step(k)
    if gpu: torch.cuda.synchronize()
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu, record_shapes=True) as p:
        for k in range(n): run.step(k)
        if gpu: torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / n
    trace = Trace(p.events(), gpu)
    def op(e):
        return e.name.removeprefix("aten::") if not e.name.startswith(PREFIX) else "Python between operations"
    def shape(e):
        return f"{op(e)} {' '.join('x'.join(map(str, v)) for v in e.input_shapes[:3] if v)}"
    def kind(e):
        label = trace.labels[id(e)]
        between = e.name.startswith((PREFIX, "Optimizer", "autograd::", "torch::")) or "evaluate_function" in e.name
        if label.startswith("optimiser"): return "optimisers"
        return "Python and autograd between operations" if between else group(e.name)
    def copier(e):
        if kind(e) != "casts and copies": return "all else"
        return f"{e.name.removeprefix('aten::')} in {trace.labels[id(e)]}"
    cfg = run.cfg
    return {"size": case["size"], "image": f"{cfg.height}x{cfg.width}", "batch": cfg.batch, "phase": case["phase"],
            "precision": cfg.precision, "merge": cfg.merge_passes, "n": n, "median_ms": 1e3 * seconds,
            "by_kind": trace.shares(kind, n), "by_pass": trace.shares(lambda e: trace.labels[id(e)], n),
            "by_network": trace.shares(lambda e: network(trace.labels[id(e)]), n),
            "by_operation": trace.shares(op, n)[:25], "by_shape": trace.shares(shape, n)[:40],
            "copies": trace.shares(copier, n)[:12]}


def network(label: str) -> str:
    "The network of a label, forward or backward."
    base = label.removesuffix(" (backward)")
    if base.startswith("D's R1 penalty"):
        return "D's R1 penalty" + (" (backward)" if label.endswith(")") else "")
    if ": " not in base:
        return label if label.startswith(("optimiser", "accumulate", "zero")) else "losses, batch, rest"
    return base.rsplit(": ", 1)[1] + (" (backward)" if label.endswith("(backward)") else " (forward)")


def cases(a: argparse.Namespace, device: str) -> list:
    gpu = device == "cuda"
    usual = ["paper"] if gpu else ["paper", "mini"]
    sizes = a.sizes or (["smoke"] if a.quick else usual)
    precisions = a.precisions or (["float32"] if a.quick else ["float32", "bfloat16"])
    phases = a.phases or (["full"] if a.quick else PHASES)
    def case(size, phase, precision):
        paper = size == "paper"
        batch = (8 if gpu else 4) if paper else None   # None: the tier's own
        repeat = 2 if a.quick or paper and not gpu else 10
        return dict(size=size, phase=phase, precision=precision, merge=not paper or a.merge, batch=a.batch or batch,
                    recipe=a.recipe, set=dict(a.set), repeat=a.repeat or repeat)
    return [case(*c) for c in product(sizes, phases, precisions)]


def finish(rows: list, peak: dict) -> dict:
    "The tables of shares, one after the other."
    tables, share = [], {"what": "", "ms": "ms", "share": "share", "calls": "calls"}
    for r in rows:
        conv = sum(s["share"] for s in r["by_kind"] if s["what"].startswith("convolution"))
        r["convolutions"], r["optimisers"] = conv, sum(s["share"] for s in r["by_kind"] if s["what"] == "optimisers")
        r["norms"] = sum(s["share"] for s in r["by_kind"] if s["what"] == "norm")
        for by, most in (("by_kind", 12), ("by_network", 16), ("by_pass", 24), ("by_operation", 12), ("by_shape", 16),
                         ("copies", 10)):
            tables.append({"title": f"{r['size']}, {r['phase']} phase, {r['precision']}: {by.replace('_', ' ')}",
                           "rows": r[by][:most], "columns": share})
    return {"tables": tables,
            "notes": ["ms: with the profiler on; shares of the time that the profiler saw in operations"]}


COLUMNS = {"size": "size", "image": "image", "batch": "batch", "phase": "phase", "precision": "precision",
           "merge": "merged", "n": "steps", "median_ms": "ms (profiled)", "convolutions": "convolutions",
           "norms": "norms", "optimisers": "optimisers"}


def main() -> int:
    p = options("profile_step", __doc__.partition("\n\n")[0].replace("\n", " "))
    p.add_argument("--sizes", nargs="+", choices=SIZES, help="default: paper and mini; on a GPU paper")
    p.add_argument("--phases", nargs="+", choices=PHASES)
    p.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"))
    p.add_argument("--merge", action="store_true",
                   help="one batch through E_a instead of several, at the paper's size too")
    p.add_argument("--recipe", choices=("official", "paper"), default="official")
    p.add_argument("--batch", type=positive,
                   help="photos x_i in a step; default at the paper's size: 4 on a CPU, 8 on a GPU")
    p.add_argument("--set", type=value, nargs="+", default=[], metavar="FIELD=VALUE",
                   help="any field of the configuration")
    return benchmark("profile_step", __file__, p, cases, measure, finish, COLUMNS)


if __name__ == "__main__": sys.exit(main())
