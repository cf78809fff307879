"""`make gpu`: everything that wants a GPU, the quickest answer first.

    make gpu                                                       # or .venv/bin/python benchmarks/gpu.py
    make gpu ARGS="--market /data/Market-1501-v15.09.15"           # Table 3 on real photos too
    make gpu ARGS="--only figures bench"                           # some of the parts

**tests** are those marked `cuda` (the two devices agree, no step waits, bfloat16, compiled); **notebooks** are the
library notebooks with the cells that other machines skip; **figures** is tier `full`: every training, table and figure;
**market** is Table 3 on photographs; **bench** is `make bench`. Stopped, the same command goes on from there: trainings
resume from their checkpoints, and a part that has passed since the code last changed is not repeated. Exit code: 0 all
done, 1 something failed, 2 the request was wrong, 130 stopped."""
import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STAMPS = ROOT / "local" / "gpu"   # an empty file for each part that has passed
PARTS = ("tests", "notebooks", "figures", "market", "bench")


def command(part: str, market: Path | None) -> list:
    "The words of a part."
    reproduce = [BIN / "dgnet_reproduce", "--tier", "full"]
    return {"tests": [sys.executable, "-m", "pytest", "tests", "-m", "cuda"],
            "notebooks": [BIN / "nbdev_test", "--flags", "slow cuda", "--skip_file_re", "^(_|fig|table)",
                          "--n_workers", "4", "--do_print"],
            "figures": reproduce,
            "market": [*reproduce, "--data", f"market={market}", "--only", "table3"],
            "bench": [sys.executable, "benchmarks/run_all.py", "--device", "cuda"]}[part]


def is_done(part: str) -> bool:
    "Whether a part has passed since the code last changed. What trains decides by itself what is left to do."
    stamp = STAMPS / part
    if part in ("figures", "market") or not stamp.exists(): return False
    sources = [p for folder in ("dgnet", "nbs", "tests", "benchmarks") for p in (ROOT / folder).iterdir()]
    return all(p.stat().st_mtime < stamp.stat().st_mtime for p in sources if p.is_file())


def run(part: str, market: Path | None) -> int:
    "Run a part to its end; its exit code."
    began = time.monotonic()
    print(f"── {part}", flush=True)
    code = subprocess.run([str(word) for word in command(part, market)], cwd=ROOT).returncode
    if code == 0:
        STAMPS.mkdir(parents=True, exist_ok=True)
        (STAMPS / part).touch()
    print(f"── {part}: {f'failed ({code})' if code else 'ok'}, {time.monotonic() - began:.0f} s", flush=True)
    return code


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks/gpu.py", description="Everything that wants a GPU.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--market", type=Path, metavar="FOLDER", help="Market-1501, for Table 3 on real photos")
    a = parser.parse_args()
    import torch
    if not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU here. `make test` and `make reproduce` need none")
    if a.market and not a.market.is_dir(): parser.error(f"--market {a.market}: is not a folder")
    market, failed = a.market and a.market.resolve(), []
    for part in (p for p in PARTS if p in a.only and (market or p != "market")):
        if is_done(part): continue
        code = run(part, market)
        if code == 130: return code
        if code: failed.append(part)
    print(f"── failed: {', '.join(failed)}" if failed else "── all done")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
