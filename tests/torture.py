"""`make torture`: a training that is killed at random moments, fifty times, and a disk that fills up; the weights must
be those of an undisturbed run."""
import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import sys; from dgnet.train_own import train_cli; sys.exit(train_cli())"]
# a checkpoint after every iteration
SIZE = ["--tier", "smoke", "--save-every", "0", "--hold-out", "2", "--set", "n_iter=30", "teacher_iter=20"]


class End(NamedTuple):
    "How a call of the command ended."
    code: int        # negative: killed by that signal
    seconds: float
    stderr: str


def train(place: Path, data: Path, kill_after: float | None = None, largest_file: int | None = None) -> End:
    "`dgnet_train` in a folder of its own, killed after some seconds, or unable to write files beyond a size."
    env = {**os.environ, "DGNET_ROOT": str(place), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
           "DGNET_DEVICE": "cpu", "MPLBACKEND": "agg"}
    place.mkdir(parents=True, exist_ok=True)
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as err:
        p = subprocess.Popen([*COMMAND, str(data), *SIZE, "--out", str(place / "out")], env=env, cwd=place,
                             stdout=subprocess.DEVNULL, stderr=err, preexec_fn=limit if largest_file else None,
                             start_new_session=True)
        try:
            p.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
        err.seek(0)
        return End(p.returncode, time.monotonic() - began, err.read())


def weights(place: Path) -> str:
    "The hash of the trained weights, computed from the file's tensors, not read from its header."
    from dgnet.model import DGNet, content_hash
    return content_hash(DGNet.load(place / "out" / "model.safetensors").state_dict())


def stage(place: Path) -> str:
    "How far the training in a folder is."
    runs = place / "local" / "runs"
    signs = {"[0-9a-f]*/done.json": "writing the results", "[0-9a-f]*/model.safetensors": "ending the run",
             "start-*/done.json": "after the warm-up", "teacher-*/done.json": "before the warm-up",
             "teacher-*/state.pt": "the teacher's lessons"}
    stages = (words for pattern, words in signs.items() if any(runs.glob(f"folder-smoke-{pattern}")))
    return next(stages, "before the first checkpoint")


def photos(folder: Path) -> Path:
    "A few rendered people, one folder each, no cameras."
    from dgnet.datasets import load_dataset
    from dgnet.synthetic import write_domain
    world = load_dataset("market", write_domain("market", folder / "world", n_train_ids=10, n_test_ids=2, n_val_ids=2,
                                                images_per_id=4, height=64, width=32, seed=0))
    for person, path in zip(world.train.ids, world.train.paths):
        (folder / "photos" / str(person)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "photos" / str(person) / path.name)
    return folder / "photos"


def kill_and_resume(folder: Path, data: Path, kills: int, seed: int, undisturbed: float, expected: str,
                    report=print) -> Counter:
    """Kill so many times at random moments, resume each time, compare whenever a run comes to its end. Where the kills
    struck, counted."""
    rng, stages, place, compared = random.Random(seed), Counter(), folder / "killed", 0
    while stages.total() < kills or compared == 0 or place.exists():
        n = stages.total()
        end = train(place, data, kill_after=rng.uniform(0.3, undisturbed) if n < kills else None)
        if end.code == -signal.SIGKILL:
            stages[stage(place)] += 1
            continue
        assert end.code == 0, f"after {n} kills the command ended with {end.code}: {end.stderr}"
        assert weights(place) == expected, f"after {n} kills the weights are not those of the undisturbed run"
        left = [p for p in place.rglob("state.pt") if "start" not in p.parent.name]
        assert not left, f"left over: {left}"
        compared += 1
        shutil.rmtree(place)
        report(f"{n} kills, {compared} runs came to their end with the same weights")
    return stages


def sha(path: Path) -> str: return hashlib.sha256(path.read_bytes()).hexdigest()


def fill_the_disk(folder: Path, data: Path, undisturbed: float, expected: str) -> str:
    """No file may grow beyond half a checkpoint: the command says so and leaves the checkpoint alone; with room again
    it goes on to the same weights. Its message."""
    place, wait = folder / "full", 0.6 * undisturbed
    def checkpoint():
        return next((p for p in (place / "local" / "runs").glob("folder-smoke-[0-9a-f]*/state.pt")), None)
    while checkpoint() is None:
        end = train(place, data, kill_after=wait)
        if end.code == 0:
            shutil.rmtree(place)
            wait *= 0.8
    state = checkpoint()
    before = sha(state)
    end = train(place, data, largest_file=state.stat().st_size // 2)
    assert end.code == 2 and "cannot be written" in end.stderr and state.name in end.stderr, end
    assert "Traceback" not in end.stderr, end
    half = list(place.rglob("*.tmp"))
    assert sha(state) == before and not half, "the last checkpoint is as it was, and no half file is left"
    assert train(place, data).code == 0 and weights(place) == expected, "with room again it ends with the same weights"
    return end.stderr.strip().splitlines()[-1].replace(str(place), "…")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: another one each time")
    a = parser.parse_args()
    seed, folder = random.randrange(10**6) if a.seed is None else a.seed, Path(tempfile.mkdtemp())
    began, data, report = time.monotonic(), photos(folder), partial(print, flush=True)
    first, second = train(folder / "one", data), train(folder / "two", data)
    assert first.code == second.code == 0, first.stderr + second.stderr
    expected = weights(folder / "one")
    assert weights(folder / "two") == expected, "two undisturbed runs already differ"
    report(f"undisturbed: {first.seconds:.1f} s, weights {expected[:16]}; seed of the moments {seed}")
    stages = kill_and_resume(folder, data, a.kills, seed, second.seconds, expected, report)
    report("a full disk:", fill_the_disk(folder, data, second.seconds, expected))
    shutil.rmtree(folder)
    report(f"{a.kills} kills: {json.dumps(dict(stages.most_common()))}; all weights identical; "
           f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__": main()
