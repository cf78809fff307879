"""`make test`: export and clean leave no diff, style, library notebooks, reproduction notebooks at smoke, pytest; one
line per step."""
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ENV = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "agg"}


def contents() -> dict:
    "What export and clean could change, by hash."
    files = sorted([*ROOT.glob("nbs/[!_]*.ipynb"), *ROOT.glob("dgnet/*.py")])
    return {f.relative_to(ROOT).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def step(name: str, *command: str, env: dict | None = None) -> None:
    "Run a command in the project's folder; the first one that fails ends everything."
    began = time.monotonic()
    print(f"── {name}", flush=True)
    process = subprocess.run([str(c) for c in command], cwd=ROOT, env={**ENV, **(env or {})}, stdin=subprocess.DEVNULL)
    code = process.returncode
    print(f"── {name}: {f'failed ({code})' if code else 'ok'}, {time.monotonic() - began:.0f} s", flush=True)
    if code: sys.exit(code)


before = contents()
step("export", BIN / "nbdev_export")
step("clean", BIN / "nbdev_clean")
changed = [f for f, h in contents().items() if before.get(f) != h]
if changed: sys.exit(f"export or clean changed {', '.join(changed)}: run `make prepare` and commit")
step("style", BIN / "ruff", "check", "--quiet", "dgnet", "tests", "benchmarks", "nbs")
step("library notebooks", BIN / "nbdev_test", "--skip_file_re", "^(_|fig|table)", "--n_workers", "2", "--do_print",
     env={"OMP_NUM_THREADS": "1"})
step("reproduction notebooks at smoke", BIN / "dgnet_reproduce", "--tier", "smoke", "--force")
step("pytest", sys.executable, "-m", "pytest", "tests")
