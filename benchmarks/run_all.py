"All benchmarks, one after the other; what is given here is given to each of them."
import subprocess
import sys
import time
from pathlib import Path

from common import options

SCRIPTS = ("steps", "profile_step", "evaluation", "throughput")


def main() -> int:
    p = options("run_all", __doc__)
    p.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS)
    a = p.parse_args()
    asked = {"--device": a.device, "--threads": a.threads, "--repeat": a.repeat, "--out": a.out}
    given = [v for name, x in asked.items() if x for v in (name, str(x))] + ["--quick"] * a.quick
    began, failed = time.perf_counter(), []
    for name in SCRIPTS:
        if name not in a.only: continue
        print(f"── {name}", flush=True)
        code = subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *given]).returncode
        if code == 130: return code
        failed += [name] * bool(code)
    print(f"── {'failed: ' + ', '.join(failed) if failed else 'all done'}, {time.perf_counter() - began:.0f} s")
    return 2 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
