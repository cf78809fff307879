"""Datasets in every layout and every kind of disorder, photos, augmentation, and the sampler of pairs and positives."""

import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgnet.datasets import DATASETS, Label, describe, detect_layout, holdout, is_photo, load_dataset, make_split
from dgnet.datasets import name_rule, parse_name, pick_queries, relabel
from dgnet.photos import TripletSampler, augment, drop_unreadable, load_images, random_erasing, read_image, to_rgb
from dgnet.synthetic import read_factors, write_domain


def photo(path: Path, colour=(200, 30, 30), size=(8, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def boxes(root: Path, names: dict) -> Path:
    for folder, files in names.items():
        for f in files: photo(root / folder / f)
    return root


MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000500_01.jpg", "0007_c3s3_077419_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0001_c2s1_000301_00.jpg.jpg"],
    "gt_bbox": ["0001_c1s1_001051_00.jpg", "0001_c1s1_002051_00.jpg", "0002_c1s1_000451_03.jpg"],
}


@pytest.mark.parametrize("name, expected", [
    ("0002_c1s1_000451_03.jpg", (2, 1)), ("-1_c4s6_022316_11.jpg.jpg", (-1, 4)), ("0000_c6s3_094992_01.jpg", (0, 6)),
    ("0005_c8_f0046182.jpg", (5, 8)), ("0005_c12_f0046182.jpg", (5, 12)), ("0003_c2_17.png", (3, 2)),
    ("0005_c007_f0046182.jpg", (5, 7)), ("0002_c10s1_000451_03.jpg", (2, 10)),
    ("0000_000_123_0303morning_0015_0.jpg", (0, 123)), ("9" * 25 + "_c1.jpg", None), ("1_c" + "9" * 25 + ".jpg", None),
    ("", None), ("0000_000_01_0303morning_0015_0.jpg", (0, 1)), ("3059_021_15_0303noon_0500_2_ex.jpg", (3059, 15)),
    ("12345_c123s1_0_0.jpg", (12345, 123)),
    ("holiday.jpg", None), ("c1_0002.jpg", None), ("0002.jpg", None)])
def test_names(name, expected):
    assert parse_name(name) == expected


def test_what_is_a_photo():
    yes = ["a.jpg", "a.jpg.jpg", "a.JPEG", "a.Png", "a.webp", "a.bmp"]
    no = ["Thumbs.db", ".DS_Store", "._a.jpg", ".jpg", "a.mat", "a.jpg.part", "readme.txt", "jpg"]
    assert all(map(is_photo, yes)) and not any(map(is_photo, no))


def test_market_with_strays(tmp_path):
    root = boxes(tmp_path / "Market-1501-v15.09.15", MARKET)
    for stray in ("Thumbs.db", ".DS_Store", "._0002_c1s1_000451_03.jpg"):
        (root / "bounding_box_train" / stray).write_bytes(b"x")
    for path in (root, tmp_path):
        data = load_dataset(None, path)
        assert (data.name, data.root, data.n_ids) == ("market", root, 2)
        assert data.train.ids.tolist() == [2, 2, 7] and data.train.cams.tolist() == [1, 2, 3]
        assert len(data.train.ignored) == 3
        assert data.gallery.ids.tolist() == [-1, 0, 1] and data.gallery.people.tolist() == [1]
        assert data.multi_query.ids.tolist() == [1, 1], "only the queried people"
        assert data.val_query is None
    assert load_images(data.gallery, 16, 8).shape == (3, 3, 16, 8), ".jpg.jpg opens like any other"
    table = describe(data).set_index("split")
    assert table.loc["gallery", ["distractors", "junk"]].tolist() == [1, 1] and table.loc["train", "ignored files"] == 3


def test_an_unreadable_name_is_said(tmp_path):
    root = boxes(tmp_path, MARKET)
    photo(root / "query" / "holiday.jpg")
    with pytest.warns(UserWarning, match="1 photos passed over.*holiday.jpg"):
        data = load_dataset("market", root)
    assert data.query.n == 1 and data.query.ignored == ("holiday.jpg",)
    for f in (root / "query").iterdir(): f.rename(f.with_name("x" + f.name))
    with pytest.raises(ValueError, match="query: none of the 2 file names in it start like 0002_c1.*e.g. "
                       "x0001_c1s1.*Give a pattern"):
        load_dataset("market", root)


def test_duke_and_cuhk03(tmp_path):
    duke = boxes(tmp_path / "duke", {"bounding_box_train": ["0001_c2_f0046182.jpg"], "query": ["0005_c12_f0046985.jpg"],
                                     "bounding_box_test": ["0005_c1_f0051341.jpg"]})
    with pytest.warns(UserWarning, match="withdrawn by its owners") as warned:
        data = load_dataset(None, duke)
    assert len(warned) == 1 and "\n" not in str(warned[0].message) and str(duke) in str(warned[0].message)
    assert data.name == "duke" and data.query.cams.tolist() == [12]
    for kind in ("detected", "labeled"):
        boxes(tmp_path / "cuhk" / kind,
              {"bounding_box_train": [f"000{k}_c1_{k}.png" for k in range(1, 3 if kind == "detected" else 4)],
               "query": ["0009_c1_1.png"], "bounding_box_test": ["0009_c2_2.png"]})
    assert [load_dataset(n, tmp_path / "cuhk").train.n for n in (None, "cuhk03", "cuhk03-labeled")] == [2, 2, 3]
    assert load_dataset("cuhk03", tmp_path / "cuhk" / "labeled").train.n == 3, "the folder itself may be named"


def msmt(root: Path, train="train", test="test") -> Path:
    lists = {"train": ["0000/0000_000_01_0303morning_0015_0.jpg 0"], "val": ["0001/0001_003_15_0303noon_0015_0.jpg 1"],
             "query": ["0000/0000_000_11_0303morning_0015_0.jpg 0"],
             "gallery": ["0000/0000_001_02_0303morning_0015_0.jpg 0"]}
    for name, lines in lists.items():
        for line in lines: photo(root / (test if name in ("query", "gallery") else train) / line.split()[0])
        (root / f"list_{name}.txt").write_text("\n".join(lines) + "\n\n")
    return root


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17(tmp_path, folders):
    data = load_dataset(None, msmt(tmp_path, *folders))
    assert data.name == "msmt17" and data.train.n == 2 and data.train.cams.tolist() == [1, 15]
    assert data.query.cams.tolist() == [11] and data.person(data.query.ids[0]) == "0", "label 0 is a person"
    assert data.train.ids.tolist() == [1, 2] and data.query.ids.tolist() == data.gallery.ids.tolist() == [3], (
        "label 0 of the test half is another person than label 0 of the training half")
    data.gallery.paths[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"0000_001_02.*in list_gallery.txt.* but not on disk\. "):
        load_dataset(None, tmp_path)


def test_plain_folder(tmp_path):
    for person, n in (("Ada", 3), ("Grace", 2), ("Joan", 1)):
        for k in range(n): photo(tmp_path / person / f"{k}.jpg")
    (tmp_path / ".git").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "Ada" / "Thumbs.db").touch()
    data = load_dataset(None, tmp_path)
    assert data.name == "folder" and data.train.ids.tolist() == [1, 1, 1, 2, 2, 3] and (data.train.cams == -1).all()
    assert data.query.n == data.gallery.n == 0 and data.train.ignored == ("Thumbs.db",)
    assert holdout(data, 2).val_query.ids.tolist() == [2] and holdout(data, 2).val_gallery.ids.tolist() == [2, 3]


def test_the_official_tree(tmp_path):
    for folder, person, f in (("train_all", "0002", "0002_c1s1_0_0.jpg"), ("query", "0001", "0001_c1s1_0_0.jpg"),
                              ("gallery", "-1", "-1_c3s1_0_0.jpg"), ("gallery", "0001", "0001_c2s1_0_0.jpg"),
                              ("multi-query", "0001", "0001_c1s1_0_9.jpg")):
        photo(tmp_path / folder / person / f)
    data = load_dataset(None, tmp_path)
    assert (data.gallery.ids.tolist() == [-1, 1] and data.gallery.cams.tolist() == [3, 2] and data.multi_query.n == 1
            and data.n_ids == 1)
    shutil.rmtree(tmp_path / "query")
    with pytest.raises(FileNotFoundError, match="query: no such folder, though"):
        load_dataset(None, tmp_path)


def test_errors_name_path_and_remedy(tmp_path):
    def fails(error, match, name, path):
        with pytest.raises(error, match=match) as e:
            load_dataset(name, path)
        assert str(path) in str(e.value)
        return str(e.value)
    for name in (None, "market", "folder"):
        assert "Unpack" in fails(FileNotFoundError, "no such folder", name, tmp_path / "none")
    assert "Unpack" in fails(FileNotFoundError, "no known dataset", None, tmp_path)
    assert "Unpack" in fails(FileNotFoundError, "no known dataset", "folder", tmp_path)
    root = boxes(tmp_path / "m", MARKET)
    assert "name=None" in fails(ValueError, "looks like market, not duke", "duke", root)
    fails(ValueError, "no such dataset; one of market, duke", "Market1501", root)
    for f in (root / "query").iterdir(): f.unlink()
    fails(FileNotFoundError, "query: no photo in it", "market", root)
    shutil.rmtree(root / "bounding_box_test")
    photo(root / "query" / "0001_c1s1_0_0.jpg")
    fails(FileNotFoundError, "bounding_box_test: no such folder", "market", root)
    boxes(tmp_path / "n", MARKET)
    fails(ValueError, "holds 2 datasets", None, tmp_path)


def test_a_broken_photo_is_named(tmp_path):
    bad = tmp_path / "0001_c1s1_0_0.jpg"
    for content in (b"", b"no image", photo(tmp_path / "whole.jpg", size=(200, 200)).read_bytes()[:300]):
        bad.write_bytes(content)
        with pytest.raises(OSError, match="0001_c1s1_0_0.jpg: not a readable image"):
            load_images(make_split([bad], [Label(1, 1)], "train"), 16, 8)


@pytest.mark.parametrize("world", ["market", "duke", "msmt17", "cuhk03"])
def test_synthetic_worlds(tmp_path, world):
    data = load_dataset(None, write_domain(world, tmp_path, n_train_ids=5, n_test_ids=3, n_val_ids=2, images_per_id=6,
                                           test_images_per_id=6, height=32, width=16))
    f = read_factors(data.root)
    assert data.name == world and (data.n_ids, len(data.query.people), len(data.val_query.people)) == (5, 3, 2)
    for s in data.splits:
        files = [p.relative_to(data.root).as_posix() for p in s.paths]
        rows = [f.files.index(p) for p in files]
        assert (s.cams == f.cameras[rows]).all() and len(f.lookup(s.paths)[1].view) == s.n
        assert [int(data.person(i)) for i in s.ids] == f.ids[rows].tolist()
    assert sum(s.n for s in data.splits) == len(f.files) == len({p for s in data.splits for p in s.paths})
    assert set(data.val_query.ids) <= set(data.val_gallery.ids)


def test_the_synthetic_cuhk03_reads_like_the_real_one(tmp_path):
    root = write_domain("cuhk03", tmp_path, n_train_ids=5, n_test_ids=3, n_val_ids=2, images_per_id=9,
                        test_images_per_id=9, height=32, width=16)
    assert root == tmp_path / "CUHK03-NP" / "detected"
    for path in (tmp_path / "CUHK03-NP", root):
        for name in ("cuhk03", None):
            data = load_dataset(name, path)
            assert (data.name, data.root, data.multi_query) == ("cuhk03", root, None)
    assert data.train.n == 5 * 9 and data.query.n == 3 * 2 and data.gallery.n == 3 * 7 and (data.gallery.ids > 0).all()
    assert all(set(s.cams) == {1, 2} for s in data.splits) and not set(data.train.people) & set(data.query.people)
    assert load_images(data.train, 32, 16).shape == (45, 3, 32, 16)
    with pytest.raises(ValueError, match="looks like cuhk03, not duke"):
        load_dataset("duke", root)


@pytest.mark.parametrize("pattern, words", [
    ("(?P<id>", "not a regular expression"), (r"(\d+)-(\d+)", "lacks the group id and the group cam"),
    (r"(?P<id>\d+)", "lacks the group cam"), ("", "lacks the group id")])
def test_a_pattern_is_checked(tmp_path, pattern, words):
    for ask in (lambda: name_rule(pattern), lambda: load_dataset(None, tmp_path, pattern)):
        with pytest.raises(ValueError, match=f"^pattern .*{words}.*Write it like") as e:
            ask()
        assert repr(pattern) in str(e.value)


def test_files_named_in_ones_own_way(tmp_path):
    rule, market = r"cam(?P<cam>\d+)-(?P<id>\d+)", boxes(tmp_path / "m", MARKET)
    for k, f in enumerate(("cam3-12.jpg", "cam110-12.jpg", "at the door cam3-7.jpg")):
        photo(tmp_path / "flat" / f)
        photo(tmp_path / "own" / "ABC"[k % 2] / f)
        photo(tmp_path / "boxes" / "bounding_box_train" / f)
    flat = load_dataset(None, tmp_path / "flat", rule)
    assert (flat.name == "folder" and flat.train.ids.tolist() == [7, 12, 12] and flat.train.cams.tolist() == [3, 110, 3]
            and flat.query.n == 0)
    tree = load_dataset("folder", tmp_path / "own", rule).train
    assert tree.ids.tolist() == [1, 1, 2], "the folder says who"
    assert tree.cams.tolist() == [3, 3, 110], "the name says which camera"
    photo(tmp_path / "boxes" / "query" / "cam3-1.jpg")
    photo(tmp_path / "boxes" / "bounding_box_test" / "cam4-1.jpg")
    for name, called in ((None, "folder"), ("folder", "folder"), ("duke", "duke")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = load_dataset(name, tmp_path / "boxes", rule)
        assert data.name == called and data.train.n == 3 and data.gallery.cams.tolist() == [4]
    photo(tmp_path / "own" / "A" / "holiday.jpg")
    with pytest.warns(UserWarning, match="1 photos without a camera.*holiday.jpg"):
        assert load_dataset(None, tmp_path / "own", rule).train.cams.tolist().count(-1) == 1
    for root in ("flat", "own", "boxes"):
        with pytest.raises(ValueError, match=r"none of the \d file names.*follow the pattern.*e.g. (at the door "
                           r")?cam.*Give a pattern that fits") as e:
            load_dataset(None, tmp_path / root, r"p(?P<id>\d+)_k(?P<cam>\d+)")
        assert str(tmp_path / root) in str(e.value)
    with pytest.raises(ValueError, match="finds 'cam3' for id, which is no whole number"):
        load_dataset(None, tmp_path / "boxes", r"(?P<id>\w+)-(?P<cam>\d+)")
    with pytest.raises(ValueError, match="looks like market, not folder"):
        load_dataset("folder", market)


def sheet(folder: Path, text, photos=("a.jpg", "b.jpg", "über uns/c d,e.jpg")) -> Path:
    for p in photos: photo(folder / p)
    file = folder / "photos.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_table_of_photos(tmp_path):
    far = photo(tmp_path / "elsewhere" / "d.png")
    text = ('Split, ID ,note,camera,path\r\ntrain,0007,x,,b.jpg\r\n\r\ntrain,3,x,12,a.jpg\r\nquery,5,,1,"über uns/c '
            f'd,e.jpg"\r\ngallery,0,,2,{far}\r\ngallery,-1,,2,a.jpg\r\ngallery,5,,3,b.jpg\r\n,,,,\r\n')
    file = sheet(tmp_path / "my photos", b"\xef\xbb\xbf" + text.encode())
    for name in (None, "csv"):
        data = load_dataset(name, str(file))
        assert ((data.name, data.root) == ("csv", file.parent) and data.train.ids.tolist() == [3, 7]
                and data.train.cams.tolist() == [12, -1])
        assert [p.name for p in data.train.paths] == ["a.jpg", "b.jpg"] and data.query.paths[0].name == "c d,e.jpg"
        assert sorted(data.gallery.ids.tolist()) == [-1, 0, 5] and data.val_query is None
    assert load_images(data.gallery, 16, 8).shape == (3, 3, 16, 8) and "csv" in DATASETS
    table = ("path,id,split\na.jpg,Zoë,train\nb.jpg,Ada,query\nc.jpg,Ada,gallery\n"
             "d.jpg,Zoe\u0308,train\n")
    names = load_dataset(None, sheet(tmp_path / "named", table, [f"{c}.jpg" for c in "abcd"]))
    assert names.train.ids.tolist() == [2, 2], "a name written in two ways of Unicode is one name"
    assert names.query.ids.tolist() == names.gallery.ids.tolist() == [1] and (names.gallery.cams == -1).all()
    assert load_dataset(None, sheet(tmp_path / "bare", "id,path\n1,a.jpg\n2,b.jpg\n")).train.n == 2


@pytest.mark.parametrize("text, words", [
    ("", "empty file. A line of it reads"), ("\n \n,,\n", "empty file"),
    ("path,camera\na.jpg,1\n", r", line 1: no column 'id' in the header \(path, camera\)"),
    ("a.jpg,1\nb.jpg,2\n", ", line 1: no column 'path'"),
    ("path;id;split\na.jpg;1;train\n", "no column 'path'.*divided by ';', not by commas"),
    ("path\tid\na.jpg\t1\n", "divided by '.t', not by commas"),
    ("path,id,Path\na.jpg,1,b.jpg\n", "line 1: 2 columns are called 'path'. Keep one"),
    ("path,id\na.jpg,1\nb.jpg\n", ", line 3: 1 cells under a header of 2. Write a path with a comma in quotes"),
    ("path,id\nc d,e.jpg,1\n", ", line 2: 3 cells"), ("path,id\n", "none of them in the split train"),
    ('path,id\n"a.jpg,1\n', ", line 2: cannot be read"), ('path,id\n"a".jpg,1\n', ", line 2: cannot be read"),
    ("path,id\n,1\n", ", line 2: no path"), ("path,id\na.jpg,\n", ", line 2: id '' says nothing.*Give a name"),
    ("path,id\na.jpg,1\nb.jpg,nan\n", ", line 3: id 'nan' says nothing of who is on the photo b.jpg"),
    ("path,id\na.jpg,1.2E+11\n", ", line 2: id '1.2E.11' is a number that a spreadsheet has rounded"),
    ("a," * 600_000, ", line 1: longer than 1,000,000 letters"),
    ("path,id,split\na.jpg,1,train\nb.jpg,2,test\n",
     ", line 3: no such split as 'test'. Write one of train, query, gallery"),
    ("path,id,split\na.jpg,1,\n", ", line 2: no such split as ''"),
    ("path,id,camera\na.jpg,1,c3\n", ", line 2: camera 'c3' is no number"),
    ("path,id,camera\na.jpg,1,-2\n", "camera '-2'"), ("path,id,camera\na.jpg,1,1.5\n", "camera '1.5'"),
    ("path,id\na.jpg,0\n", ", line 2: id 0 in train. Number people from 1"),
    ("path,id,split\na.jpg,1,train\nb.jpg,-1,query\n", ", line 3: id -1 in query"),
    ("path,id,split\na.jpg,1,train\nb.jpg,-2,gallery\n", ", line 3: id -2 in gallery"),
    ("path,id,split\na.jpg,Ada,train\nb.jpg,-1,gallery\n", ", line 3: id '-1'.*people have names"),
    ("path,id\na.jpg,1\n./a.jpg,1\n", ", line 3: ./a.jpg stands in line 2 too.*Delete one"),
    ("path,id,split\na.jpg,1,query\n", "1 photos, none of them in the split train"),
    ("path,id\na.jpg,1\nnone.jpg,1\ngone.jpg,2\n",
     ", line 3: there is no photo none.jpg, nor those of 1 other line. Write paths"),
    (b"path,id\na.jpg,1\nZo\xeb.jpg,1\n", ", line 3: not UTF-8 text. Save it again as UTF-8"),
    ("path,id\na.jpg,1\n".encode("utf-16"), ", line 1: not UTF-8"),
    ("path,id\n" + "x" * 5000 + ".jpg,1\n", ", line 2: there is no photo"), ("path,id\na\0.jpg,1\n", ", line 2: "),
    ("path,id\n.,1\n", ", line 2: there is no photo")])
def test_a_wrong_table_says_file_line_and_remedy(tmp_path, text, words):
    file = sheet(tmp_path, text)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises((ValueError, FileNotFoundError), match=words) as e:
        load_dataset(None, file)
    assert str(e.value).startswith(str(file))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_table_in_the_wrong_place(tmp_path):
    file = sheet(tmp_path, "path,id\na.jpg,1\n")
    for name, path, pattern, words in (
            ("market", file, None, "a CSV file, not market"), ("csv", tmp_path, None, "a folder, not a CSV file"),
            (None, tmp_path / "no.csv", None, "no.csv: no such file.*columns path, id"),
            ("csv", tmp_path / "a.jpg", None, "does not end in .csv. Rename"),
            (None, file, r"(?P<id>\d)(?P<cam>\d)", "the pattern .* has nothing to read. Leave it out"),
            (None, tmp_path / "a.jpg", None, "a file, not a folder")):
        with pytest.raises((ValueError, OSError), match=words) as e:
            load_dataset(name, path, pattern)
        assert str(path) in str(e.value)
    (tmp_path / "set.csv" / "Ada").mkdir(parents=True)
    photo(tmp_path / "set.csv" / "Ada" / "1.jpg")
    assert load_dataset(None, tmp_path / "set.csv").name == "folder", "a folder may be called anything"


@pytest.mark.parametrize("text, line", [("0000/x.jpg", 1), ("\n0000/x.jpg zero", 2), (b"0000/\xff.jpg 0", 1)])
def test_a_wrong_list_says_file_and_line(tmp_path, text, line):
    (msmt(tmp_path) / "list_query.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"list_query.txt, line {line}: ") as e:
        load_dataset(None, tmp_path)
    assert str(e.value).startswith(str(tmp_path))


def test_a_named_person_in_a_tree(tmp_path):
    for f in ("train_all", "query", "gallery"): photo(tmp_path / f / "Ada" / "1.jpg")
    photo(tmp_path / "gallery" / "-1" / "1.jpg")
    data = load_dataset(None, tmp_path)
    assert data.train.ids.tolist() == data.query.ids.tolist() == [1] and data.gallery.ids.tolist() == [-1, 1]
    assert data.person(1) == "Ada" and data.person(-1) == "-1", "a name is one person; -1 means nobody in this layout"


def test_relabel(): assert relabel(np.array([15, 2, 2, 1501, 15])).tolist() == [1, 0, 0, 2, 1]


def test_holdout_is_split_by_identity(tmp_path):
    data = load_dataset(None, write_domain("market", tmp_path, n_train_ids=8, n_test_ids=2, n_val_ids=2, height=32,
                                           width=16))
    h = holdout(data, 3)
    assert set(h.train.people) | set(h.val_query.people) == set(data.train.people)
    assert not set(h.train.people) & set(h.val_gallery.people)
    assert h.train.n + h.val_query.n + h.val_gallery.n == data.train.n and min(h.val_query.people) > max(h.train.people)
    for n in (0, 8, 100):
        with pytest.raises(ValueError, match=f"cannot hold out {n} of 8"):
            holdout(data, n)


def test_every_picked_query_can_be_answered():
    rng = np.random.default_rng(0)
    ids, cams = rng.integers(1, 30, 150), rng.integers(1, 4, 150)
    q = pick_queries(ids, cams)
    assert q.any()
    for i, c in zip(ids[q], cams[q]):
        assert ((ids == i) & (cams != c) & ~q).any(), "another camera answers"
        assert ((ids == i) & (cams == c) & q).sum() == 1, "one query per person and camera"


def test_images_are_pils_bicubic(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "0001_c1_1.png"
    Image.fromarray(rng.integers(0, 256, (100, 47, 3), dtype=np.uint8)).save(path)
    Image.open(path).convert("L").save(tmp_path / "0001_c2_1.png")
    split = make_split([path, tmp_path / "0001_c2_1.png"], [Label(1, 1), Label(1, 2)], "train")
    x = load_images(split, 32, 16)
    assert np.array_equal(x[0].permute(1, 2, 0), Image.open(path).resize((16, 32), Image.Resampling.BICUBIC))
    assert torch.equal(x[1, 0], x[1, 2]), "grey files become RGB"
    assert read_image(path, 100, 47).shape == (100, 47, 3)
    assert load_images(split.take(slice(0, 0)), 32, 16).shape == (0, 3, 32, 16)


NOISE = np.random.default_rng(3).integers(0, 256, (24, 12, 3), dtype=np.uint8)


def reread(im: Image.Image, path: Path, **options) -> np.ndarray:
    "Through a file and back."
    im.save(path, **options)
    return read_image(path, im.height, im.width)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_plain_photos_do_not_change_at_all(tmp_path):
    rgb = Image.fromarray(NOISE)
    for ending, options in (("jpg", {}), ("jpg", {"quality": 30, "dpi": (300, 300)}), ("png", {}), ("bmp", {}),
                            ("webp", {"lossless": True})):
        path = tmp_path / f"x.{ending}"
        rgb.save(path, **options)
        with Image.open(path) as im:
            before = np.asarray(im.convert("RGB").resize((64, 128), Image.Resampling.BICUBIC))
        with Image.open(path) as im:
            assert to_rgb(im) is im
        assert np.array_equal(read_image(path, 128, 64), before)
    path = tmp_path / "note.jpg"
    rgb.save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01")
    assert read_image(path, 24, 12).shape == (24, 12, 3), "a damaged note beside a whole photo"


def test_grey_of_any_depth(tmp_path):
    grey = Image.fromarray(NOISE[:, :, 0])
    same = np.repeat(NOISE[:, :, :1], 3, 2)
    sixteen = NOISE[:, :, 0].astype(np.uint16) * 257
    for name, im in (("l", grey), ("i16", Image.fromarray(sixteen))):
        assert np.array_equal(reread(im, tmp_path / f"{name}.png"), same), name
    for mode, v in (("I;16", sixteen), ("I;16B", sixteen.astype(">u2")), ("I", sixteen.astype(np.int32)),
                    ("F", NOISE[:, :, 0].astype(np.float32)), ("F", NOISE[:, :, 0].astype(np.float32) / 255)):
        im = Image.frombytes(mode, (12, 24), v.tobytes())
        assert im.mode == mode and np.array_equal(to_rgb(im), same), mode
    deep = Image.frombytes("I;16", (3, 1), np.array([[0, 0x1234, 0xffff]], np.uint16).tobytes())
    assert np.asarray(to_rgb(deep))[0, :, 0].tolist() == [0, round(0x1234 / 257), 255], "scaled, not clipped"
    one = grey.convert("1")
    assert np.array_equal(reread(one, tmp_path / "1.png"), np.repeat(np.asarray(one)[:, :, None] * np.uint8(255), 3, 2))


def test_white_shows_through(tmp_path):
    alpha = np.zeros((24, 12), np.uint8)
    alpha[:8] = 255
    alpha[8:16] = 128
    expected = np.where(alpha[..., None] == 255, NOISE, 255)
    soft = reread(Image.fromarray(np.dstack([NOISE, alpha])), tmp_path / "rgba.png")
    assert (np.array_equal(soft[:8], NOISE[:8]) and (soft[16:] == 255).all()
            and np.abs(soft[8:16] - (NOISE[8:16] * (128 / 255) + 255 * (127 / 255))).max() <= 1)
    grey = reread(Image.fromarray(np.dstack([NOISE[:, :, 0], alpha]), "LA"), tmp_path / "la.png")
    assert np.array_equal(grey[:8, :, 1], NOISE[:8, :, 0]) and (grey[16:] == 255).all()
    few = Image.fromarray(NOISE // 64 * 64).quantize(64)
    few.save(tmp_path / "p.png", transparency=0)
    index, plain = np.asarray(few), np.asarray(few.convert("RGB"))
    white = np.where(index[..., None] == 0, 255, plain)
    assert (index == 0).any() and np.array_equal(read_image(tmp_path / "p.png", 24, 12), white)
    assert np.array_equal(reread(few, tmp_path / "whole.png"), plain)
    hole = tuple(NOISE[0, 0].tolist())
    keyed = reread(Image.fromarray(NOISE), tmp_path / "key.png", transparency=hole)
    assert (keyed[0, 0] == 255).all() and np.array_equal(keyed[1:], NOISE[1:]) and expected.shape == keyed.shape
    for mode in ("RGBa", "La", "PA", "CMYK", "YCbCr", "HSV", "RGBX"):
        between = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, "RGB")
        im = Image.fromarray(NOISE).convert(between).convert(mode)
        assert np.asarray(to_rgb(im)).shape == (24, 12, 3), mode


def test_every_exif_rotation(tmp_path):
    from PIL import ImageOps
    for k in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = k
        for name in ("x.png", "x.jpg", "x.tif"):   # PIL turns a TIFF file as it reads it
            Image.fromarray(NOISE).save(tmp_path / name, exif=exif)
            with Image.open(tmp_path / name) as im:
                meant = ImageOps.exif_transpose(im).convert("RGB")
            with Image.open(tmp_path / name) as im:
                assert np.array_equal(to_rgb(im), meant), (k, name)
            assert np.array_equal(read_image(tmp_path / name, meant.height, meant.width), meant)
    exif[0x0112] = 99
    Image.fromarray(NOISE).save(tmp_path / "odd.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "odd.png", 24, 12), NOISE)
    deep = Image.fromarray(NOISE[:, :, 0].astype(np.uint16))
    exif[0x0112] = 6
    deep.save(tmp_path / "deep.png", exif=exif)
    with Image.open(tmp_path / "deep.png") as im:
        assert to_rgb(im).size == (24, 12)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_photos_of_any_size(tmp_path, size):
    path = photo(tmp_path / "x.png", (200, 30, 30), size)
    assert (read_image(path, 16, 8) == (200, 30, 30)).all()


def damaged(folder: Path) -> dict:
    "Files that cannot be read, and why."
    whole, png = (photo(folder / f"whole.{ending}", size=(200, 200)).read_bytes() for ending in ("jpg", "png"))
    contents = {"1.jpg": (b"", "an empty file"), "2.jpg": (b"<html>404</html>", "a web page"),
                "3.jpg": (whole[:700], "cut short"), "4.png": (png[:100], "cut short"),
                "5.jpg": (b"PK\3\4" + bytes(200), "no image format")}
    for n, (content, _) in contents.items(): (folder / n).write_bytes(content)
    (folder / "6.jpg").mkdir()
    return {**{n: why for n, (_, why) in contents.items()}, "6.jpg": "a folder", "7.jpg": "no such file"}


def test_all_broken_photos_are_named(tmp_path):
    why = damaged(tmp_path)
    for n, reason in why.items():
        with pytest.raises(OSError, match=f"{n}: not a readable image \\({reason}.*Replace or delete the file"):
            read_image(tmp_path / n, 16, 8)
    split = make_split([tmp_path / n for n in [*why, "whole.jpg"]], [Label(1, 1)] * 8, "train")
    with pytest.raises(OSError, match="1.jpg.*2.jpg.*3.jpg.*and 4 more of the 8 photos of the split train. Replace or "
                       r"delete these 7 files, or leave them out \(dgnet.photos.drop_unreadable\)"):
        load_images(split, 16, 8)
    with pytest.raises(OSError, match="2.jpg.*3.jpg.*Replace or delete these 2 files") as e:
        load_images(split.take([1, 2, 7]), 16, 8)
    assert "more of" not in str(e.value) and "\n" not in str(e.value)


def test_a_picture_of_too_many_pixels(tmp_path, monkeypatch):
    path = photo(tmp_path / "x.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OSError, match="x.png: not a readable image .more pixels than can be meant"):
        read_image(path, 16, 8)


def test_broken_photos_can_be_left_out(tmp_path):
    root = boxes(tmp_path / "m", MARKET)
    (root / "query" / "Thumbs.db").touch()
    for f in ("bounding_box_train/0007_c3s3_077419_03.jpg", "bounding_box_test/0000_c1s1_000151_01.jpg"):
        (root / f).write_bytes(b"no image")
    data = load_dataset(None, root)
    mended = drop_unreadable(data, 16, 8)
    assert ([b.path.name for b in mended.broken] == ["0007_c3s3_077419_03.jpg", "0000_c1s1_000151_01.jpg"]
            and {b.why for b in mended.broken} == {"no image format that is known"})
    assert ([s.n for s in mended.data.splits] == [2, 1, 2, 2] and mended.data.train.ids.tolist() == [2, 2]
            and mended.data.n_ids == 1 and mended.data.query.ignored == ("Thumbs.db",))
    assert load_images(mended.data.train, 16, 8).shape[0] == 2 and drop_unreadable(mended.data, 16, 8).broken == []
    again = drop_unreadable(mended.data, 16, 8).data
    assert again.train.paths == mended.data.train.paths and data.train.n == 3, "nothing else changes"
    for p in data.train.paths: p.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 3 training photos can be read, e.g. .*0002_c1s1_000451_03.jpg"):
        drop_unreadable(data, 16, 8)


def test_augment_is_flip_edge_pad_and_crop():
    x = torch.randint(0, 256, (64, 3, 12, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = augment(x, torch.Generator().manual_seed(1), pad=3)
    draws = set()
    for before, after in zip(x.numpy(), y.numpy()):
        padded = np.pad(before, ((0, 0), (3, 3), (3, 3)), mode="edge")
        ways = [(dy, dx, f) for dy in range(7) for dx in range(7) for f in (1, -1)
                if np.array_equal(padded[:, dy:dy + 12, dx:dx + 9][:, :, ::f], after)]
        assert len(ways) == 1
        draws.add(ways[0])
    assert len(draws) > 30 and {f for *_, f in draws} == {1, -1}, "every photo has a draw of its own"
    assert torch.equal(y, augment(x, torch.Generator().manual_seed(1), pad=3))
    assert torch.equal(x, augment(x, torch.Generator(), pad=0, p_flip=0.0))


def test_random_erasing():
    x = torch.rand(3000, 3, 64, 32, generator=torch.Generator().manual_seed(0)) + 1
    y = random_erasing(x, torch.Generator().manual_seed(2))
    hole = (y == 0)
    assert torch.equal(hole[:, 0], hole[:, 1]) and torch.equal(y[~hole], x[~hole])
    hole = hole[:, 0]
    hit = hole.any(2).any(1)
    high, wide, size = hole.any(2).sum(1)[hit], hole.any(1).sum(1)[hit], hole.sum((1, 2))[hit]
    assert torch.equal(high * wide, size), "one rectangle"
    share, ratio = size / (64 * 32), high / wide
    assert abs(hit.float().mean() - 0.5) < 0.03 and abs(share.mean() - 0.2) < 0.03
    assert 0.015 < share.min() and share.max() < 0.42
    assert 0.25 < ratio.min() and ratio.max() < 4
    assert (hole.float().mean(0) > 0).all(), "every pixel can be lost, the edges too"
    assert torch.equal(y, random_erasing(x, torch.Generator().manual_seed(2)))
    assert torch.equal(x, random_erasing(x, torch.Generator(), p=0.0))


def test_sampler_visits_every_photo_once_per_epoch():
    labels = np.repeat(np.arange(10), 6)
    s = TripletSampler(labels, batch=5, seed=3)
    first = [next(s) for _ in range(s.steps)]
    second = [next(s) for _ in range(s.steps)]
    for epoch in (first, second):
        for role in ("i", "j"):
            assert torch.cat([getattr(t, role) for t in epoch]).sort().values.tolist() == list(range(60))
    assert not torch.equal(torch.cat([t.i for t in first]), torch.cat([t.i for t in second]))
    assert not torch.equal(torch.cat([t.i for t in first]), torch.cat([t.j for t in first]))


def test_positives_are_other_photos_each_as_likely():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 0, 3])
    s = TripletSampler(labels, batch=8, seed=0)
    count = torch.zeros(8, 8)
    for _ in range(3000):
        t = next(s)
        for a, b in ((t.i, t.t_i), (t.j, t.t_j)):
            assert torch.equal(labels[a], labels[b])
            count[a, b] += 1
    p = count / count.sum(1, keepdim=True)
    assert p[7, 7] == 1, "the only photo of a person stands in for itself"
    assert p.diag()[:7].sum() == 0 and p[0, 6] == 1 and abs(p[3, 4] - 0.5) < 0.03


def test_distinct_pairs():
    labels = np.repeat(np.arange(4), [9, 9, 3, 3])
    s = TripletSampler(labels, batch=6, seed=0, distinct=True)
    pairs = [next(s) for _ in range(s.steps * 20)]
    assert all((s.labels[t.i] != s.labels[t.j]).all() for t in pairs)
    assert torch.cat([t.j for t in pairs[:s.steps]]).sort().values.tolist() == list(range(24))
    loose = TripletSampler(labels, batch=6, seed=0)
    batches = [next(loose) for _ in range(20)]
    clashes = [(loose.labels[t.i] == loose.labels[t.j]).any() for t in batches]
    assert any(clashes), "the official pairs may clash (D15)"
    with pytest.raises(ValueError, match="one person holds so many"):
        TripletSampler(np.array([0, 0, 0, 1]), batch=2, seed=0, distinct=True)


@pytest.mark.parametrize("stop", [0, 1, 7, 12, 13, 30])
def test_sampler_resumes_exactly(stop):
    labels = np.arange(50) % 7
    a = TripletSampler(labels, batch=4, seed=5)
    for _ in range(stop): next(a)
    b = TripletSampler(labels, batch=4, seed=5)
    b.load_state_dict(a.state_dict())
    for _ in range(30):
        assert all(torch.equal(x, y) for x, y in zip(next(a), next(b)))


def test_processes_share_a_batch():
    labels = np.arange(48) % 6
    whole = TripletSampler(labels, batch=8, seed=1)
    parts = [TripletSampler(labels, batch=4, seed=1, rank=r, world=2) for r in (0, 1)]
    for _ in range(15):
        t, (p, q) = next(whole), [next(s) for s in parts]
        for a, b, c in zip(t, p, q):
            assert torch.equal(a[0::2], b) and torch.equal(a[1::2], c)


def test_sampler_needs_a_full_batch():
    with pytest.raises(ValueError, match="6 photos do not fill one batch of 8"):
        TripletSampler(np.arange(6), batch=8, seed=0)


def test_a_draw_takes_constant_time():
    def microseconds(n):
        s = TripletSampler(np.arange(n) % (n // 10), batch=8, seed=0)
        start = time.perf_counter()
        for _ in range(100): next(s)
        return time.perf_counter() - start
    assert min(microseconds(100_000) for _ in range(3)) < 5 * min(microseconds(1_000) for _ in range(3)) + 0.01


def test_reading_warns_of_nothing_without_a_reason(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(None, boxes(tmp_path, MARKET))
    assert detect_layout(tmp_path).name == "market"
