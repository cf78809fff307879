"""Training on photos of one's own: every layout, odd photos, set aside or not, resumed, refused; and that the photos
stay as they are."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layouts import write_layouts

ROOT = Path(__file__).resolve().parent.parent
FEW = {"n_iter": 6, "teacher_iter": 4}


def state(root: Path) -> dict:
    root = root if root.is_dir() else root.parent
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


@pytest.fixture(scope="module")
def T(tmp_path_factory):
    "`dgnet.train_own` with a local folder of its own."
    import dgnet.runs as runs
    import dgnet.train_own as module
    local = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGNET_DEVICE", "cpu")
        patch.setattr(module, "LOCAL", local)
        patch.setattr(runs, "LOCAL", local)
        yield module
    runs._PHOTOS.clear()
    runs._loaded.cache_clear()


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    return write_layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def folder(layouts):
    return layouts["folder"]

NAMES = ("market", "duke", "msmt17", "cuhk03", "pytorch", "folder", "csv")


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_from_photos_to_a_page(T, layouts, name, tmp_path, capsys):
    path, before = layouts[name], state(layouts[name])
    assert T.train_cli([str(path), "--tier", "smoke", "--own", "--out", str(tmp_path / "out"), "--set", "n_iter=6",
                        "teacher_iter=4"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors", "metrics.json", "log.csv", "report.html", "losses.png", "swaps.png", "lists.png"}
    assert str(tmp_path / "out" / "model.safetensors") in out and "Baseline" in out and "f_prim, f_fine" in out
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(0 < m["mAP"] <= 100 for m in facts["marks"]), "never 0, whatever is known of cameras"
    assert {m["protocol"] for m in facts["marks"]} == {"no cameras" if name == "folder" else "cross-camera"}
    assert state(path) == before, "nothing is written among the photos"


def test_the_page_needs_nothing_else_and_says_whose_pictures_it_shows(T, folder, tmp_path):
    result = T.train_own(folder, "smoke", tmp_path / "out", **FEW)
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    import re
    assert not re.search(r"<(link|iframe|object|script src)|src='(?!data:)", page) and page.count("<img") == 3
    for words in ("photographs of people", "set aside before training", "No camera labels", "Tier smoke"):
        assert words in page
    assert str(tmp_path) not in page and str(folder.parent) not in page, "no path of this machine"


def test_the_same_command_finds_the_run_and_other_photos_do_not(T, folder, tmp_path, monkeypatch):
    first = T.train_own(folder, "smoke", tmp_path / "out", **FEW)
    calls = []
    again = T.train_own(folder, "smoke", tmp_path / "out", report=lambda *a: calls.append(a), **FEW)
    assert not calls and again.folder == first.folder and again.run.provenance == first.run.provenance
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    moved = T.train_own(other, "smoke", tmp_path / "moved", report=lambda *a: calls.append(a), **FEW)
    assert not calls and moved.run.provenance["run"] == first.run.provenance["run"], "the same photos elsewhere"
    one = sorted(other.rglob("*.*g"))[0]
    Image.effect_noise((32, 64), 50).convert("RGB").save(one)
    changed = T.train_own(other, "smoke", tmp_path / "changed", report=lambda *a: calls.append(a), **FEW)
    assert calls and changed.run.provenance["run"] != first.run.provenance["run"], "one photo is another photo"
    with pytest.raises(ValueError, match="holds something else already"):
        T.train_own(other, "smoke", tmp_path / "out", **FEW)


def test_nobody_is_learnt_from_and_measured_on(T, folder, layouts):
    from dgnet.datasets import load_dataset
    data = load_dataset(None, folder)
    held = T.hold_out_people(data)
    assert held.n_ids + len(T.test_splits(held)[0].people) <= data.n_ids
    assert not set(held.train.people) & set(T.test_splits(held)[1].people)
    market = load_dataset(None, layouts["market"])
    assert T.hold_out_people(market) is market, "with test people nobody is set aside"
    assert T.hold_out_people(market, 2).n_ids == market.n_ids - 2


def test_photos_that_cannot_be_read(T, folder, tmp_path, capsys):
    bad = tmp_path / "ein Ordner mit ü"
    shutil.copytree(folder, bad)
    victims = sorted(bad.rglob("*.*g"))[:2]
    victims[0].write_bytes(victims[0].read_bytes()[:100])
    victims[1].write_text("no photo")
    before = state(bad)
    assert T.train_cli([str(bad), "--tier", "smoke", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert all(words in message for words in (victims[0].name, victims[1].name, "--skip-broken"))
    assert not (tmp_path / "out").exists()
    result = T.train_own(bad, "smoke", tmp_path / "out", skip_broken=True, **FEW)
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(facts["left out"]) == 2 and state(bad) == before
    assert "2 photos could not be read" in (result.folder / "report.html").read_text()


def test_photos_of_every_mode_and_size(T, folder, tmp_path):
    odd = tmp_path / "odd"
    shutil.copytree(folder, odd)
    paths = sorted(odd.rglob("*.*g"))
    for k, mode in enumerate(("L", "RGBA", "CMYK", "P", "1", "I;16")):
        with Image.open(paths[k]) as im:
            rgb = im.convert("RGB").resize((17 + 40 * k, 31 + 9 * k))
        paths[k].unlink()
        if mode == "I;16":
            Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16) * 257)).save(paths[k].with_suffix(".png"))
        elif mode == "CMYK":
            rgb.convert(mode).save(paths[k].with_suffix(".jpg"))
        else:
            rgb.convert(mode).save(paths[k].with_suffix(".png"))
    assert T.train_own(odd, "smoke", tmp_path / "out", **FEW).marks["mAP"].gt(0).all()


def test_a_person_with_one_photo(T, folder, tmp_path):
    few = tmp_path / "few"
    shutil.copytree(folder, few)
    first = sorted(d for d in few.iterdir() if d.is_dir())[0]
    for p in sorted(first.iterdir())[1:]: p.unlink()
    assert T.train_own(few, "smoke", tmp_path / "out", **FEW).run.data.n_ids > 2


def test_an_exploding_loss_stops_names_itself_and_keeps_the_checkpoint(T, folder, tmp_path, capsys):
    args = [str(folder), "--tier", "smoke", "--out", str(tmp_path / "out"), "--save-every", "0", "--set", "n_iter=30",
            "lr_gen=1e12", "teacher_iter=4"]
    assert T.train_cli(args) == 1
    message = capsys.readouterr().err
    import re
    assert re.search(r"dgnet_train: (loss \w+.* is \S+ at iteration \d+|\S+ is not finite after iteration \d+): "
                     r"training stopped, the last checkpoint is kept", message), message
    import dgnet.runs as runs
    states = [torch.load(p, weights_only=True) for p in (runs.LOCAL / "runs").glob("folder-smoke-[0-9a-f]*/state.pt")]
    assert all(v.isfinite().all() for s in states for v in s["model"].values())
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_an_exploding_teacher_says_so_too(T, folder, tmp_path, capsys):
    assert T.train_cli([str(folder), "--tier", "smoke", "--out", str(tmp_path / "out"), "--set", "teacher_lr=1e18",
                        "teacher_iter=30"]) == 1
    assert "training stopped" in capsys.readouterr().err


def test_a_weak_teacher_is_refused_with_code_1(T, folder, tmp_path, capsys):
    assert T.train_cli([str(folder), "--tier", "smoke", "--out", str(tmp_path / "out"), "--set", "teacher_gate=2",
                        "teacher_iter=4"]) == 1
    assert "Train it longer (teacher_iter" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_read(T, folder, tmp_path):
    still = tmp_path / "read only"
    shutil.copytree(folder, still)
    for p in [still, *still.rglob("*")]: p.chmod(0o555 if p.is_dir() else 0o444)
    try:
        assert T.train_own(still, "smoke", tmp_path / "out", **FEW).marks["mAP"].gt(0).all()
    finally:
        for p in [still, *still.rglob("*")]: p.chmod(0o755)


def test_two_commands_on_one_folder_wait_for_each_other(folder, tmp_path):
    env = {**os.environ, "DGNET_ROOT": str(tmp_path / "root"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
           "DGNET_DEVICE": "cpu", "MPLBACKEND": "agg"}
    program = "import sys; from dgnet.train_own import train_cli; sys.exit(train_cli())"
    command = [sys.executable, "-c", program, str(folder), "--tier", "smoke", "--set", "n_iter=6", "teacher_iter=4"]
    both = [subprocess.Popen([*command, "--out", str(tmp_path / f"out {k}")], env=env, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for k in range(2)]
    message = [p.communicate(timeout=300) for p in both]
    assert [p.returncode for p in both] == [0, 0], message
    files = [(tmp_path / f"out {k}" / "model.safetensors").read_bytes() for k in range(2)]
    assert files[0] == files[1] and sum("DG-Net 6/6" in err for _, err in message) == 1, "one trained, the other waited"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "An untrained network's file: what is tested is the way in and out."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    torch.manual_seed(0)
    return DGNet(make_config("smoke"), 8).eval().save(tmp_path_factory.mktemp("m") / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_every_layout(layouts, model, name, tmp_path, capsys):
    "dgnet_generate and dgnet_rank"
    from dgnet.datasets import load_dataset
    from dgnet.generated_set import generate_cli
    from dgnet.search import rank_cli
    path, data = layouts[name], load_dataset(None, layouts[name])
    photo = str((data.query if data.query.n else data.train).paths[0])
    assert generate_cli(["set", str(path), "--pairs", "12", "--model", str(model), "--out",
                         str(tmp_path / "set")]) == 0, capsys.readouterr().err
    generated = load_dataset(None, tmp_path / "set")
    assert generated.train.n == 12 and set(generated.train.people) <= set(range(1, 100))
    assert rank_cli([photo, "--gallery", str(path), "--model", str(model), "--out", str(tmp_path / "strip.png"),
                     "--csv", str(tmp_path / "list.csv")]) == 0, capsys.readouterr().err
    message = capsys.readouterr()
    assert (tmp_path / "strip.png").stat().st_size > 5_000 and len((tmp_path / "list.csv").read_text().splitlines()) > 3
    assert "first true match at rank" in message.out, message.out
    assert ("camera" in (message.out + message.err).lower())


def test_control_says_whether_generated_images_helped(T, folder, tmp_path, capsys):
    args = [str(folder), "--tier", "smoke", "--out", str(tmp_path / "out"), "--set", "n_iter=6", "teacher_iter=4"]
    assert T.train_cli(args) == 0
    alone = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "control" not in alone and list(alone["queries"]["AP"]) == ["DG-Net"]
    capsys.readouterr()
    assert T.train_cli([*args, "--control", "--seeds", "2"]) == 0, "the same folder: DG-Net is found there"
    out, err = capsys.readouterr()
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    sentence = facts["control"]["sentence"]
    assert sentence in out and "4 trainings for the comparison" in err and "over 2 seeds and people" in sentence
    assert sentence[1:] in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    ap = {name: np.array(rows) for name, rows in facts["queries"]["AP"].items()}
    assert ap["DG-Net"].shape == ap["control"].shape == (2, len(facts["queries"]["photos"]))
    assert ap["DG-Net"][0].tolist() == alone["queries"]["AP"]["DG-Net"][0]
    gain = 100 * (ap["DG-Net"] - ap["control"]).mean()
    assert facts["control"]["gain"] == pytest.approx(gain, abs=1e-3), "the difference of the two mAPs, over seeds"
    rows = {m["feature"]: m["mAP"] for m in facts["marks"]}
    assert rows["control: f_prim, f_fine"] == pytest.approx(100 * ap["control"][0].mean(), abs=1e-3)
    assert rows["f_prim, f_fine"] == pytest.approx(100 * ap["DG-Net"][0].mean(), abs=1e-3)


@pytest.mark.parametrize("options", (["--seeds", "2"], ["--control", "--seeds", "0"]))
def test_seeds_need_a_control_and_a_number(T, folder, tmp_path, capsys, options):
    assert T.train_cli([str(folder), "--tier", "smoke", "--out", str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert "1 or more, together with --control" in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
