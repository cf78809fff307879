"""Finished work, checkpoints, caches and photos are compared with what they were: damaged, cut short, gone or somebody
else's is made again, with one line that says so."""
import json
import os
import shutil
import sqlite3
import threading
import warnings
from pathlib import Path

import pytest
import torch

SMALL = {"n_iter": 4, "teacher_iter": 4}


@pytest.fixture
def said():
    "What was warned of."
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield lambda: [str(w.message) for w in warned]


def flip(path: Path, at: int = -20) -> None:
    "One bit of a file is another; size and times stay."
    facts, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 128
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def never(*args, **kw): raise AssertionError("something was trained")

# --- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.fixture
def prints(tmp_path, monkeypatch):
    "`dgnet.fingerprints` with a memory of its own, which trusts a file's times at once."
    import dgnet.fingerprints as F
    monkeypatch.setattr(F, "LOCAL", tmp_path / "local")
    monkeypatch.setattr(F, "_SETTLED", 0)
    F._HERE.clear()
    yield F
    F._HERE.clear()


def counted(monkeypatch, prints) -> list:
    "The files that are read."
    read, files = prints.sha256_of, []
    monkeypatch.setattr(prints, "sha256_of", lambda path: (files.append(path.name), read(path))[1])
    return files


def test_a_file_is_read_once_and_again_when_it_was_replaced(prints, tmp_path, monkeypatch):
    files, paths = counted(monkeypatch, prints), [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for path in paths: path.write_bytes(path.name.encode() * 9)
    first = prints.fingerprints(paths)
    assert prints.fingerprints([*paths, paths[0]]) == [*first, first[0]] and len(files) == 2
    prints._HERE.clear()   # another process
    assert prints.fingerprints(paths) == first and len(files) == 2
    flip(paths[0], 3)
    again = prints.fingerprints(paths)
    assert again[0] != first[0] and again[1] == first[1] and files[2:] == ["a.jpg"], "dated back, and noticed"
    shutil.copy2(paths[1], tmp_path / "c.jpg")
    assert prints.fingerprint(tmp_path / "c.jpg") == first[1], "a copy is the same photo"


def test_a_file_that_has_just_changed_is_not_remembered(prints, tmp_path, monkeypatch):
    monkeypatch.setattr(prints, "_SETTLED", 2e9)
    files, path = counted(monkeypatch, prints), tmp_path / "a.jpg"
    path.write_bytes(b"a")
    for _ in range(2): prints.fingerprint(path)
    assert len(files) == 2, "within two seconds it may change once more"


@pytest.mark.parametrize("harm", ["text", "row", "folder", "table"])
def test_a_damaged_or_unwritable_memory_costs_time_only(prints, tmp_path, harm):
    path, memory = tmp_path / "a.jpg", tmp_path / "local" / "fingerprints.sqlite"
    path.write_bytes(b"a photo")
    right = prints.fingerprint(path)
    prints._HERE.clear()
    if harm == "text": memory.write_bytes(b"no database " * 1000)
    if harm == "folder":
        memory.unlink()
        memory.mkdir()
    if harm in ("row", "table"):
        with sqlite3.connect(memory) as database:
            database.execute("update fingerprints set digest = '0'" if harm == "row" else "drop table fingerprints")
    for _ in range(2):
        prints._HERE.clear()
        assert prints.fingerprint(path) == right


def test_what_is_no_file_is_refused_and_not_waited_for(prints, tmp_path):
    os.mkfifo(tmp_path / "9.jpg")
    with pytest.raises(ValueError, match="9.jpg: not a file of its own"): prints.fingerprint(tmp_path / "9.jpg")
    with pytest.raises(FileNotFoundError, match="none.jpg"): prints.fingerprint(tmp_path / "none.jpg")

# --- photos and keys ------------------------------------------------------------------------------------------------


def people(root: Path) -> Path:
    "Three people, two photos of each."
    from PIL import Image
    for k in range(6):
        (root / f"p{k // 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (40 * k, 9, 200)).save(root / f"p{k // 2}" / f"{k % 2}.bmp")
    return root


def test_photos_replaced_in_place_are_other_photos(tmp_path):
    from dgnet.config import make_config, run_key
    from dgnet.runs import get_data, load_split, with_source
    root, cfg = people(tmp_path / "people"), make_config("smoke", "folder", real=True, height=32, width=16)
    def look():
        data = get_data(cfg, root)
        return with_source(cfg, data, root), load_split(data.train, cfg)
    (first, pixels), (same, again) = look(), look()
    assert first == same and pixels is again, "read once"
    flip(root / "p1" / "0.bmp")
    changed, seen = look()
    assert run_key(changed) != run_key(first) and not torch.equal(seen, pixels)
    flip(root / "p1" / "0.bmp")
    assert look()[0] == first, "and put back: the run that it was"
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert with_source(cfg, get_data(cfg, moved), moved) == first, "where they lie does not matter"
    (root / "p2" / "1.bmp").rename(root / "p2" / "2.bmp")
    assert look()[0] != first
    assert with_source(cfg, get_data(cfg, root), None) is cfg, "a rendered world has no source"


def test_features_of_replaced_photos_are_computed_again(tmp_path, said):
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.search import gallery_features, open_gallery
    root, cache = people(tmp_path / "people"), tmp_path / "cache"
    model = DGNet(make_config("smoke", ea_init="random"), 3).eval()
    def get(): return gallery_features(model, open_gallery(root), cache=cache)
    first = get()
    assert not first.stored and get().stored and not said()
    flip(root / "p1" / "0.bmp")
    assert not get().stored, "the same name, size and time"
    flip(root / "p1" / "0.bmp")
    again = get()
    assert again.stored and torch.equal(again.embeddings.prim, first.embeddings.prim)
    for harm in (flip, lambda f: f.write_bytes(b""), lambda f: f.write_bytes(f.read_bytes()[:99]),
                 lambda f: model.save(f)):
        for file in cache.iterdir(): harm(file)
        again = get()
        assert not again.stored and torch.equal(again.embeddings.prim, first.embeddings.prim) and get().stored
    assert len(said()) == 4 and all("not as it was written; computed again" in line for line in said())

# --- finished work --------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path):
    "Work that writes one file, and how often it was done."
    from dgnet.stored import finish, write_done
    folder, times = tmp_path / "work", []
    def make() -> None:
        times.append(1)
        (folder / "curve.csv").write_text("it,loss\n10,0.5\n")
        write_done(folder, {"seconds": 1.0, "config": {"seed": 0}, "rank1": 0.5}, "curve.csv")
    def ask(seed: int = 0):
        return finish(folder, {"seed": seed}, {"curve.csv": Path.read_text}, make, ("rank1",))
    ask()
    return folder, times, ask


def note(folder: Path, **changes) -> None:
    "The note with other facts, and the hash that belongs to them; None takes a fact away."
    from dgnet.stored import _own_hash
    facts = json.loads((folder / "done.json").read_text()) | changes
    facts = {name: value for name, value in facts.items() if value is not None}
    if "sha256" in facts: facts["sha256"] = _own_hash(facts)
    (folder / "done.json").write_text(json.dumps(facts))


HARMS = {
    "flipped": (lambda f: flip(f / "curve.csv", 3), "curve.csv: not as it was written"),
    "empty": (lambda f: (f / "curve.csv").write_bytes(b""), "curve.csv: not as it was written"),
    "gone": (lambda f: (f / "curve.csv").unlink(), "curve.csv: gone"),
    "a folder": (lambda f: ((f / "curve.csv").rename(f / "x"), (f / "curve.csv.d").mkdir()), "curve.csv: gone"),
    "note cut": (lambda f: (f / "done.json").write_text("{"), "done.json: not readable"),
    "note empty": (lambda f: (f / "done.json").write_bytes(b""), "done.json: not readable"),
    "note {}": (lambda f: (f / "done.json").write_text("{}"), "done.json: its header lacks seconds, config"),
    "note a list": (lambda f: (f / "done.json").write_text("[1]"), "done.json: its header is .1., where an object"),
    "note of bytes": (lambda f: (f / "done.json").write_bytes(b"\xff\xfe\x00"), "done.json: not readable"),
    "note edited": (lambda f: (f / "done.json").write_text(
        (f / "done.json").read_text().replace("0.5", "0.9")), "done.json: not as it was written"),
    "note a word": (lambda f: note(f, seconds="long"), "says seconds='long'"),
    "note of another": (lambda f: note(f, config={"seed": 7}), "done.json: of another run"),
    "note without rank1": (lambda f: note(f, rank1=None), "done.json: lacks rank1"),
    "hash of another": (lambda f: note(f, files={"curve.csv": "0" * 64}), "curve.csv: not as it was written"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_work_is_made_again_with_one_line(work, said, harm):
    import re
    (folder, times, ask), (do, says) = work, HARMS[harm]
    do(folder)
    assert ask().facts["seconds"] == 1.0 and len(times) == 2
    assert ask().contents["curve.csv"].endswith("0.5\n") and len(times) == 2, "and then found"
    line, = said()
    assert re.search(says, line) and line.endswith("made again") and str(folder) in line


def test_work_of_an_earlier_version_is_taken_as_long_as_it_can_be_read(work, said):
    folder, times, ask = work
    note(folder, files=None, sha256=None)
    assert ask().facts.keys() == {"seconds", "config", "rank1"} and len(times) == 1 and not said()
    (folder / "curve.csv").unlink()
    ask()
    assert len(times) == 2


def test_halves_of_a_killed_process_are_cleared_away(work):
    folder, times, ask = work
    for name in ("model.safetensors.4711.tmp", "done.json.4711.tmp"): (folder / name).write_bytes(b"half")
    (folder / "curve.csv").unlink()
    with pytest.warns(UserWarning, match="curve.csv: gone; made again"): ask()
    assert {p.name for p in folder.iterdir()} == {"curve.csv", "done.json", "lock"}


def test_read_done_takes_a_damaged_note_as_not_finished(work, said):
    from dgnet.stored import read_done
    folder, _, _ = work
    assert read_done(folder)["rank1"] == 0.5 and read_done(folder.parent) is None and not said()
    (folder / "done.json").write_text("[")
    assert read_done(folder) is None and "taken as not finished" in said()[0]


def test_what_came_with_the_package_is_not_deleted(work, monkeypatch):
    folder, times, ask = work
    monkeypatch.setattr("dgnet.stored.WEIGHTS", folder.parent)
    (folder / "curve.csv").write_text("other")
    with pytest.raises(ValueError, match="curve.csv: not as it was written.*install that again, or set DGNET_FRESH=1"):
        ask()
    assert (folder / "done.json").exists() and len(times) == 1


def test_two_that_ask_at_once_get_one_work(tmp_path):
    from dgnet.stored import finish, write_done
    folder, times, begun, go = tmp_path / "work", [], threading.Event(), threading.Event()
    def make() -> None:
        times.append(1)
        begun.set()
        go.wait(20)
        write_done(folder, {"seconds": 1.0, "config": {}})
    def ask() -> None: finish(folder, {}, {}, make)
    both = [threading.Thread(target=ask) for _ in range(2)]
    both[0].start()
    assert begun.wait(20)
    both[1].start()
    both[1].join(0.3)
    assert both[1].is_alive(), "it waits"
    go.set()
    for thread in both: thread.join(20)
    assert len(times) == 1


@pytest.mark.parametrize("error", [NotImplementedError("FileSystem does not appear to support flock"),
                                   OSError(37, "No locks available")], ids=["flock", "lockd"])
def test_a_disk_without_locks_is_named(work, said, monkeypatch, error):
    "Lustre and NFS; with some versions of filelock the first of them was waited for without an end."
    import filelock
    folder, times, ask = work
    def refuse(self): raise error
    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    (folder / "curve.csv").unlink()
    ask()
    assert len(times) == 2 and any("this disk has no locks" in line for line in said())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    from dgnet.stored import finish
    (tmp_path / "runs").write_text("a file, where a folder belongs")
    with pytest.raises(OSError, match="runs.*cannot be written"): finish(tmp_path / "runs" / "a", {}, {}, never)

# --- checkpoints and logs -------------------------------------------------------------------------------------------


class Counter:
    "The least that has a state."
    def __init__(self): self.w = torch.zeros(100)
    def state_dict(self): return {"w": self.w, "key": "a"}
    def load_state_dict(self, content): self.w = dict(content)["w"] if dict(content)["key"] == "a" else 1 / 0


@pytest.mark.parametrize("harm", [lambda f: f.write_bytes(b""), lambda f: f.write_bytes(f.read_bytes()[:500]),
                                  lambda f: f.write_bytes(b"half a file"),
                                  lambda f: flip(f, f.read_bytes().find(b"\x00\x00\x80\x3f" * 50) + 3)],
                         ids=["empty", "cut", "words", "flipped"])
def test_a_damaged_checkpoint_is_begun_again_with_one_line(tmp_path, said, harm):
    from dgnet.loop import load_state, save_state
    state, path = Counter(), tmp_path / "state.pt"
    state.w += 1
    save_state(state, path)
    assert load_state(Counter(), path) and not said()
    harm(path)
    fresh = Counter()
    assert not load_state(fresh, path) and not fresh.w.any()
    assert len(said()) == 1 and "state.pt" in said()[0] and "begun again from the start" in said()[0]


@pytest.mark.parametrize("content", [[1, 2], {"w": torch.zeros(100)}, torch.zeros(3), 5, None])
def test_a_checkpoint_of_another_kind_is_refused_with_the_remedy(tmp_path, content):
    from dgnet.loop import load_state
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="state.pt: .*or delete the file"): load_state(Counter(), tmp_path / "state.pt")


def test_a_teachers_checkpoint_belongs_to_its_teacher():
    from dgnet.config import make_config
    from dgnet.teacher import TeacherState
    one, other = (TeacherState(make_config("smoke", seed=s), 4, torch.device("cpu")) for s in (0, 1))
    one.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="belongs to another teacher"): one.load_state_dict(other.state_dict())
    older = {name: value for name, value in one.state_dict().items() if name != "key"}
    one.load_state_dict(older)


def test_a_log_on_a_full_disk_keeps_its_rows(tmp_path, monkeypatch):
    import dgnet.loop as L
    path = tmp_path / "log.csv"
    L.write_log(path, {"it": 10, "img1": 0.5})
    before, write = path.read_bytes(), os.truncate
    class Full:
        "A file on a disk that takes seven more bytes."
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *error): self.file.close()
        def tell(self): return self.file.tell()
        def flush(self): raise OSError(28, "No space left on device")
        def write(self, content): (self.file.write(content[:7]), self.file.flush())
    with monkeypatch.context() as patch:
        opened = Path.open
        patch.setattr(Path, "open", lambda self, *a, **kw: Full(opened(self, *a, **kw)))
        with pytest.raises(OSError, match="log.csv: cannot be written .No space left"): L.write_log(path, {"it": 20})
    assert path.read_bytes() == before and write is os.truncate
    assert L.read_log(path)["it"].tolist() == [10]


def test_a_log_with_rows_of_something_else_is_trimmed(tmp_path):
    from dgnet.loop import LOG_COLUMNS, trim_log
    path, tail = tmp_path / "log.csv", "," * (len(LOG_COLUMNS) - 1)
    text = f"{','.join(LOG_COLUMNS)}\n10{tail}\nten{tail}\n"
    path.write_bytes(text.encode() + b"\x00\xff" + tail.encode() + b"\n")
    trim_log(path, 50)
    assert path.read_text().splitlines()[1:] == [f"10{tail}"]

# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "`dgnet.runs` with a local folder of its own, and one finished run in it."
    import dgnet.runs as R
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGNET_DEVICE", "cpu")
        patch.setattr(R, "LOCAL", tmp_path_factory.mktemp("local"))
        R.get_run("smoke", **SMALL)
        yield R
    R._PHOTOS.clear()
    R._loaded.cache_clear()


@pytest.fixture
def kept(runs, tmp_path):
    "The runs' folder, put back afterwards."
    place = runs.LOCAL / "runs"
    shutil.copytree(place, tmp_path / "kept")
    yield place
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "kept", place)


def state_of(run) -> str:
    from dgnet.model import content_hash
    return content_hash(run.model.state_dict())


def test_every_file_of_a_finished_run_carries_its_hash(runs):
    from dgnet.fingerprints import sha256_of
    folders = [p.parent for p in (runs.LOCAL / "runs").glob("*/done.json")]
    assert len(folders) == 3, "a run, its teacher, its start"
    for folder in folders:
        noted = json.loads((folder / "done.json").read_text())["files"]
        assert noted == {p.name: sha256_of(p) for p in folder.iterdir() if p.name not in ("lock", "done.json")}


def test_damaged_files_of_a_run_are_made_again_and_the_run_is_the_same(runs, kept, said):
    from dgnet.config import make_config, run_key
    run = runs.get_run("smoke", **SMALL)
    file = (run.folder / "model.safetensors").read_bytes()
    assert not said()
    teacher, start = runs.teacher_folder(run.config), runs.prefix_folder(run.config)
    flip(teacher / "teacher.safetensors")
    flip(run.folder / "model.safetensors")
    flip(start / "state.pt", 20_000)
    again = runs.get_run("smoke", **SMALL)
    assert (run.folder / "model.safetensors").read_bytes() == file, "to the last byte: no time is in it"
    assert again.log.drop(columns="seconds").equals(run.log.drop(columns="seconds"))
    names = [line.split(": ")[0].rsplit("/", 1)[1] for line in said()]
    assert sorted(names) == ["model.safetensors", "state.pt", "teacher.safetensors"]
    assert all(line.endswith("not as it was written; made again") for line in said())
    assert run_key(make_config("smoke", **SMALL)) == run.folder.name


def test_another_runs_model_is_not_taken(runs, kept, said):
    run = runs.get_run("smoke", **SMALL)
    other = runs.get_run("smoke", **SMALL | {"n_iter": 5})
    shutil.copy(other.folder / "model.safetensors", run.folder)
    facts = json.loads((run.folder / "done.json").read_text())
    older = {name: value for name, value in facts.items() if name not in ("files", "sha256")}
    (run.folder / "done.json").write_text(json.dumps(older))   # of a version that noted no hashes
    assert state_of(runs.get_run("smoke", **SMALL)) == state_of(run)
    assert len(said()) == 1 and f"the model of '{other.folder.name}', not of {run.folder.name}; made again" in said()[0]


def test_a_run_without_hashes_is_taken_and_nothing_is_trained(runs, kept, said, monkeypatch):
    for path in kept.glob("*/done.json"):
        facts = json.loads(path.read_text())
        path.write_text(json.dumps({name: v for name, v in facts.items() if name not in ("files", "sha256")}))
    for name in ("fit", "train_teacher"): monkeypatch.setattr(runs, name, never)
    assert runs.get_run("smoke", report=never, **SMALL).log.it.iloc[-1] == 4 and not said()


def test_shipped_runs_carry_hashes():
    from dgnet.core import WEIGHTS
    from dgnet.fingerprints import sha256_of
    from dgnet.stored import read_done
    for path in WEIGHTS.glob("*/done.json"):
        noted = read_done(path.parent)["files"]
        assert noted == {p.name: sha256_of(p) for p in path.parent.iterdir() if p.name != "done.json"}
