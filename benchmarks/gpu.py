"""The `full` tier, and real Market-1501, on a GPU that is at hand for minutes or for good: one command, in stages, each of which goes on where it was stopped.

On a machine of one's own, with the project's environment (no limits, everything is written where it belongs):

    .venv/bin/python benchmarks/gpu.py run --market /data/Market-1501-v15.09.15

On a machine that is lent by the minute and has neither this environment nor a package index:

    python benchmarks/gpu.py wheels                       # at home: the missing packages, for Python 3.12 on Linux, into local/wheels
    python benchmarks/gpu.py run --minutes 9 --budget 22 --code COMMIT --out $OUT      # there, as often as needed; local/wheels must have come along
    python benchmarks/gpu.py unpack FOLDER                # at home: what came back, into figures/ and local/

`run` does, in this order: **tests** (those marked `cuda`: the two devices agree, no step waits, bfloat16, compiled), **runs** (with `--budget` the schedule is first scaled
to the speed of the machine; then every missing training, and after each of them every notebook that has all it needs), **market** (Table 3 on real photos with a learning
curve; numbers only), **bench** (`make bench`), and if asked for **suite** (all library notebooks and tests). With `--minutes` it stops in time: a training stores its state and goes on
from it in the next call. After every stage it packs what must come home into `--out`: at most 8 files of at most 16 MiB. Exit code: 0 all done, 3 something is left
(call it again), 1 something failed, 2 the request was wrong, 130 stopped by hand."""
import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

CODE = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ["DGNET_ROOT"]).expanduser().resolve() if os.environ.get("DGNET_ROOT") else CODE
HERE = ROOT / "local" / "gpu"          # status, logs, junit files
STAGES = ("tests", "runs", "market", "bench", "suite")
LABELS = ("fig1", "table2", "table3", "fig4", "fig5", "fig6", "table1_", "fig8")   # the most telling first
WORLDS = ("market", "duke", "msmt17")
BENCHES = {"steps": ("--merge", "on", "--compile", "off"), "steps compiled": ("--merge", "on", "--compile", "on",
                                                                              "--plain", "off"),
           "steps graphs": ("--merge", "on", "--compile", "graphs", "--plain", "off"), "throughput": (),
           "evaluation": (), "profile_step": ()}
FILES, MIB = 8, 2**20                  # that come home, and of at most 16 MiB each
NEEDED = ("jaxtyping", "beartype", "safetensors", "filelock", "papermill", "nbformat", "ipykernel", "tabulate",
          "torchmetrics", "torch_fidelity", "pandas", "seaborn", "pytest", "hypothesis")
WANTED = ("papermill", "ipykernel", "ipywidgets", "nbdev", "execnb", "ghapi", "fastcore", "torch-fidelity", "beartype",
          "jaxtyping", "tabulate", "filelock", "safetensors", "tqdm", "seaborn", "pandas", "torchmetrics", "matplotlib",
          "pytest", "hypothesis")
# what the lent machine has of its own, as it was last looked at: these are not carried, whatever their version
THERE = set("""absl-py accelerate aiohttp annotated-doc anyio attrs build certifi charset-normalizer click cloudpickle colorama contourpy coverage cycler cython einops filelock fonttools fsspec h11
 httpcore httpx huggingface-hub humanize hypothesis idna imageio iniconfig jaxtyping jinja2 joblib kiwisolver lazy-loader lightning-utilities lxml markdown markdown-it-py markupsafe matplotlib mdurl
 mpmath msgpack narwhals networkx ninja numba numpy packaging pandas pathspec pillow pip pluggy prometheus-client protobuf psutil pyarrow pygments pyparsing pytest pytest-timeout python-dateutil pyyaml
 regex requests rich safetensors scikit-image scikit-learn scipy seaborn setuptools six sortedcontainers sympy tabulate threadpoolctl tifffile timm toolz torch torchaudio torchmetrics torchvision tqdm
 triton typer typing-extensions typing-inspection urllib3 wadler-lindig wheel wrapt xxhash yarl zipp""".split())
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 26, 27, 28, 31, 34, 35)] + ["manylinux2014_x86_64",
                                                                                     "manylinux1_x86_64"]


def say(text: str) -> None: print(text, flush=True)

# --- wheels: at home -------------------------------------------------------------------------------------------------


def target(folder: Path) -> list:
    "Options of pip for the machine there."
    return ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp",
            *(v for p in PLATFORMS for v in ("--platform", p)), "-qqq", "--disable-pip-version-check"]


def wheels(a: argparse.Namespace) -> int:
    """Collect what the machine there lacks. The set is what pip would install for Python 3.12, under the pins of
    constraints.txt, less what is there."""
    a.folder.mkdir(parents=True, exist_ok=True)
    pip, plan = [sys.executable, "-m", "pip"], a.folder / "plan.json"
    pins = a.folder / "pins.txt"
    lines = [l.split(";")[0].strip() for l in (CODE / "constraints.txt").read_text(encoding="utf-8").splitlines() if l
             and not l.startswith("#")]
    pins.write_text("\n".join(l for l in lines if l.split("==")[0] not in ("numpy", "torch", "torchvision")) + "\n",
                    encoding="utf-8")
    try:
        subprocess.run([*pip, "install", "--dry-run", "--ignore-installed", "--report", plan, "--target",
                        a.folder / "x", "-c", pins, *target(a.folder), *(w for w in WANTED)], check=True)
        found = {p["metadata"]["name"].lower().replace("_", "-"): p["metadata"]["version"]
                 for p in json.loads(plan.read_text(encoding="utf-8"))["install"]}
        lacking = sorted(f"{n}=={v}" for n, v in found.items() if n not in THERE
                         and not n.startswith(("nvidia-", "cuda-")))
        for old in a.folder.glob("*.whl"): old.unlink()
        subprocess.run([*pip, "download", "--no-deps", "-d", a.folder, *target(a.folder), *lacking], check=True)
    except subprocess.CalledProcessError as e:
        raise RuntimeError(f"pip ended with code {e.returncode}; its message stands above. It needs a package index, "
                           "and a version that can plan for another Python (23.1 or newer)") from None
    finally:
        for f in (plan, pins): f.unlink(missing_ok=True)
    files = sorted(a.folder.glob("*.whl"))
    size = sum(f.stat().st_size for f in files) / MIB
    say(f"{len(files)} wheels, {size:.1f} MiB, in {a.folder}")
    if size > a.limit:
        raise ValueError(f"{size:.1f} MiB of wheels, more than --limit {a.limit:g}: the largest is "
                         f"{max(files, key=lambda f: f.stat().st_size).name}")
    return 0


def prepare(folder: Path) -> dict:
    """The environment of everything that is started: the code, and packages from wheels where this Python lacks some.
    Raises RuntimeError naming what is lacking."""
    site = ROOT / "local" / "site"
    sys.path.insert(1, str(CODE))
    def lacking():
        importlib.invalidate_caches()
        return [m for m in NEEDED if importlib.util.find_spec(m) is None]
    if site.is_dir(): sys.path.insert(0, str(site))
    if lacking() and (found := sorted(folder.glob("*.whl"))):
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                               "--no-cache-dir", "--upgrade", "--disable-pip-version-check", "--target", site, *found],
                              capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{folder}: pip could not install the wheels: {done.stderr.strip()[-300:]}")
        if str(site) not in sys.path: sys.path.insert(0, str(site))
    if left := lacking():
        raise RuntimeError(f"this Python lacks {', '.join(left)}. Install the project's environment, or carry wheels: "
                           f"`python benchmarks/gpu.py wheels` at home, then take {folder} along")
    paths = [str(CODE), *([str(site)] if site.is_dir() else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg", "TQDM_DISABLE": "1",
                         "PYTHONUNBUFFERED": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

# --- a call
# --------------------------------------------------------------------------------------------------------------


class Call:
    "One call of `run`: its deadline, its children, its status file."
    def __init__(self, a: argparse.Namespace, env: dict):
        self.a, self.env, self.began = a, env, a.began
        whole = 60 * a.minutes if a.minutes else float("inf")
        self.end = self.began + whole - (min(25, 0.1 * whole) if a.minutes else 0)   # packing takes a while
        self.grace = min(20, 0.1 * whole) if a.minutes else 0   # a step and a checkpoint after the stop
        self.path, self.children = HERE / "status.json", []
        HERE.mkdir(parents=True, exist_ok=True)
        self.status = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {"tier": a.tier,
                                                                                                    "device": a.device,
                                                                                                    "calls": [],
                                                                                                    "stages": {}}
        if self.status["tier"] != a.tier:
            raise ValueError(f"{self.path}: begun at tier {self.status['tier']}, not {a.tier}. Delete {HERE}, or ask "
                             "for that tier")
        self.status["calls"].append({"began": time.strftime("%Y-%m-%d %H:%M:%S"), "minutes": a.minutes, "seconds": 0.0})

    @property
    def left(self) -> float:
        return self.end - time.time()

    def labels(self, key: str) -> list:
        return ["table3"] if key == "schedule_market" else list(self.a.only)

    def write(self) -> None:
        self.status["calls"][-1]["seconds"] = round(time.time() - self.began, 1)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.status, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def start(self, name: str, command: list, **env) -> subprocess.Popen:
        "A child in a process group of its own; what it says goes to a log."
        log = (HERE / f"{name}.log").open("a", encoding="utf-8")
        log.write(f"── {time.strftime('%H:%M:%S')} {' '.join(map(str, command))}\n")
        log.flush()
        p = subprocess.Popen([str(c) for c in command], cwd=ROOT, env=self.env | env, stdin=subprocess.DEVNULL,
                             stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        log.close()
        self.children.append(p)
        return p

    def stop(self, p: subprocess.Popen, seconds: float) -> None:
        "Ask a child and all it started to end, then make them."
        for how, wait in ((signal.SIGINT, seconds), (signal.SIGKILL, 10)):
            if p.poll() is not None and how == signal.SIGINT: return
            try:
                os.killpg(p.pid, how)
            except ProcessLookupError:
                return
            try:
                p.wait(wait)
                return
            except subprocess.TimeoutExpired:
                pass

    def run(self, name: str, command: list, **env) -> int | None:
        "Run a child to its end or to the deadline; its exit code, None when it had to be stopped."
        stop = {"DGNET_STOP": str(self.end - self.grace)} if self.a.minutes else {}
        p = self.start(name, command, **stop, **env)
        try:
            return p.wait(max(self.left, 0.1) if self.a.minutes else None)
        except subprocess.TimeoutExpired:
            self.stop(p, 3)
            return None

    def close(self) -> None:
        for p in self.children: self.stop(p, 1)


def log_end(name: str, n: int = 400) -> str:
    "The last words of a log."
    path = HERE / f"{name}.log"
    return path.read_text(encoding="utf-8", errors="replace").strip()[-n:] if path.exists() else ""


def stage_tests(call: Call) -> dict:
    "What needs a GPU; on a CPU what simulates it."
    which = [CODE / "tests", "-m", "cuda"] if call.a.device == "cuda" else [CODE / "tests" / "test_device.py"]
    code = call.run("tests", [sys.executable, "-m", "pytest", *which, "-p", "no:cacheprovider",
                              f"--junitxml={HERE / 'junit_cuda.xml'}", "--rootdir", CODE, "-c",
                              CODE / "pyproject.toml"])
    said = log_end("tests").splitlines()[-1:]
    return {"state": {None: "left", 0: "done"}.get(code, "failed"), "said": said[0] if said else ""}


def scaled(call: Call, key: str, budget: float | None, paths: dict) -> dict:
    "The fields of the schedule that the budget allows, measured and decided once."
    if key in call.status: return call.status[key]["set"]
    if not budget:
        call.status[key] = {"set": {}, "said": "the tier's own schedule"}
        return {}
    out = HERE / f"{key}.json"
    code = call.run(key, [sys.executable, __file__, "_schedule",
                          json.dumps({"tier": call.a.tier, "labels": call.labels(key), "paths": paths, "budget": 60
                                      * budget, "out": str(out), "share": call.a.share})])
    if code is None: return None
    if code: raise RuntimeError(f"measuring the speed failed: {log_end(key)}")
    call.status[key] = json.loads(out.read_text(encoding="utf-8"))
    call.write()
    say(call.status[key]["said"])
    return call.status[key]["set"]


def stage_runs(call: Call, name: str = "runs", paths: dict = {}, budget: float | None = None, curve: int = 0) -> dict:
    "Trainings and notebooks in a process of their own; what it did stands in a file, line by line."
    fields = scaled(call, f"schedule_{name}", budget, paths)
    if fields is None: return {"state": "left", "said": "the speed is not measured yet"}
    events = HERE / f"{name}.jsonl"
    task = {"tier": call.a.tier, "labels": call.labels(f"schedule_{name}"), "paths": paths, "events": str(events)}
    more = {"DGNET_SET": json.dumps(fields)} | ({"DGNET_CURVE": str(curve)} if curve else {})
    code = call.run(name, [sys.executable, __file__, "_runs", json.dumps(task)], **more)
    seen = [json.loads(l) for l in events.read_text(encoding="utf-8").splitlines()] if events.exists() else []
    made, trained, failed = ([e[k] for e in seen if k in e] for k in ("notebook", "trained", "failed"))
    last = {e["failed"] for e in seen if "failed" in e} - {e.get("notebook") for e in seen} - {e.get("trained")
                                                                                               for e in seen}
    state = "left" if code in (None, 3, 130) else "failed" if code or last else "done"
    words = "" if code in (0, 1, 3, 130, None) else f"; ended with code {code}: {log_end(name)}"
    return {"state": state, "trained": trained, "notebooks": made, "failed": sorted(last),
            "said": f"{len(set(trained))} runs, {len(set(made))} notebooks{words}"}


def stage_market(call: Call) -> dict:
    if not call.a.market: return {"state": "skipped", "said": "no --market"}
    return stage_runs(call, "market", {"market": str(call.a.market)}, call.a.market_budget, call.a.curve)


def stage_bench(call: Call) -> dict:
    "The scripts of `make bench`, one after the other; one that was stopped is begun again."
    known = call.status["stages"].get("bench", {}).get("scripts", {})
    for name, given in BENCHES.items():
        if known.get(name) == "done": continue
        if call.left < (60 if call.a.device == "cuda" else 0): break
        script, _, kind = name.partition(" ")
        out = ROOT / "local" / "bench" / f"{call.a.device}{'-' + kind if kind else ''}"
        given = ("--compile", "off") if call.a.tier == "smoke" and script == "steps" else given
        code = call.run("bench", [sys.executable, CODE / "benchmarks" / f"{script}.py", "--device", call.a.device,
                                  "--out", out, *given, *(["--quick"] if call.a.tier == "smoke" else [])])
        known[name] = {None: "left", 0: "done"}.get(code, "failed")
        if code is None: break
    left = [n for n in BENCHES if known.get(n) not in ("done", "failed")]
    return {"state": "left" if left else "failed" if "failed" in known.values() else "done", "scripts": known,
            "said": ", ".join(f"{k} {v}" for k, v in known.items())}


def stage_suite(call: Call) -> dict:
    "Every library notebook, flagged cells included, and every test."
    code = (call.run("suite", [sys.executable, "-c", "from nbdev.test import nbdev_test; "
                               "nbdev_test(skip_file_re='^(_|fig|table)', flags='slow cuda', do_print=True, "
                               "n_workers=8)"], IN_TEST="1"))
    if code is None: return {"state": "left", "said": "the library notebooks took longer"}
    tests = call.run("suite", [sys.executable, "-m", "pytest", CODE / "tests", "-p", "no:cacheprovider",
                               f"--junitxml={HERE / 'junit_all.xml'}", "--rootdir", CODE, "-c",
                               CODE / "pyproject.toml"])
    return {"state": "left" if tests is None else "failed" if code or tests else "done",
            "said": f"notebooks {'failed' if code else 'passed'}, {(log_end('suite').splitlines() or [''])[-1]}"}


def run(a: argparse.Namespace) -> int:
    "Every stage that was asked for and is not done."
    a.began = time.time()
    if a.market and not a.market.is_dir(): raise ValueError(f"--market {a.market}: is not a folder")
    if a.market:
        a.market = a.market.resolve()
    lost = [o for o in a.only if not any(p.stem.startswith(o) for p in (CODE / "nbs").glob("[ft]*.ipynb"))]
    if lost: raise ValueError(f"--only {lost[0]}: no notebook starts with {lost[0]}")
    env = prepare(a.wheels) | {"DGNET_DEVICE": a.device, "DGNET_ROOT": str(ROOT)} | ({"DGNET_CODE": a.code} if a.code
                                                                                     else {})
    os.environ.update(env)
    if a.device == "cuda":
        import torch
        if not torch.cuda.is_available():
            raise RuntimeError("--device cuda: torch sees no GPU here; --device cpu tries the script out")
    call = Call(a, env)
    stages, do = call.status["stages"], {"tests": stage_tests, "runs": lambda c: stage_runs(c, budget=a.budget),
                                         "market": stage_market, "bench": stage_bench, "suite": stage_suite}
    try:
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        # the worlds are drawn on the processor while the GPU is tested and trains
        if "runs" in a.stages and stages.get("runs", {}).get("state") != "done":
            call.start("render", [sys.executable, __file__, "_render", json.dumps({"tier": a.tier})],
                       OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 2) - 2)))
        for name in a.stages:
            if stages.get(name, {}).get("state") == "done": continue
            if call.left < a.least:
                stages[name] = {**stages.get(name, {}), "state": "left"}
                continue
            say(f"── {name}")
            began, before = time.time(), stages.get(name, {}).get("seconds", 0.0)
            stages[name] = {**do[name](call), "seconds": round(before + time.time() - began, 1)}
            say(f"── {name}: {stages[name]['state']}, {stages[name].get('said', '')}, {time.time() - began:.0f} s")
            call.write()
            pack(call, a.out)
    finally:
        call.close()
        call.write()
        pack(call, a.out)
    states = [stages[n]["state"] for n in a.stages]
    say("\n".join(f"{n:8s} {stages[n]['state']:8s} {stages[n].get('seconds', 0):6.0f} s  {stages[n].get('said', '')}"
                  for n in a.stages))
    say(f"packed in {a.out}: " + ", ".join(f"{n} ({f['bytes'] / MIB:.1f} MiB)" for n,
                                           f in call.status["files"].items()))
    return 3 if "left" in states else 1 if "failed" in states else 0

# --- children: they see the package
# ------------------------------------------------------------------------------------


def _render(task: dict) -> int:
    "Draw the worlds ahead of whoever needs them; a half drawn one that a stop left is taken away."
    from dgnet.config import make_config
    from dgnet.core import LOCAL
    from dgnet.runs import get_data
    for old in (LOCAL / "data").glob("*/.*.part"):
        if not Path(f"/proc/{old.name.split('.')[-2]}").exists():
            shutil.rmtree(old, ignore_errors=True)
    for world in WORLDS:
        began = time.time()
        data = get_data(make_config(task["tier"], world), report=lambda done,
                        total: say(f"{world}: {done} of {total} photos") if done == total or done % 2048 == 0 else None)
        say(f"{world}: {data.train.n} training photos, {time.time() - began:.0f} s")
    return 0


def recipes(labels: list) -> list:
    "Notebooks in the order of the labels."
    from dgnet.reproduce import choose_notebooks
    return [n for label in labels for n in choose_notebooks([label])]


def per_step(cfg, make, n_ids: int, device: str, seconds: float) -> float:
    "Seconds of one step of something, by the clock, after a warm-up."
    import torch
    f = make(cfg, n_ids, torch.device(device))
    def wait(): torch.cuda.synchronize() if device == "cuda" else None
    for _ in range(3): f()
    wait()
    began, n = time.perf_counter(), 0
    while n < 4 or time.perf_counter() - began < seconds:
        f()
        n += 1
        if n % 8 == 0: wait()
    wait()
    return (time.perf_counter() - began) / n


def speeds(cfg, device: str, seconds: float) -> dict:
    """Seconds of a teacher's, a DG-Net and a rival's step on random photos: the arithmetic is that of a real run.
    DG-Net's is one with all losses on."""
    import torch
    from dataclasses import replace

    from dgnet.photos import cache_on_device
    from dgnet.other_gans import GanState, gan_step
    from dgnet.teacher import TeacherState, make_teacher, teacher_step
    from dgnet.train import TrainState, train_step
    labels = torch.arange(max(cfg.people, 2)).repeat_interleave(max(2, -(-4 * cfg.batch // max(cfg.people, 2))))
    images = torch.randint(0, 256, (len(labels), 3, cfg.height, cfg.width), dtype=torch.uint8)
    cfg = replace(cfg, ea_init="random")
    def teacher(cfg, k, dev):
        s, x, y = TeacherState(cfg, k, dev), cache_on_device(images, dev), labels.to(dev)
        return lambda: teacher_step(s, x, y)
    def rival(cfg, k, dev):
        s, x = GanState("lsgan", labels, cfg, dev), cache_on_device(images, dev)
        return lambda: gan_step(s, x, None)
    def dgnet(cfg, k, dev):
        s, t, x, y = TrainState(cfg, k, labels, device=dev), make_teacher(cfg, k).to(dev, memory_format=torch.channels_last).train(cfg.teacher_train), cache_on_device(images, dev), labels.to(dev)
        late = int((cfg.warm_up + max(cfg.ramp, cfg.code_ramp)) * cfg.n_iter) + 1
        def one():
            s.it = late
            return train_step(s, t, x, y)
        return one
    return {name: per_step(cfg, make, max(cfg.people, 2), device, seconds) for name, make in (("teacher", teacher),
                                                                                              ("dgnet", dgnet),
                                                                                              ("rival", rival))}


def needed(jobs: list, s: dict) -> float:
    "Seconds that the jobs train, at these speeds."
    from dgnet.bound import bound_iterations
    from dgnet.reproduce import TEACHER_STEP
    return sum(s["teacher"] * j.teacher + (s["dgnet"] * (j.cost - TEACHER_STEP * j.teacher) if j.config.method
                                           == "dgnet" else s["rival"] * (bound_iterations(j.config) if j.config.method
                                                                         == "bound" else j.config.rival_iter))
               for j in jobs)


def _schedule(task: dict) -> int:
    """Measure, plan, and scale all lengths by one factor, so that the trainings take their share of the budget; the
    rest is for photos, notebooks and packing."""
    from dgnet.config import make_config
    from dgnet.reproduce import plan_runs
    tier, device = task["tier"], os.environ["DGNET_DEVICE"]
    cfg = make_config(tier, "market", real=bool(task["paths"]))
    if task["paths"]:
        cfg = make_config(tier, "market", real=True, people=751)
    s = speeds(cfg, device, 0.2 if tier == "smoke" else 4.0)
    jobs, allowed = plan_runs(recipes(task["labels"]), tier, task["paths"]), task["share"] * task["budget"]
    whole = needed(jobs, s)
    factor = min(1.0, allowed / whole) if whole else 1.0
    fields = ({k: min(getattr(cfg, k), max(10, round(getattr(cfg, k) * factor))) for k in ("n_iter", "teacher_iter",
                                                                                           "rival_iter")} if factor < 1
              else {})
    said = (f"{1 / s['dgnet']:.1f} DG-Net steps a second with all losses ({1e3 * s['dgnet']:.1f} ms), "
            f"{1 / s['teacher']:.1f} of a teacher, {1 / s['rival']:.1f} of a rival: {len(jobs)} runs would train "
            f"{whole / 60:.1f} min; {allowed / 60:.1f} of {task['budget'] / 60:.1f} min are theirs: "
            + (f"every length times {factor:.3f}: "
               f"{', '.join(f'{k} {v} (of {getattr(cfg, k)})' for k, v in fields.items())}" if fields
               else "the tier's own schedule fits"))
    Path(task["out"]).write_text(json.dumps({"set": fields, "factor": factor, "step_seconds": s,
                                             "training_seconds": whole, "runs": [j.name for j in jobs], "said": said},
                                            indent=1) + "\n", encoding="utf-8")
    return 0


def _runs(task: dict) -> int:
    """Train the next missing run, then execute every notebook that has all it needs; again, until nothing is missing.
    3: time was up."""
    import torch
    from dgnet import runs as R
    from dgnet.loop import time_is_up
    tier, paths, asked, lost, longest = task["tier"], task["paths"], recipes(task["labels"]), {}, 0.0 if task[
        "tier"] == "smoke" else 30.0
    def tell(**said):
        with open(task["events"], "a", encoding="utf-8") as f:
            f.write(json.dumps({**said, "at": time.strftime("%H:%M:%S")}) + "\n")
        say(json.dumps(said))
    waiting = list(asked)
    while True:
        for n in list(waiting):
            missing = R.plan_runs([n], tier, paths)
            if any(R.run_key(j.config) in lost for j in missing):
                waiting.remove(n)
                tell(failed=n.stem, why="a run that it needs failed")
            if missing or n not in waiting: continue
            if time.time() + longest > float(os.environ.get("DGNET_STOP", "inf")): return 3   # it could not be finished
            if torch.cuda.is_available(): torch.cuda.empty_cache()
            began, said = time.time(), R.run_notebook(n, tier, paths)
            if said.startswith("failed") and "KeyboardInterrupt" in said: return 3   # it was stopped
            waiting.remove(n)
            longest = max(longest, 1.2 * (time.time() - began))
            tell(**({"failed": n.stem, "why": said} if said.startswith("failed") else {"notebook": n.stem,
                                                                                       "said": said}))
        jobs = [j for j in R.plan_runs(waiting, tier, paths) if R.run_key(j.config) not in lost]
        if not jobs: return 0
        if time_is_up(): return 3
        began, failed = time.time(), R.train_all(jobs[:1], tier)   # stops by itself in time, and leaves with 130
        lost |= failed
        tell(**({"failed": jobs[0].name, "why": next(iter(failed.values()))} if failed else {"trained": jobs[0].name,
                                                                                             "seconds": round(
                                                                                                 time.time() - began,
                                                                                                 1), "run": R.run_key(
                                                                                                     jobs[0].config)}))

# --- home
# ---------------------------------------------------------------------------------------------------------------


def to_take(tier: str) -> list:
    """Files that must come home, the most telling first: artefacts, numbers of real photos, logs, measurements,
    executed notebooks. Never a picture of a real person."""
    def found(*patterns):
        return [p for g in patterns for p in sorted(ROOT.glob(g)) if p.is_file() and not p.is_symlink()]
    files = found(f"figures/{tier}/*", f"figures/paper/*_{tier}.json", "local/gpu/*.json*", "local/gpu/*.xml",
                  "local/gpu/*.log", "local/bench/*/*.json", f"local/runs/*-{tier}-*/done.json",
                  f"local/runs/*-{tier}-*/log.csv", f"local/runs/*-{tier}-*/curve.csv", f"local/executed/{tier}/*")
    return [f for f in files if not f.name.startswith(".")]


def shards(tier: str, out: Path, size: int) -> list:
    "E_s and G of Market's finished run in half precision, cut into files; none when there is no such run."
    try:
        from dgnet.config import run_key
        from dgnet.runs import asked_config, read_done
        os.environ["DGNET_SET"] = json.dumps(json.loads((HERE / "status.json").read_text(encoding="utf-8")).get(
            "schedule_runs", {}).get("set", {}))
        folder = ROOT / "local" / "runs" / run_key(asked_config(tier, "market"))
    finally:
        os.environ.pop("DGNET_SET", None)
    if read_done(folder) is None: return []
    from safetensors import safe_open
    from safetensors.torch import save
    with safe_open(folder / "model.safetensors", "pt") as f:
        about, keys = f.metadata() or {}, [k for k in f.keys() if k.startswith(("E_s.", "G."))]
        data = save({k: f.get_tensor(k).half().contiguous() for k in keys},
                    {**about, "part": "E_s and G, half precision", "run": folder.name})
    made = []
    for k, low in enumerate(range(0, len(data), size), start=1):
        made.append(out / f"generator.part{k}")
        made[-1].write_bytes(data[low:low + size])
    return made


def pack(call: Call, out: Path) -> None:
    "Everything that must come home, in archives of at most 16 MiB; what does not fit is named in status.json."
    a, status = call.a, call.status
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("home-*.tar.gz"), *out.glob("generator.part*")]: old.unlink()
    limit, piles, left = int(a.file_mib * MIB) - 64 * 1024, [], []
    parts = shards(a.tier, out, limit)
    room = FILES - 1 - len(parts)
    if room < 1:
        for p in parts: p.unlink()
        left, parts, room = ["the generator: too large for the files that may come home"], [], FILES - 1
    for f in to_take(a.tier):
        size = f.stat().st_size + 1024
        pile = next((p for p in piles if p[0] + size <= 0.98 * limit), None)
        if pile is None and len(piles) < room and size <= 0.98 * limit:
            pile = [0, []]
            piles.append(pile)
        if pile is None:
            left.append(f.relative_to(ROOT).as_posix())
            continue
        pile[0] += size
        pile[1].append(f)
    for k, (_, files) in enumerate(piles, start=1):
        with tarfile.open(out / f"home-{k}.tar.gz", "w:gz", compresslevel=6) as tar:
            for f in files: tar.add(f, f.relative_to(ROOT).as_posix(), recursive=False)
    made = [out / f"home-{k}.tar.gz" for k in range(1, len(piles) + 1)] + parts
    status["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
                       for p in made}
    status["left_out"] = left
    call.write()
    if out != HERE: shutil.copy(call.path, out / "status.json")


def unpack(a: argparse.Namespace) -> int:
    "What came home, into the project: only below figures/ and local/, every file checked first."
    about = a.folder / "status.json"
    if not about.is_file():
        raise ValueError(f"{a.folder}: no status.json in it; give the folder with what came back")
    status = json.loads(about.read_text(encoding="utf-8"))
    for name, f in status["files"].items():
        if not (a.folder / name).is_file():
            raise ValueError(f"{a.folder / name}: missing, though status.json names it. Fetch it again")
        if hashlib.sha256((a.folder / name).read_bytes()).hexdigest() != f["sha256"]:
            raise ValueError(f"{a.folder / name}: damaged on the way (its hash differs). Fetch it again")
    n = 0
    for name in sorted(f for f in status["files"] if f.endswith(".tar.gz")):
        with tarfile.open(a.folder / name) as tar:
            members = tar.getmembers()
            bad = [m.name for m in members if not m.isfile() or not m.name.startswith(("figures/", "local/"))
                   or ".." in Path(m.name).parts]
            if bad:
                raise ValueError(f"{a.folder / name}: {bad[0]} does not belong below figures/ or local/; nothing was "
                                 "unpacked from it")
            tar.extractall(a.into, members=members, filter="data")
            n += len(members)
    parts = sorted((f for f in status["files"] if f.startswith("generator.part")),
                   key=lambda f: int(f.rpartition("part")[2]))
    if parts:
        whole = a.into / "local" / "gpu" / f"generator-{status['tier']}.safetensors"
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(b"".join((a.folder / p).read_bytes() for p in parts))
    (a.into / "local" / "gpu").mkdir(parents=True, exist_ok=True)
    shutil.copy(about, a.into / "local" / "gpu" / "status.json")
    say(f"{n} files unpacked into {a.into}" + (", and the generator" if parts else "")
        + (f"; left out there: {', '.join(status['left_out'])}" if status["left_out"] else ""))
    say("\n".join(f"{k:8s} {s['state']:8s} {s.get('said', '')}" for k, s in status["stages"].items()))
    return 0


def number(text: str) -> float:
    "For argparse: above 0."
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("benchmarks/gpu.py", description=__doc__.partition("\n\n")[0])
    sub = p.add_subparsers(dest="what", required=True, metavar="{run,wheels,unpack}")
    r = sub.add_parser("run", help="every stage, resumed where it was stopped")
    r.add_argument("--tier", default="full", choices=["smoke", "mini", "full"], help="default: full")
    r.add_argument("--device", default="cuda", choices=["cpu", "cuda"], help="default: cuda")
    r.add_argument("--minutes", type=number, help="stop after so many; default: no limit")
    r.add_argument("--budget", type=number, help="minutes for stage runs, all calls together; the schedule is scaled "
                   "to it. Default: the tier's own schedule")
    r.add_argument("--share", type=number, default=0.65, help="of the budget that is training; the rest is notebooks "
                   "(default: 0.65)")
    r.add_argument("--only", nargs="+", default=list(LABELS), metavar="PREFIX",
                   help=f"notebooks, the most telling first; default: {' '.join(LABELS)}")
    r.add_argument("--stages", nargs="+", default=list(STAGES[:4]), choices=STAGES,
                   help=f"default: {' '.join(STAGES[:4])}")
    r.add_argument("--market", type=Path, metavar="FOLDER", help="Market-1501; only numbers of it come home")
    r.add_argument("--market-budget", type=number, help="minutes for stage market")
    r.add_argument("--curve", type=int, default=4, help="points of the learning curve on real photos (default: 4)")
    r.add_argument("--code", help="the commit, where there is no clone")
    r.add_argument("--wheels", type=Path, default=CODE / "local" / "wheels",
                   help="packages to install where some are lacking; default: local/wheels")
    r.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or HERE / "home"),
                   help="what must come home; default: $OUT, else local/gpu/home")
    r.add_argument("--file-mib", type=number, default=16.0, help="largest file that comes home (default: 16)")
    # seconds under which no stage is begun
    r.add_argument("--least", type=number, default=1.0, help=argparse.SUPPRESS)
    w = sub.add_parser("wheels", help="at home: what the machine there lacks")
    w.add_argument("--folder", type=Path, default=CODE / "local" / "wheels")
    w.add_argument("--limit", type=number, default=40.0, help="MiB (default: 40)")
    u = sub.add_parser("unpack", help="at home: what came back")
    u.add_argument("folder", type=Path)
    u.add_argument("--into", type=Path, default=ROOT, help="default: the project")
    return p


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] in ("_render", "_schedule", "_runs"):
        return globals()[sys.argv[1]](json.loads(sys.argv[2]))
    a = parser().parse_args()
    try:
        return {"run": run, "wheels": wheels, "unpack": unpack}[a.what](a)
    except (RuntimeError, ValueError, OSError) as e:
        print(f"gpu: {e}", file=sys.stderr)
        return 2

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
