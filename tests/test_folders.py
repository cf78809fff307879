"""Any tree of folders and any table: every photo is used or counted as unused, persons are called as they were written,
`check` and training agree, and nothing is changed."""

import csv
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgnet import verdict
from dgnet.check import check_dataset
from dgnet.datasets import load_dataset, relabel
from dgnet.galleries import find_person, open_gallery
from dgnet.labels import is_photo
from dgnet.photos import TripletSampler
from dgnet.tables import whole_number


def often(n: int): return settings(max_examples=n, deadline=None, derandomize=True, database=None)

PERSON = st.sampled_from(["1", "2", "7", "07", "0003", "10", "0", "-1", "anna", "Zoë", "Zoe\u0308", "a b", "#1", "cam1",
                          "cam2", "test", "x" * 60, "9" * 20])
FILE = st.sampled_from(["a.jpg", "b.png", "c.JPG", "0007_c1s1_000_00.jpg", "0007_c2s1_000_00.jpg", "0001_c1_1.png",
                        "20230514_134500_003_crop.jpg", "d.tif", "é.jpg", "x.jpg.jpg"])
STRAY = st.sampled_from(["Thumbs.db", "note.txt", "a.heic", "list.csv", "._a.jpg", "deep/a.jpg", "@eaDir/a.jpg",
                         "deep/deeper/b.png", ".hidden/a.jpg", "a.gif"])
PLACE = st.sampled_from(["", "images/", "train/", "test/", "query/", "gallery/", "val/", "train_all/", "misc/",
                         "bounding_box_train/", "bounding_box_test/"])
TREE = st.lists(st.one_of(st.tuples(PLACE, PERSON, FILE).map(lambda x: f"{x[0]}{x[1]}/{x[2]}"),
                          st.tuples(PLACE, FILE).map("".join), st.tuples(PLACE, STRAY).map("".join),
                          st.tuples(PERSON, STRAY).map("/".join)), min_size=1, max_size=25, unique=True)
LAYOUT = st.tuples(st.sampled_from(["", "images/", "train/"]), st.lists(PERSON, min_size=1, max_size=6, unique=True),
                   st.integers(1, 4),
                   st.sampled_from(["{k}.jpg", "{w}_c{c}s1_{k}.jpg", "{w}_c{k}.jpg", "x_{k}_{c}_.png"]))
PIXELS = [np.random.default_rng(k).integers(0, 256, (20, 17, 3), np.uint8) for k in range(40)]


def write(root: Path, names: list, links: bool = False) -> None:
    "A picture of its own for each name that is a photo's."
    for k, name in enumerate(names):
        path = root / name
        if any(p.is_file() for p in path.parents) or path.exists(): continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_photo(path.name):
            path.write_text("who,when\n")
            continue
        home = root.parent / "store" / f"{k}.png" if links and k % 3 == 0 else path
        home.parent.mkdir(exist_ok=True)
        kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "TIFF" if path.suffix == ".tif" else "PNG"
        Image.fromarray(PIXELS[k % 40]).save(home, kind)
        if home != path: path.symlink_to(home)


def state(root: Path) -> dict:
    return {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(root.rglob("*"))}


def photos_below(root: Path) -> set:
    return {str(p) for p in root.rglob("*") if is_photo(p.name) and not p.is_dir()}


def agree(path: Path) -> None:
    "What is promised of any dataset that can be read."
    before = state(path if path.is_dir() else path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = load_dataset(None, path)
        except (ValueError, OSError) as e:
            assert str(path) in str(e) and len(str(e)) < 1500, e
            return
        report, g = check_dataset(path), open_gallery(path)
    root = path if path.is_dir() else path.parent
    used = {str(p) for s in data.splits for p in s.paths}
    unused = {str(r.path) for r in data.remarks if r.kind not in ("guessed", "picked")}
    assert not used & unused
    if path.is_dir(): assert photos_below(root) == used | {p for p in unused if is_photo(p)}, "used or counted"
    assert sum(report.table.photos) == sum(s.n for s in data.splits)
    counted = sum(report.kinds(level).get(kind, 0) for level in ("look", "note")
                  for kind in {r.kind for r in data.remarks})
    assert counted == len(set((r.kind, r.path, r.detail) for r in data.remarks))
    for person in g.split.people:   # who is shown under a name is found under it
        assert find_person(data.person(person), g) == person or list(data.names.values()).count(data.person(person)) > 1
    trains = True
    try:
        verdict.require_trainable(report)
        held = verdict.hold_out_people(data)
        TripletSampler(relabel(held.train.ids), 4, 0)
        query, gallery = verdict.test_splits(held)
        assert query.n and gallery.n
    except ValueError:
        trains = False
    assert trains == report.trainable, report.verdict
    assert ("fit to train on" in report.verdict and not report.verdict.startswith("not")) == trains
    assert state(root) == before


@often(60)
@given(TREE, st.booleans())
def test_any_tree(names, links):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "own"
        root.mkdir()
        write(root, names, links)
        agree(root)


@often(60)
@given(LAYOUT, st.lists(STRAY, max_size=3, unique=True), st.booleans())
def test_folders_of_people(layout, strays, links):
    place, people, photos, form = layout
    names = [f"{place}{w}/{form.format(w=w, k=k, c=1 + k % 2)}" for w in people for k in range(photos)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "own"
        root.mkdir()
        write(root, names + strays, links)
        agree(root)


CELL = st.sampled_from(["1", "1.0", " 1 ", "2", "0002", "3", "4", "7", "nan", "", "anna", "Zoë", "Zoe\u0308", "0",
                        "-1"])
ROW = st.tuples(st.integers(0, 30), CELL, st.sampled_from(["", "1", "2", "2.0", "nan"]),
                st.sampled_from(["train"] * 6 + ["query", "gallery", "val_query", "val_gallery"]))


@often(80)
@given(st.lists(ROW, min_size=1, max_size=24, unique_by=lambda r: (r[0], r[3])),
       st.sampled_from([None, None, "1", "anna"]))
def test_any_table(rows, person):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "own"
        root.mkdir()
        write(root, [f"p/é{k}.png" for k in range(32)])
        cells = [(f"p/é{k}.png", person if person and i in ("nan", "") else i, c, s) for k, i, c, s in rows]
        with open(root / "t.csv", "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([("path", "id", "camera", "split"), *cells])
        agree(root / "t.csv")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = load_dataset(None, root / "t.csv")
            except (ValueError, OSError):
                return
        shown = {(p.name, s.name): data.person(i) for s in data.splits for p, i in zip(s.paths, s.ids)}
        for name, cell, _, split in cells:
            written, here = cell.strip(), shown[name.split("/")[1], split]
            same = whole_number(written) is not None and int(whole_number(written)) == int(whole_number(here) or -9)
            assert same or here == written.replace("e\u0308", "ë")
        listed = {str(root / name) for name, *_ in cells}
        unlisted = {str(r.path) for r in data.remarks if r.kind == "unlisted"}
        assert listed | unlisted == photos_below(root / "p") and not listed & unlisted
