"""What the benchmarks share: one clean process per case, timing, counting, the machine and its measured peak, tables
and JSON."""
import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))   # what is measured is the code beside this folder
PEAK_SECONDS = 0.4              # for each number of `peaks`

# torch is imported inside the functions that a case calls: the process that starts the cases stays small and quick.


def statistics(
    seconds: list,   # of equal pieces of work
) -> dict:
    "Median, least and largest in milliseconds; `spread` is (largest - least) / median."
    s = sorted(seconds)
    n = len(s)
    median = (s[(n - 1) // 2] + s[n // 2]) / 2
    return {"n": n, "median_ms": 1e3 * median, "min_ms": 1e3 * s[0], "max_ms": 1e3 * s[-1], "mean_ms": 1e3 * sum(s) / n,
            "spread": (s[-1] - s[0]) / median}


def timed(
    f: Callable[[int], object],   # called with 0, 1, 2, …
    n: int,                       # calls
    device: str = "cpu",          # on "cuda" by events: the host never waits between two calls
) -> list:
    "Seconds of each of n calls, one after the other."
    if device != "cuda":
        marks = [time.perf_counter()]
        for k in range(n):
            f(k)
            marks.append(time.perf_counter())
        return [b - a for a, b in zip(marks, marks[1:])]
    import torch
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for k in range(n):
        f(k)
        marks[k + 1].record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:])]


def memory(device: str = "cpu") -> dict:
    "MiB: `peak`, the most this process ever held, and `now`; on a GPU what torch allocated there."
    if device == "cuda":
        import torch
        return {"peak": torch.cuda.max_memory_allocated() / 2**20, "now": torch.cuda.memory_allocated() / 2**20}
    status = Path("/proc/self/status")
    # ru_maxrss survives exec on Linux, so it would start at the size of whoever started us; VmHWM does not
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines()
                     if line.startswith(("VmHWM", "VmRSS")))
        return {"peak": int(lines["VmHWM"].split()[0]) / 2**10, "now": int(lines["VmRSS"].split()[0]) / 2**10}
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"peak": peak, "now": peak}


def usage() -> dict:
    """So far in this process: seconds of processor time, the system's part of it, and pages that had to be fetched or
    zeroed. Hardly moved by other work on the machine."""
    try:
        import resource
    except ImportError:
        return {"cpu": sum(os.times()[:2]), "system": os.times()[1], "faults": 0}
    r = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": r.ru_utime + r.ru_stime, "system": r.ru_stime, "faults": r.ru_minflt}


def counting():
    """A context that counts, for whatever runs inside it, backward passes included: `flop`, two for each multiplication
    and addition of convolutions and matrix products (the registry of torch.utils.flop_counter.FlopCounterMode);
    `heavy`, bytes of these operations; `light`, bytes of all others; `first`, the flop of the first of them. Every
    operation is taken to read and write each of its tensors once: a cache saves some of that traffic, fusion more."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry
    aten = torch.ops.aten
    still = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view,
             aten.detach, aten.is_same_size}

    # an expanded tensor is read once
    def size(t): return min(t.numel() * t.element_size(), t.untyped_storage().nbytes())

    class Counting(TorchDispatchMode):
        flop = heavy = light = first = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out, packet = func(*args, **(kwargs or {})), func._overloadpacket
            if getattr(func, "is_view", False) or packet in still: return out
            traffic = sum(size(t) for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
            if packet in flop_registry:
                flop = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
                self.flop += flop
                self.heavy += traffic
                self.first = self.first or flop
            else:
                self.light += traffic
            return out

    return Counting()


def peaks(
    device: str,           # cpu or cuda
    dtypes: tuple = ("float32", "bfloat16"),
    seconds: float = PEAK_SECONDS,   # for each number
) -> dict:
    """The machine's best, measured here and now: GFLOP/s of a 3x3 convolution and of a square matrix product in each
    type, GB/s of a copy."""
    import torch
    import torch.nn.functional as F
    gpu = device == "cuda"

    def best(f):
        f()
        times, began = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - began < seconds:
            times += timed(lambda k: f(), 10 if gpu else 1, device)
        return min(times)

    n, (b, c, h, w) = (8192, (64, 256, 64, 32)) if gpu else (1024, (8, 128, 64, 32))
    rates = {}
    with torch.no_grad():
        for name in dtypes:
            dtype = getattr(torch, name)
            m = torch.randn(n, n, device=device).to(dtype)
            x = torch.randn(b, c, h, w, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
            kernel = torch.randn(c, c, 3, 3, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
            rates[name] = {"matmul": 2e-9 * n**3 / best(partial(torch.matmul, m, m)),
                           "conv": 2e-9 * b * c * c * 9 * h * w / best(partial(F.conv2d, x, kernel, padding=1))}
        source = torch.zeros(2**30 if gpu else 2**25, device=device)
        target = torch.empty_like(source)
        rates["copy_gb_s"] = 2e-9 * source.numel() * 4 / best(lambda: target.copy_(source))
    return rates


def best_rate(peak: dict, dtype: str) -> float:
    "GFLOP/s: the larger of convolution and matrix product."
    return max(peak[dtype].values())


def machine(device: str) -> dict:
    "Where the numbers come from: processor, memory, GPU, threads, versions, commit, and how busy the machine was."
    import torch

    from dgnet.core import code_version, fast_bfloat16
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                    if line.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    counts_pages = "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if counts_pages else None
    versions = {p: metadata.version(p) for p in ("torch", "torchvision", "numpy")}
    gpu = {"gpu": None}
    if device == "cuda":
        gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda,
               "gpu_gib": torch.cuda.get_device_properties(0).total_memory / 2**30}
    return {"system": platform.system(), "cpu": cpu, "architecture": platform.machine(), "cores": cores,
            "threads": torch.get_num_threads(), "ram_gib": ram, **gpu,
            "capability": torch.backends.cpu.get_cpu_capability(), "fast_bfloat16": fast_bfloat16(torch.device(device)),
            "device": device, "python": platform.python_version(), **versions, "code": code_version()}


def options(
    name: str,           # of the script, and of its JSON
    description: str,
) -> argparse.ArgumentParser:
    "The options that all benchmarks have."
    p = argparse.ArgumentParser(f"benchmarks/{name}.py", description=description)
    p.add_argument("--quick", action="store_true",
                   help="tiny sizes, seconds: does the script work? Its numbers mean little")
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    p.add_argument("--threads", type=positive, help="of torch; default: torch's own choice")
    p.add_argument("--repeat", type=positive, help="timed repetitions of each case; each script has its own default")
    p.add_argument("--out", type=Path, default=ROOT / "local" / "bench",
                   help="folder of the JSON; default: local/bench")
    p.add_argument("--case", help=argparse.SUPPRESS)
    return p


def positive(text: str) -> int:
    "For argparse: a whole number above 0."
    if text.isdigit() and int(text) > 0: return int(text)
    raise argparse.ArgumentTypeError(f"{text}: give a whole number above 0")


def pick_device(a: argparse.Namespace) -> str:
    "cpu or cuda."
    if a.device: return a.device
    import torch
    return "cuda" if torch.cuda.is_available() else "cpu"


def run_cases(
    script: str,          # file of the benchmark
    cases: list,          # one, or in a quick run all; anything JSON can hold
    threads: int | None,  # of torch
) -> list:
    """Measure cases in a Python of their own: alone, a case's memory is its own. Raises RuntimeError with that
    process's last words."""
    env = {**os.environ, **({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {})}
    process = subprocess.run([sys.executable, script, "--case", json.dumps(cases)], env=env, capture_output=True,
                             text=True)
    if process.returncode:
        words = (process.stderr.strip().splitlines() or ["no message; was it killed for its memory?"])[-1]
        raise RuntimeError(f"{' and '.join(map(describe, cases))}: ended with code {process.returncode}: {words}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def describe(case: dict) -> str:
    "A case in words."
    return ", ".join(f"{k} {v}" for k, v in case.items()
                     if k not in ("device", "threads", "quick") and v not in (None, {}, False))


def shown(value) -> str:
    "A number as a table shows it: three digits that count, and no exponent."
    if value is None: return "–"
    if not isinstance(value, float): return str(value)
    size = abs(value)
    if size >= 100: return f"{value:,.0f}"
    if size >= 10: return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.01 or not value else f"{value:.1g}"


def table(
    rows: list,      # of dicts
    columns: dict,   # key → heading
) -> str:
    "Rows as aligned text."
    lines = [list(columns.values())] + [[shown(r.get(k)) for k in columns] for r in rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    def is_number(v): return isinstance(v, (int, float)) and not isinstance(v, bool)
    numeric = [any(is_number(r.get(key)) for r in rows) for key in columns]
    def text(line):
        return "  ".join(v.rjust(w) if right else v.ljust(w) for v, w, right in zip(line, widths, numeric)).rstrip()
    return "\n".join(map(text, lines))


def ratios(
    rows: list,
    what: str,           # column with the two values to compare
    over: str,           # the value that stands above
    under: str,          # the one that stands below
    same: tuple,         # columns that must agree
    of: str = "median_ms",
) -> list:
    "over / under of every pair of rows that differ in `what` alone."
    def key(r): return tuple(r.get(k) for k in same)
    below = {key(r): r for r in rows if r.get(what) == under}
    return [{**dict(zip(same, key(r))), "ratio": f"{over} / {under}", "of": of, "value": r[of] / below[key(r)][of]}
            for r in rows if r.get(what) == over and key(r) in below and below[key(r)][of]]


def growth(
    rows: list,
    size: str,          # column with the amount of work
    same: tuple,        # columns that must agree
) -> list:
    """How the time grows with the work, for rows that differ in it: the exponent in time ~ work ^ exponent (least
    squares on logarithms; 1 is in proportion), and the points."""
    kinds, slopes = {}, []
    for r in rows:
        kinds.setdefault(tuple(r.get(k) for k in same), []).append((r[size], r["median_ms"]))
    for key, points in kinds.items():
        work, ms = zip(*sorted(points))
        if work[0] == work[-1]: continue
        x, y = ([math.log(v) - sum(map(math.log, vs)) / len(vs) for v in vs] for vs in (work, ms))
        slopes.append({**dict(zip(same, key)), "work_is": size, "from": work[0], "to": work[-1],
                       "exponent": sum(a * b for a, b in zip(x, y)) / sum(a * a for a in x),
                       "points": list(zip(work, ms))})
    return slopes


def growth_table(
    slopes: list,    # from `growth`
    title: str,
) -> list:
    "The table that `report` prints of it; none when nothing was measured at two sizes."
    if not slopes: return []
    columns = {k: "of" if k == "work_is" else k for k in slopes[0] if k != "points"}
    return [{"title": title, "rows": slopes, "columns": columns}]


def measured_case(
    case: dict,
    measure: Callable[[dict], dict],   # case → row
) -> dict:
    "In the process of its own: the row, the machine, and the machine's peak just after."
    import torch
    if case["threads"]: torch.set_num_threads(case["threads"])
    device = case["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    row = measure(case)
    peak = peaks(device, seconds=PEAK_SECONDS / 8 if case["quick"] else PEAK_SECONDS)
    return {"row": {**row, "peak_gflop_s": best_rate(peak, row.get("precision", "float32"))},
            "machine": machine(device), "peak": peak, "load": load}


def best_of(measured: list) -> dict:
    "The largest of each number of several peaks."
    first = measured[0]
    best = {k: {kind: max(p[k][kind] for p in measured) for kind in v} for k, v in first.items() if isinstance(v, dict)}
    return best | {"copy_gb_s": max(p["copy_gb_s"] for p in measured)}


def benchmark(
    name: str,
    script: str,                            # its file
    parser: argparse.ArgumentParser,        # from `options`
    cases: Callable[[argparse.Namespace, str], list],   # arguments, device → cases
    measure: Callable[[dict], dict],        # case → row; runs in a process of its own
    # rows, peak → more for the JSON, among it `ratios`; may add columns to the rows
    finish: Callable[[list, dict], dict],
    columns: dict,                          # of the printed table
) -> int:
    """The whole script: every case in a process of its own, a table, a JSON file. Exit code 2 and one line when
    something is wrong."""
    a = parser.parse_args()
    if a.case:
        print(json.dumps([measured_case(case, measure) for case in json.loads(a.case)]))
        return 0
    try:
        began, device = time.perf_counter(), pick_device(a)
        if a.out.exists() and not a.out.is_dir():
            raise ValueError(f"--out {a.out}: a file is there; give a folder")
        a.out.mkdir(parents=True, exist_ok=True)
        todo, results = [{"device": device, "threads": a.threads, "quick": a.quick, **c} for c in cases(a, device)], []
        # a quick run has one process for all: its memory is not that of a case
        for part in ([todo] if a.quick else [[c] for c in todo]):
            print(f"{name} {len(results) + 1}/{len(todo)}: {' and '.join(map(describe, part))}", file=sys.stderr,
                  flush=True)
            results += run_cases(script, part, a.threads)
        return report(name, a, columns, results, time.perf_counter() - began, finish)
    except (RuntimeError, ValueError, OSError) as e:
        print(f"{name}: {e}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 2


def report(
    name: str,
    a: argparse.Namespace,
    columns: dict,                          # of the printed table
    results: list,                          # of the cases, from `measured_case`
    seconds: float,                         # that all of them took
    finish: Callable[[list, dict], dict],   # as in `benchmark`
) -> int:
    "Print and write what the cases found."
    rows, peak, computer = [r["row"] for r in results], best_of([r["peak"] for r in results]), results[0]["machine"]
    loads = [r["load"] for r in results if r["load"] is not None]
    more = finish(rows, peak)
    words = [v for v in sys.argv[1:] if v not in ("--out", str(a.out))]
    result = {"name": name, "quick": a.quick, "date": time.strftime("%Y-%m-%d %H:%M"), "seconds": seconds,
              "machine": computer, "peak": peak, "load": loads, "command": " ".join([f"benchmarks/{name}.py", *words]),
              "rows": rows, "ratios": [], **more}
    if a.quick:
        result["notes"] = [*result.get("notes", []), "quick: all cases in one process, so peak memory is that of all "
                           "of them; tiny sizes, so the numbers mean little"]
    path = a.out / f"{name}.json"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(machine_line(computer, peak))
    if loads and max(loads) > 0.7 + computer["threads"]:
        print(f"note: the machine had other work (load up to {max(loads):.1f}, of it {computer['threads']} ours): "
              "compare rows with care")
    print(table(rows, columns))
    for extra in result.get("tables", []):
        print(f"\n{extra['title']}\n{table(extra['rows'], extra['columns'])}")
    if result["ratios"]:
        keys = [k for k in result["ratios"][0] if k != "value"]
        print("\nratios in this run\n" + table(result["ratios"], {**{k: k for k in keys}, "value": "value"}))
    for line in result.get("notes", []): print(line)
    print(f"{seconds:.0f} s; written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return 0


def machine_line(computer: dict, peak: dict) -> str:
    "The machine in one line, its peak in another."
    gpu = f"{computer['gpu']}, CUDA {computer['cuda']}, " if computer["gpu"] else ""
    rates = ", ".join(f"{d} {p['conv']:,.0f} (convolution) {p['matmul']:,.0f} (matrix product)" for d, p in peak.items()
                      if isinstance(p, dict))
    return ("{gpu}{cpu}, {cores} cores, {threads} threads, {system}; Python {python}, torch {torch}, numpy {numpy}, "
            "dgnet {code}".format(**computer | {"gpu": gpu})
            + f"\nmeasured peak, GFLOP/s: {rates}; copy {peak['copy_gb_s']:.0f} GB/s")
