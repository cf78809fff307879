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
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import sys; from dgnet.own import train_cli; sys.exit(train_cli())"]
# a checkpoint after every iteration
SIZE = ["--tier", "smoke", "--save-every", "0", "--hold-out", "2", "--set", "n_iter=30", "teacher_iter=20"]


class End(NamedTuple):
    "How a call of the command ended."
    code: int        # negative: killed by that signal
    seconds: float
    said: str        # on stderr


def train(place: Path, data: Path, kill_after: float | None = None, largest_file: int | None = None) -> End:
    "`dgnet_train` in a folder of its own, killed after some seconds, or unable to write files beyond a size."
    env = {**os.environ, "DGNET_ROOT": str(place), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
           "DGNET_DEVICE": "cpu", "MPLBACKEND": "agg"}
    place.mkdir(parents=True, exist_ok=True)
    limit = None if largest_file is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                                         (largest_file, largest_file))
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as err:
        p = subprocess.Popen([*COMMAND, str(data), *SIZE, "--out", str(place / "out")], env=env, cwd=place,
                             stdout=subprocess.DEVNULL, stderr=err, preexec_fn=limit, start_new_session=True)
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
    def there(pattern): return any(runs.glob(pattern)) if runs.is_dir() else False
    if there("folder-smoke-[0-9a-f]*/done.json"): return "writing the results"
    if there("folder-smoke-[0-9a-f]*/model.safetensors"): return "ending the run"
    if there("folder-smoke-start-*/done.json"): return "after the warm-up"
    if there("folder-smoke-teacher-*/done.json"): return "before the warm-up"
    if there("folder-smoke-teacher-*/state.pt"): return "the teacher's lessons"
    return "before the first checkpoint"


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


def kill_and_resume(where: Path, data: Path, kills: int, seed: int, undisturbed: float, expected: str,
                    tell=print) -> Counter:
    """Kill so many times at random moments, resume each time, compare whenever a run comes to its end. Where the kills
    struck, counted."""
    rng, struck, place, done, compared = random.Random(seed), Counter(), where / "killed", 0, 0
    while done < kills or compared == 0 or place.exists():
        end = train(place, data, kill_after=rng.uniform(0.3, undisturbed) if done < kills else None)
        if end.code == -signal.SIGKILL:
            done += 1
            struck[stage(place)] += 1
            continue
        assert end.code == 0, f"after {done} kills the command ended with {end.code}: {end.said}"
        assert weights(place) == expected, f"after {done} kills the weights are not those of the undisturbed run"
        left = [p for p in place.rglob("*") if p.name in ("state.pt",) and "start" not in p.parent.name]
        assert not left, f"left over: {left}"
        compared += 1
        shutil.rmtree(place)
        tell(f"{done} kills, {compared} runs came to their end with the same weights")
    return struck


def sha(path: Path) -> str: return hashlib.sha256(path.read_bytes()).hexdigest()


def fill_the_disk(where: Path, data: Path, undisturbed: float, expected: str) -> str:
    """No file may grow beyond half a checkpoint: the command says so and leaves the checkpoint alone; with room again
    it goes on to the same weights. What it said."""
    place, wait = where / "full", 0.6 * undisturbed
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
    assert (end.code == 2 and "cannot be written" in end.said and state.name in end.said
            and "Traceback" not in end.said), (end.code, end.said)
    assert sha(state) == before and not list(
        place.rglob("*.tmp")), "the last checkpoint is as it was, and no half file is left"
    assert train(place, data).code == 0 and weights(place) == expected, "with room again it ends with the same weights"
    return end.said.strip().splitlines()[-1].replace(str(place), "…")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: another one each time")
    a = parser.parse_args()
    seed, where = random.randrange(10**6) if a.seed is None else a.seed, Path(tempfile.mkdtemp())
    began, data = time.monotonic(), photos(where)
    first, second = train(where / "one", data), train(where / "two", data)
    assert first.code == second.code == 0, first.said + second.said
    expected = weights(where / "one")
    assert weights(where / "two") == expected, "two undisturbed runs already differ"
    print(f"undisturbed: {first.seconds:.1f} s, weights {expected[:16]}; seed of the moments {seed}", flush=True)
    struck = kill_and_resume(where, data, a.kills, seed, second.seconds, expected, lambda line: print(line, flush=True))
    print("a full disk:", fill_the_disk(where, data, second.seconds, expected))
    shutil.rmtree(where)
    print(f"{a.kills} kills: {json.dumps(dict(struck.most_common()))}; all weights identical; "
          f"{time.monotonic() - began:.0f} s")

if __name__ == "__main__": main()
