"""Nothing of the user's is overwritten: every file and folder that a command can be told to write is made when it is
not there, replaced when the command's own mark says so, and refused else; --force means it. A full disk leaves no
half. And the environment is named when it is at fault."""
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FEW = ("--tier", "smoke", "--set", "n_iter=2", "teacher_iter=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "Six people of three photos, an untrained model, a local folder of their own."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    d = tmp_path_factory.mktemp("outputs")
    for k in range(18):
        (d / "people" / f"p{k % 6}").mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 64), 20 + 30 * (k % 6)).convert("RGB").save(d / "people" / f"p{k % 6}" / f"{k}.png")
    torch.manual_seed(0)
    DGNet(make_config("smoke"), 4).eval().save(d / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGNET_DEVICE", "cpu")
        for module in ("train_own", "runs", "search"): patch.setattr(f"dgnet.{module}.LOCAL", d / "local")
        patch.setattr("dgnet.search.CACHE", d / "local" / "cache")
        yield d


def photos(place: Path) -> list: return sorted((place / "people").rglob("*.png"))[:2]


def call(place: Path, name: str, out) -> int:
    "A command by its name in the table below, writing to `out`."
    from dgnet.check import data_cli
    from dgnet.generated_set import generate_cli
    from dgnet.search import rank_cli
    a, b = map(str, photos(place))
    model, people = ("--model", str(place / "model.safetensors")), str(place / "people")
    words, force = name.split(" ")[:2], ["--force"] * name.endswith("--force")
    if words[0] == "check": return data_cli(["check", people, words[1], str(out), *force])
    if words[0] == "rank": return rank_cli([a, "--gallery", people, *model, words[1], str(out), "--top", "3", *force])
    if words[0] == "swap": return generate_cli(["swap", a, b, *model, "--out", str(out), *force])
    if words[0] == "grid":
        return generate_cli(["grid", "--appearance", a, "--structure", b, *model, "--out", str(out), *force])
    return generate_cli(["interpolate", a, b, "--steps", "2", *model, "--out", str(out), *force])

FILES = [("check --sheet", "s.png"), ("check --csv", "f.csv"), ("rank --out", "r.jpg"), ("rank --out", "r.pdf"),
         ("rank --csv", "r.csv"), ("swap --out", "s.png"), ("grid --out", "g.jpg"), ("interpolate --out", "i.gif")]


@pytest.mark.parametrize("name, file", FILES, ids=lambda v: v)
def test_a_file_is_made_then_replaced_and_somebody_elses_is_refused(place, name, file, tmp_path, capsys):
    out = tmp_path / file
    assert call(place, name, out) == 0, capsys.readouterr().err
    made = out.read_bytes()
    assert call(place, name, out) == 0, f"its own file is replaced: {capsys.readouterr().err}"
    kinds = {".csv": b"a,b\n1,2\n"}
    for theirs in (kinds.get(out.suffix, b"a diary"), b"", b"\0" * 200_000):
        out.write_bytes(theirs)
        assert call(place, name, out) == 2 and out.read_bytes() == theirs
        message = capsys.readouterr().err
        assert file in message and "--force" in message and len(message.splitlines()) == 1
    assert call(place, f"{name} --force", out) == 0 and len(out.read_bytes()) > len(made) / 2
    assert [p.name for p in tmp_path.iterdir()] == [file], "and nothing else was left there"


@pytest.mark.parametrize("name, file", [("check --csv", "f.csv"), ("rank --out", "r.png"), ("swap --out", "s.png")])
def test_a_picture_of_the_same_format_by_another_program_is_somebody_elses(place, name, file, tmp_path):
    out = tmp_path / file
    if file.endswith("csv"): out.write_text("level,kind,split,what,detail,remedy,mine\n")
    else: Image.new("RGB", (9, 9), "red").save(out)
    before = out.read_bytes()
    assert call(place, name, out) == 2 and out.read_bytes() == before


def test_a_link_stays_a_link_and_a_pipe_is_refused_at_once(place, tmp_path, capsys):
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe.csv"
    link.symlink_to(target)
    assert call(place, "rank --csv", link) == 0 and link.is_symlink() and target.read_text().startswith("query,")
    os.mkfifo(pipe)
    for name in ("rank --csv", "rank --csv --force"): assert call(place, name, pipe) == 2
    assert "no regular file" in capsys.readouterr().err


def test_the_header_of_the_table_is_the_mark(place, tmp_path):
    from dgnet.search import _HEADER
    call(place, "rank --csv", tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == _HEADER


BROKEN = ['["theirs"]', '"theirs"', "", "{", "3", "null", '{"accuracy": 1}', '{"run": 5}', '{"same": 3}',
          '{"same": []}', '{"world": "market"}', '{"world": [], "hash": "x"}']


@pytest.mark.parametrize("content", BROKEN)
def test_another_tools_json_is_refused_in_one_line_and_stays(place, content, tmp_path, capsys):
    from dgnet.check import data_cli
    from dgnet.generated_set import generate_cli
    from dgnet.train_own import output_folder
    inner = tmp_path / "p" / "Market-1501-v15.09.15"
    files = {"metrics.json": tmp_path / "m", "generated.json": tmp_path / "g", "synthetic.json": inner}
    for name, folder in files.items():
        folder.mkdir(parents=True)
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match="metrics.json"):
        output_folder(tmp_path / "m", place / "people", "0" * 16)
    assert generate_cli(["set", str(place / "people"), "--pairs", "2", "--model", str(place / "model.safetensors"),
                         "--out", str(tmp_path / "g")]) == 2
    assert data_cli(["render", str(tmp_path / "p"), "--people", "8", "--photos", "4"]) == 2
    messages = capsys.readouterr().err.splitlines()
    assert len(messages) == 2 and "generated.json" in messages[0] and "synthetic.json" in messages[1]
    assert all((folder / name).read_text() == content and len(list(folder.iterdir())) == 1
               for name, folder in files.items())


def test_force_puts_a_set_beside_what_is_there_and_replaces_another_set(place, tmp_path):
    from dgnet.generated_set import generate_cli
    def make(seed, *more):
        return generate_cli(["set", str(place / "people"), "--pairs", "3", "--seed", str(seed), "--model",
                             str(place / "model.safetensors"), "--out", str(tmp_path), *more])
    (tmp_path / "diary.txt").write_text("dear all")
    Image.new("RGB", (9, 9)).save(tmp_path / "holiday.png")
    assert make(0) == 2 and make(0, "--force") == 0
    first = {p.relative_to(tmp_path) for p in tmp_path.rglob("*_a*.png")}
    assert make(0) == 0 and make(1) == 2 and make(1, "--force") == 0
    second = {p.relative_to(tmp_path) for p in tmp_path.rglob("*_a*.png")}
    listed = {Path(line.split(",")[0]) for line in (tmp_path / "manifest.csv").read_text().splitlines()[1:]}
    assert len(first) == 3 and second == listed, "no picture of the first set is left among those of the second"
    assert (tmp_path / "diary.txt").read_text() == "dear all" and (tmp_path / "holiday.png").exists()


def test_two_sets_into_one_folder(place, tmp_path, capsys):
    from dgnet.generated_set import generate_cli
    from dgnet.terminal import locked_folder
    with locked_folder(tmp_path, "--out"):
        assert generate_cli(["set", str(place / "people"), "--pairs", "3", "--model", str(place / "model.safetensors"),
                             "--out", str(tmp_path)]) == 2
    assert "another command is at work there" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_two_trainings_into_one_folder(tmp_path):
    "Another one is refused at once; the same one waits until the first has written."
    import dgnet.train_own as T
    events: list = []
    def same_run():
        with ExitStack() as held:
            T._hold(tmp_path, "a" * 16, False, held)
            events.append("the second begins")
    with ExitStack() as held:
        T._hold(tmp_path, "a" * 16, False, held)
        with pytest.raises(ValueError, match="another command is at work there. Wait for it"):
            T._hold(tmp_path, "b" * 16, False, ExitStack())
        same = threading.Thread(target=same_run)
        same.start()
        same.join(0.5)
        events.append("the first has written")
        (tmp_path / "model.safetensors").write_bytes(b"hours of work")
    same.join(60)
    assert events == ["the first has written", "the second begins"] and not (tmp_path / ".lock").exists()
    T._write_metrics(tmp_path, {"run": "a" * 16, "finished": True})
    for key, force, fits in (("a", False, True), ("b", False, False), ("b", True, True)):
        with ExitStack() as held:
            if fits:
                T._hold(tmp_path, key * 16, force, held)
            else:
                with pytest.raises(ValueError, match="aaaaaaaaaaaaaaaa"): T._hold(tmp_path, key * 16, force, held)
    assert (tmp_path / "model.safetensors").read_bytes() == b"hours of work"


def test_what_a_failed_training_began_is_no_hindrance(place, tmp_path):
    import dgnet.train_own as T
    (tmp_path / "out").mkdir()
    T._write_metrics(tmp_path / "out", {"run": "a" * 16, "finished": False})
    assert T.output_folder(tmp_path / "out", place / "people", "b" * 16) == tmp_path / "out"
    (tmp_path / "out" / "model.safetensors").touch()
    with pytest.raises(ValueError, match="another training"):
        T.output_folder(tmp_path / "out", place / "people", "b" * 16)


def test_a_file_that_cannot_be_written_is_named_and_what_was_there_stays(place, tmp_path, monkeypatch, capsys):
    "The disk is full: pictures, tables and renderings."
    from dgnet.check import data_cli
    for name, file in (("rank --out", "r.png"), ("rank --csv", "r.csv"), ("check --sheet", "s.png")):
        assert call(place, name, tmp_path / file) == 0
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    capsys.readouterr()
    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr("pandas.DataFrame.to_csv", full)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    for name, file in (("rank --out", "r.png"), ("rank --csv", "r.csv"), ("check --sheet", "s.png")):
        assert call(place, name, tmp_path / file) == 2
        assert file in (message := capsys.readouterr().err) and "No space left on device" in message
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    monkeypatch.setattr("dgnet.synthetic._write_photos", full)
    for _ in range(2):
        assert data_cli(["render", str(tmp_path / "new"), "--people", "8", "--photos", "4"]) == 2
        message = capsys.readouterr().err
        assert "Market-1501-v15.09.15: cannot be written (No space left on device)" in message
    assert not list((tmp_path / "new").iterdir()), "no half is left behind"


def test_a_rendering_is_replaced_by_force_and_a_folder_that_is_none_is_moved_aside(tmp_path, capsys):
    from dgnet.check import data_cli
    def render(*more):
        return data_cli(["render", str(tmp_path), "--people", "8", "--photos", "4", "--height", "32", "--width", "16",
                         *more])
    folder = tmp_path / "Market-1501-v15.09.15"
    folder.mkdir()
    (folder / "mine.jpg").write_bytes(b"a photo")
    assert render() == 2 and "synthetic.json" in capsys.readouterr().err
    assert render("--force") == 0 and (tmp_path / f"{folder.name}.before1" / "mine.jpg").read_bytes() == b"a photo"
    assert render() == 0 and render("--seed", "2") == 2 and "--force" in capsys.readouterr().err
    assert render("--seed", "2", "--force") == 0 and json.loads((folder / "synthetic.json").read_text())["seed"] == 2
    assert not (tmp_path / f"{folder.name}.before2").exists(), "an older rendering is deleted"


def test_an_artefact_and_the_page_replace_only_their_own(tmp_path, monkeypatch):
    from dgnet import core
    from dgnet.report import require_own_page, write_report
    monkeypatch.setattr(core, "FIGURES", tmp_path)
    monkeypatch.delenv("IN_TEST", raising=False)
    monkeypatch.delenv("DGNET_FORCE", raising=False)
    core.save_artifact("table_of_mine", "mini", rows={"a": 1})
    core.save_artifact("table_of_mine", "mini", rows={"a": 2})
    (tmp_path / "mini" / "other.json").write_text("[1]")
    with pytest.raises(FileExistsError, match="other.json: is there already"):
        core.save_artifact("other", "mini", rows={"a": 1})
    page = tmp_path / "report.html"
    write_report(page, [], tmp_path)
    write_report(page, [], tmp_path)
    page.write_text("<html><title>my page</title></html>")
    with pytest.raises(FileExistsError, match="report.html: is there already"):
        write_report(page, [], tmp_path)
    assert "my page" in page.read_text()
    monkeypatch.setenv("DGNET_FORCE", "1")
    require_own_page(page)


def test_from_a_wheel_the_notebooks_are_missed_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    from dgnet import reproduce as R
    monkeypatch.setattr(R, "ROOT", tmp_path)
    monkeypatch.setattr(R, "train_all", lambda *_: pytest.fail("trained"))
    assert R.reproduce_cli(["--tier", "smoke", "--only", "fig1"]) == 2
    message = capsys.readouterr().err
    assert "fig1_swap_grid.ipynb" in message and "DGNET_ROOT" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("env, words", [
    ({"DGNET_DEVICE": "gpu"}, ("DGNET_DEVICE=gpu", "no such device", "cpu")),
    ({"DGNET_DEVICE": "meta"}, ("DGNET_DEVICE=meta",)),
    ({"MPLBACKEND": "nonsense", "HOME": "/nonexistent/home"}, ("MPLBACKEND=nonsense", "Unset it")),
])
def test_the_environment_is_named_when_it_is_at_fault(place, env, words, tmp_path):
    "A device is refused before the photos are looked at; a backend or a home that is not there does no harm."
    program = "import sys; from dgnet.train_own import train_cli; sys.exit(train_cli())"
    p = subprocess.run([sys.executable, "-c", program, str(place / "people"), "--out", str(tmp_path / "out"), *FEW],
                       env={**os.environ, "PYTHONPATH": str(ROOT), "DGNET_ROOT": str(tmp_path), **env},
                       capture_output=True, text=True)
    assert "Traceback" not in p.stderr and all(w in p.stderr for w in words), p.stderr
    assert p.returncode == (2 if "DGNET_DEVICE" in env else 0), p.stderr
    assert (tmp_path / "out" / "lists.png").exists() == ("DGNET_DEVICE" not in env)
