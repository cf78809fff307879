"""Datasets whole and damaged in every layout, strays, odd names, bad input: what `dgnet_data check` says, and that it
changes nothing."""

import configparser
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dgnet.check import KINDS, card_of, check_dataset, contact_sheet, data_cli, differences
from dgnet.datasets import DATASETS, Label, load_dataset, make_split
from dgnet.photos import decode
from dgnet.reid import Embeddings, camera_rule
from dgnet.sources import CARDS, Card, Count, card_text
from dgnet.synthetic import write_domain
from dgnet.verdict import unanswered

ROOT = Path(__file__).resolve().parent.parent


def photo(path: Path, mode="RGB", size=(32, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).convert(mode).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def plant(root: Path, files: dict) -> Path:
    for folder, names in files.items():
        for n in names: photo(root / folder / n)
    return root

MARKET = {
    "bounding_box_train": [f"000{p}_c{c}s1_000{p}_0{c}.jpg" for p in (2, 7) for c in (1, 2)],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0001_c2s1_000301_00.jpg.jpg"],
}
DUKE = {"bounding_box_train": ["0001_c2_f0046182.jpg", "0001_c3_f0046182.jpg", "0003_c1_f1.jpg", "0003_c1_f2.jpg"],
        "query": ["0005_c8_f0046985.jpg"], "bounding_box_test": ["0005_c1_f0051341.jpg"]}
CUHK = {"bounding_box_train": ["0001_c1_1.png", "0001_c2_2.png", "0002_c1_3.png", "0002_c2_4.png"],
        "query": ["0009_c1_1.png"], "bounding_box_test": ["0009_c2_2.png"]}
TREE = {"train_all/0002": ["0002_c1s1_0_0.jpg", "0002_c2s1_0_0.jpg"],
        "train_all/0007": ["0007_c1s1_0_0.jpg", "0007_c2s1_0_0.jpg"],
        "query/0001": ["0001_c1s1_0_0.jpg"], "gallery/0001": ["0001_c2s1_0_0.jpg"], "gallery/-1": ["-1_c2s1_0_0.jpg"]}
OWN = {"Ada Łukasz": ["at the door.jpg", "im Flur ü.jpg"], "山田": ["一.jpg", "二.jpg"]}
MSMT = {"train": ["0000_000_01_0303morning_0015_0.jpg 0", "0000_001_02_0303morning_0015_0.jpg 0",
                  "0001_000_01_0303morning_0015_0.jpg 1"], "val": ["0001_003_15_0303noon_0015_0.jpg 1"],
        "query": ["0000_000_11_0303morning_0015_0.jpg 0"], "gallery": ["0000_001_02_0303morning_0015_0.jpg 0"]}


def msmt(root: Path) -> Path:
    for name, lines in MSMT.items():
        rows = [f"{line[:4]}/{line}" for line in lines]
        for r in rows:
            photo(root / ("test" if name in ("query", "gallery") else "train") / r.split()[0])
        (root / f"list_{name}.txt").write_text("\n".join(rows) + "\n")
    return root


def state(root: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


@pytest.fixture
def market(tmp_path):
    return plant(tmp_path / "Market-1501-v15.09.15", MARKET)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_domain("market", tmp_path_factory.mktemp("w"), n_train_ids=3, n_test_ids=2, n_val_ids=2,
                        images_per_id=4, test_images_per_id=4, height=32, width=16)


@pytest.mark.parametrize("files, name, title, n", [
    (MARKET, "market", "Market-1501", 12), (DUKE, "duke", "DukeMTMC-reID", 9),
    (CUHK, "cuhk03", "CUHK03-NP, detected", 7), (TREE, "folder", "photos of your own", 0),
    (OWN, "folder", "photos of your own", 0),
])
def test_layouts(tmp_path, files, name, title, n):
    root = plant(tmp_path / "set", files)
    before = state(root)
    r = check_dataset(root)
    assert (r.name, r.card.title, r.root) == (name, title, root) and state(root) == before
    counts = [f for f in r.findings if f.kind == "counts"]
    assert bool(counts) == bool(n) and r.fit == (not n)
    mine = check_dataset(root, own=True)
    assert mine.fit and mine.card.title == "photos of your own" and "counts" not in mine.kinds("stop")
    assert data_cli(["check", str(root), "--own"]) == 0 and data_cli(["check", str(root)]) == (1 if n else 0)


def test_both_boxes_of_cuhk03(tmp_path):
    for kind in ("detected", "labeled"): plant(tmp_path / kind, CUHK)
    ways = ((tmp_path, None), (tmp_path, "cuhk03-labeled"), (tmp_path / "labeled", None))
    titles = [check_dataset(p, n).card.title for p, n in ways]
    assert titles == ["CUHK03-NP, detected", "CUHK03-NP, labeled", "CUHK03-NP, labeled"]


def test_msmt17(tmp_path):
    photo(msmt(tmp_path) / "train" / "0000" / "0000_009_01_0303morning_0015_0.jpg")
    (tmp_path / "test" / "0000" / "Thumbs.db").touch()
    r = check_dataset(tmp_path, own=True)
    assert r.name == "msmt17" and r.kinds("look") == {"unlisted": 1} and r.kinds("note") == {"stray": 1}
    assert "shared" not in check_dataset(tmp_path).kinds("stop"), "test people are counted from 0 again"
    for label in ("", " zero"):
        (tmp_path / "list_query.txt").write_text("0000/" + MSMT["query"][0].split()[0] + label + "\n")
        with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}/list_query.txt, line 1: no 'path number'"):
            check_dataset(tmp_path)


def test_a_tree_is_known_by_its_counts(tmp_path, monkeypatch):
    data = load_dataset(None, plant(tmp_path, TREE))
    assert card_of(data).title == "photos of your own"
    small = Card("small", "", "", "", "", counts={"train": Count(4, 2), "gallery": Count(2, 1, 1)})
    monkeypatch.setitem(CARDS, "duke", small)
    assert card_of(data).title == "small" and check_dataset(tmp_path).fit


def test_a_world(world):
    before = state(world)
    r = check_dataset(world)
    assert r.fit and not r.card.real and r.verdict == "fit to train on"
    assert r.shapes == {"RGB 32 x 16": sum(r.table["photos"])} and state(world) == before
    gone = Path(shutil.copytree(world, world.parent / "gone"))
    next((gone / "bounding_box_train").glob("*.jpg")).unlink()
    r = check_dataset(gone)
    assert r.kinds("stop") == {"gone": 1} and "render it again" in r.verdict


def test_worlds_of_all_kinds(tmp_path):
    for w in ("duke", "msmt17", "cuhk03"):
        root = write_domain(w, tmp_path, n_train_ids=2, n_test_ids=2, n_val_ids=2, images_per_id=4,
                            test_images_per_id=4, height=32, width=16)
        assert check_dataset(root).fit, w


def listed(root: Path, file: Path, **other) -> Path:
    "A dataset's photos in a CSV."
    rows = [(os.path.relpath(p, file.parent), i, c, s.name) for s in load_dataset(None, root).splits for p, i,
            c in zip(s.paths, s.ids, s.cams)]
    pd.DataFrame(rows, columns=["path", "id", "camera", "split"]).assign(**other).to_csv(file, index=False)
    return file


def test_a_csv(world, tmp_path, capsys):
    file = listed(world, tmp_path / "photos.csv")
    before = state(tmp_path)
    r = check_dataset(file)
    assert (r.name, r.card.title, r.root) == ("csv", "photos of your own, listed in a CSV", tmp_path)
    assert r.fit and r.verdict == "fit to train on" and state(tmp_path) == before
    assert r.table.photos.tolist() == check_dataset(world).table.photos.tolist()
    assert card_of(load_dataset(None, file), own=True).title == "photos of your own"
    assert data_cli(["check", str(file), "--name", "csv", "--sheet", str(tmp_path / "s.png"), "--csv",
                     str(tmp_path / "found.csv")]) == 0
    assert "layout csv" in capsys.readouterr().out and (tmp_path / "s.png").stat().st_size > 1000
    assert (tmp_path / "found.csv").is_file()
    short = pd.read_csv(file)[2:]
    short.to_csv(tmp_path / "short.csv", index=False)
    assert check_dataset(tmp_path / "short.csv").kinds("look") == {"unlisted": 2}
    blind = check_dataset(listed(world, tmp_path / "blind.csv", camera=""))
    assert blind.fit and set(blind.kinds("note")) == {"no cameras"}


def test_a_csv_and_its_photos_stay_as_they_are(tmp_path, capsys):
    for k in range(4): photo(tmp_path / f"{k}.png")
    file, link = tmp_path / "photos.csv", tmp_path / "link.png"
    file.write_text("path,id\n" + "".join(f"{k}.png,{k // 2 + 1}\n" for k in range(4)))
    link.symlink_to(tmp_path / "1.png")
    before = state(tmp_path)
    for args, words in (
        (["--csv", str(file)], "is the list of photos itself"),
        (["--sheet", str(tmp_path / "0.png")], "is there already"),
        (["--sheet", str(tmp_path / "0.png"), "--force"], "is one of the photos"),
        (["--sheet", str(link), "--force"], "is one of the photos"),
        (["--pattern", r"(?P<id>\d)(?P<cam>\d)"], "Leave it out"),
        (["--name", "market"], "a CSV file, not market"),
    ):
        assert data_cli(["check", str(file), *args]) == 2
        out = capsys.readouterr()
        assert words in out.err and out.err.count("\n") == 1 and out.err.startswith("dgnet_data: ")
        assert not out.out and state(tmp_path) == before
    assert data_cli(["check", str(file)]) == 0 and data_cli(["check", str(tmp_path / "0.png")]) == 2
    assert "a file, not a folder" in capsys.readouterr().err
    file.write_text("path,id\nnone.png,1\n")
    assert data_cli(["check", str(file)]) == 2
    assert re.fullmatch(r"dgnet_data: .*photos.csv, line 2: there is no photo none.png.*\n", capsys.readouterr().err)


def test_a_pattern(tmp_path, capsys):
    root = plant(tmp_path / "own", {".": [f"cam{c}-person{p}-{k}.jpg" for c in (1, 12) for p in (1, 2)
                                          for k in range(2)]})
    rule = r"cam(?P<cam>\d+)-person(?P<id>\d+)"
    r = check_dataset(root, pattern=rule)
    assert r.fit and r.name == "folder"
    assert r.table.iloc[0][["photos", "people", "cameras"]].tolist() == [8, 2, 2]
    assert data_cli(["check", str(root), "--pattern", rule, "--sheet", str(tmp_path / "s.png")]) == 0
    capsys.readouterr()
    for wrong, words in (("(", "not a regular expression"), (r"(?P<id>\d+)", "lacks the group cam"),
                        (r"p(?P<id>\d+)c(?P<cam>\d+)", "e.g. cam1-person1-0.jpg")):
        assert data_cli(["check", str(root), "--pattern", wrong]) == 2
        out = capsys.readouterr()
        assert words in out.err and out.err.count("\n") == 1 and not out.out


def test_what_is_turned_by_exif_is_measured_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "lying.jpg", exif=exif)
    assert decode(tmp_path / "lying.jpg")[:3] == ("RGB", 40, 20)


def test_the_withdrawn_set_is_told_in_the_card_and_not_as_a_warning(tmp_path, recwarn, capsys):
    assert data_cli(["check", str(plant(tmp_path, DUKE)), "--own"]) == 0 and not recwarn.list
    assert data_cli(["check", str(tmp_path)]) == 1 and "WITHDRAWN" in capsys.readouterr().out and not recwarn.list


def test_damaged_photos(market, tmp_path):
    whole = photo(tmp_path / "whole.jpg", size=(64, 128)).read_bytes()
    train = market / "bounding_box_train"
    png = photo(tmp_path / "whole.png", size=(64, 128)).read_bytes()
    damaged = {"0010_c1s1_1_1.jpg": whole[:700], "0010_c1s1_1_2.jpg": b"", "0010_c1s1_1_3.jpg": b"<html>",
            "0010_c1s1_1_4.png": png[:400], "0010_c1s1_1_5.png": png[:60] + b"x" * 60 + png[120:]}
    for name, content in damaged.items(): (train / name).write_bytes(content)
    for k, mode in enumerate(("L", "RGBA", "CMYK", "P")):
        photo(train / f"0011_c{k}s1_1_1.{'jpg' if mode in 'LCMYK' else 'png'}", mode, (64, 128))
    photo(train / "0012_c1s1_1_1.jpg", size=(90, 60))
    photo(train / "0012_c1s1_1_2.jpg", size=(8, 40))
    r = check_dataset(market, own=True)
    faults = dict(zip(damaged, ("truncated", "empty", "broken", "truncated", "broken")))
    assert {f.what.split("/")[1]: f.kind for f in r.findings if f.level == "stop"} == faults
    assert sorted(f.detail for f in r.findings if f.kind == "mode") == ["CMYK", "L", "P", "RGBA"]
    assert sorted(f.detail for f in r.findings if f.kind == "size") == ["40 x 8", "60 x 90"]
    assert not r.fit and r.verdict.count("unpack or copy it again") == 1, "one remedy, said once"
    assert {f.detail for f in check_dataset(market).findings if f.kind
            == "size"} >= {"64 x 32"}, "Market-1501's photos are all 128 x 64"


def test_strays_by_kind(market):
    for n in ("Thumbs.db", ".DS_Store", "._0002_c1s1_0002_01.jpg", ".hidden", "a.mat", "README"):
        (market / "query" / n).write_bytes(b"x")
    photo(market / "query" / "holiday photo.jpg")
    r = check_dataset(market, own=True)
    strays = sorted(f.detail for f in r.findings if f.kind == "stray")
    assert strays == ["*.mat", ".DS_Store", "._* (macOS)", "Thumbs.db", "hidden", "no ending"]
    assert [f.what for f in r.findings if f.kind == "name"] == ["query/holiday photo.jpg"]
    assert r.kinds("note")["double"] == 1 and r.fit


def test_people_and_cameras(tmp_path):
    files = {k: list(v) for k, v in MARKET.items()}
    files["bounding_box_train"] += ["0001_c5s1_1_1.jpg", "0000_c1s1_1_1.jpg"]
    files["query"] += ["0020_c1s1_1_1.jpg"]
    files["bounding_box_test"] += ["0020_c1s1_1_2.jpg"]
    r = check_dataset(plant(tmp_path / "a", files), own=True)
    stops = {(f.kind, f.split) for f in r.findings if f.level == "stop"}
    assert stops == {("shared", "query"), ("shared", "gallery"), ("nobody", "train")}
    assert [f.what for f in r.findings if f.kind == "unanswered"] == ["query/0020_c1s1_1_1.jpg"]
    assert r.kinds("note")["single"] == 1
    files = {**MARKET, "bounding_box_test": ["0001_c1s1_000301_00.jpg"]}
    assert check_dataset(plant(tmp_path / "b", files), own=True).kinds("stop") == {"lost": 1}
    tree = {**TREE, "gallery/0001": ["0001_c2s1_0_0.jpg", "somewhere.jpg"]}
    assert check_dataset(plant(tmp_path / "c", tree)).kinds("stop") == {"cameras": 1}
    assert check_dataset(plant(tmp_path / "d", {"only one": ["a.jpg", "b.jpg"]})).kinds("stop") == {"few": 1}
    blind = {k: [f"{j}.jpg" for j in range(len(v))] for k, v in TREE.items()}
    assert check_dataset(plant(tmp_path / "e", blind)).kinds("note") == {"no cameras": 1}
    assert check_dataset(plant(tmp_path / "f", OWN)).kinds("note") == {"untested": 1}


def test_unanswered_is_the_evaluators_rule():
    rng = np.random.default_rng(0)

    def split(n, name):
        people, cameras = rng.integers(-1, 20, n).tolist(), rng.integers(-1, 3, n).tolist()
        return make_split([Path(f"{k}.jpg") for k in range(n)], list(map(Label, people, cameras)), name)
    q, g = split(80, "query"), split(60, "gallery")
    a, b = (Embeddings(torch.zeros(s.n, 1), torch.zeros(s.n, 1), torch.from_numpy(s.ids), torch.from_numpy(s.cams))
            for s in (q, g))
    assert unanswered(q, g).tolist() == (~camera_rule(a, b).match.any(1)).tolist() and 0 < unanswered(q, g).sum() < q.n


def test_names_of_every_kind(tmp_path, capsys):
    root = plant(tmp_path / "meine Fotos – 写真", OWN)
    odd = os.fsdecode(b"caf\xe9")
    try:
        (root / odd).mkdir()
    except OSError:
        odd = "café"
        (root / odd).mkdir()
    for k in range(2): shutil.copy(root / "山田" / "一.jpg", root / odd / f"{k}.jpg")
    (root / odd / "broken.jpg").write_bytes(b"")
    assert data_cli(["check", str(root), "--csv", str(tmp_path / "f.csv"), "--sheet", str(tmp_path / "s.png")]) == 1
    out = capsys.readouterr().out
    assert "broken.jpg" in out and "写真" in out and out.encode("utf-8") and "stays on this machine" in out
    assert pd.read_csv(tmp_path / "f.csv").kind.tolist()[0] == "empty" and Image.open(tmp_path / "s.png").width > 100


def test_a_terminal_without_unicode(tmp_path, monkeypatch):
    root = plant(tmp_path / "写真", OWN)
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert data_cli(["check", str(root)]) == 0 and data_cli(["card"]) == 0
    out.flush()
    assert b"in ??" in out.buffer.getvalue() and b"not enough to train on" in out.buffer.getvalue()


def test_the_sheet_of_a_world_needs_no_reminder(world, tmp_path, capsys):
    assert data_cli(["check", str(world), "--sheet", str(tmp_path / "s.png")]) == 0
    out = capsys.readouterr().out
    assert "stays on this machine" not in out and out.rstrip().endswith("fit to train on")
    assert (tmp_path / "s.png").stat().st_size > 1000
    fig = contact_sheet(load_dataset(None, world), n_people=2, n_photos=3)
    assert len([a for a in fig.axes if re.match(r"\d+ · c\d", a.get_title())]) == 6


def test_a_read_only_folder(world, tmp_path):
    root = Path(shutil.copytree(world, tmp_path / "w"))
    folders = [root, *[p for p in root.rglob("*") if p.is_dir()]]
    for p in folders: p.chmod(0o555)
    before = state(root)
    try:
        assert check_dataset(root).fit and state(root) == before
    finally:
        for p in folders: p.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_without_permission(capsys):
    root, me = Path(tempfile.mkdtemp()), os.geteuid()
    plant(root, MARKET)
    root.chmod(0o755)
    try:
        for closed in (root / "query", root):
            closed.chmod(0)
            if me == 0: os.seteuid(65534)
            try:
                status = data_cli(["check", str(root)])
            finally:
                os.seteuid(me)
            assert status == 2
            assert re.fullmatch(r"dgnet_data: .*no permission to read.*chmod -R u\+rX .*\n", capsys.readouterr().err)
            closed.chmod(0o755)
        first = next((root / "bounding_box_train").iterdir())
        first.chmod(0)
        if me == 0: os.seteuid(65534)
        try:
            fault = decode(first).fault
        finally:
            os.seteuid(me)
        assert fault == "locked" and KINDS["locked"].level == "stop"
    finally:
        shutil.rmtree(root)


def test_bad_input_is_one_line_and_changes_nothing(market, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / "set.zip").write_bytes(b"PK")
    before = state(tmp_path)
    for args, words in [
        ([tmp_path / "none"], "none: no such folder"), ([tmp_path / "set.zip"], "set.zip: a file, not a folder"),
        ([tmp_path / "empty"], "empty: an empty folder"), ([tmp_path / "notes"], "notes: no known dataset"),
        ([market, "--name", "Market1501"], "'Market1501': no such dataset; one of market"),
        ([market, "--name", "duke"], "looks like market, not duke"),
        ([market, "--sheet", tmp_path / "none" / "s.png"], "there is no folder"),
        ([market, "--sheet", market / "s.png"], "inside the dataset"),
        ([market, "--sheet", tmp_path / "s.exe"], "ends in .png"),
        ([market, "--csv", tmp_path / "empty"], "ends in .csv"),
        ([market, "--csv", tmp_path / "none" / "f.csv"], "there is no folder"),
    ]:
        assert data_cli(["check", *map(str, args)]) == 2
        out = capsys.readouterr()
        assert words in out.err and out.err.startswith("dgnet_data: ") and out.err.count("\n") == 1 and not out.out
    assert state(tmp_path) == before
    shutil.rmtree(market / "query")
    assert data_cli(["check", str(market)]) == 2 and "query: no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as e:
        data_cli([])
    assert e.value.code == 2


def test_cards(capsys):
    assert data_cli(["card", "duke"]) == 0 and "WITHDRAWN" in capsys.readouterr().out
    assert data_cli(["card"]) == 0
    shown = capsys.readouterr().out
    assert all(c.title in shown for c in CARDS.values())
    assert data_cli(["card", "veri"]) == 2 and "no such card; there are market" in capsys.readouterr().err
    assert set(CARDS) == {*DATASETS, "synthetic"} and all(all(c[:5]) for c in CARDS.values())
    assert "12,936 photos of 751 people" in card_text(CARDS["market"])


def test_cards_agree_with_the_table_in_data():
    text = "".join("".join(c["source"])
                   for c in json.loads((ROOT / "nbs" / "14_datasets.ipynb").read_text(encoding="utf-8"))["cells"]
                   if c["cell_type"] == "markdown")
    for title, name in (("Market-1501 ", "market"), ("DukeMTMC-reID ", "duke"), ("MSMT17 ", "msmt17"),
                        ("CUHK03-NP, detected ", "cuhk03")):
        cells = re.search(rf"^\| {title}.*$", text, re.M)[0].split("|")[2:-1]
        words, card = [[int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", c)] for c in cells], CARDS[name]
        assert words[:2] == [[*card.counts["train"][:2]], [*card.counts["query"][:2]]] and words[3] == [card.cameras]
        gallery = card.counts["gallery"]
        assert words[2] == [gallery.photos, *[v for v in (gallery.junk, gallery.distractors) if v]]


def test_a_missing_photo_is_a_difference(market):
    data = load_dataset(None, market)
    card = Card("", "", "", "", "", cameras=2, counts={"train": Count(4, 2), "gallery": Count(3, 1, 1, 1)})
    assert not differences(data, card)
    short = data._replace(train=data.train.take(slice(1, None)))
    assert [(f.what, f.detail) for f in differences(short, card)] == [("photos", "3, published 4")]


def test_the_command_is_installed():
    cfg = configparser.ConfigParser(delimiters=["="], interpolation=None)
    cfg.read_string((ROOT / "settings.ini").read_text(encoding="utf-8"))
    assert "dgnet_data=dgnet.commands:data_command" in cfg["DEFAULT"]["console_scripts"].split()
