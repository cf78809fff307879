"""Labels as people write them, folders as people arrange them: what is read, what is refused, what is spoken of, and
that `check` and training agree. Values for every kind of mistake that was silent once."""

import os
import shutil
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgnet.check import check_dataset, data_cli
from dgnet.datasets import load_dataset
from dgnet.galleries import find_person, identify, open_gallery
from dgnet.labels import Label, make_split, number_people
from dgnet.reid import Embeddings, rank_metrics, ranked_list
from dgnet.tables import LONGEST
from dgnet.verdict import hold_out_people, is_measurable, judge_people, require_trainable, same_photos, unanswered


def photo(path: Path, k: int = 0, size=(16, 32)) -> Path:
    "A picture of its own for each k."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def plant(root: Path, *names: str) -> Path:
    for k, name in enumerate(names): photo(root / name, k)
    return root


def people(root: Path, *names: str, photos: int = 3) -> Path:
    return plant(root, *(f"{name}/{k}.png" for name in names for k in range(photos)))


def quiet(path: Path, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(*args, path) if args else load_dataset(None, path)


def kinds(path: Path, level: str, **options) -> dict: return check_dataset(path, **options).kinds(level)


# kind 1: labels are what people wrote

def test_a_folder_7_is_person_7(tmp_path):
    data = quiet(people(tmp_path, "2", "7", "10", "0100"))
    assert sorted(set(data.train.ids.tolist())) == [2, 7, 10, 100]
    assert [data.person(i) for i in (2, 7, 10, 100)] == ["2", "7", "10", "0100"]
    for p, i in zip(data.train.paths, data.train.ids): assert p.parent.name == data.person(i)


@pytest.mark.parametrize("names, expected", [
    (["0", "1"], {"0": 1, "1": 2}), (["-1", "3"], {"-1": 1, "3": 2}), (["7", "007"], {"007": 1, "7": 2}),
    (["anna", "7"], {"7": 1, "anna": 2}), (["9" * 19, "1"], {"1": 1, "9" * 19: 2})])
def test_people_that_are_counted_keep_their_names(tmp_path, names, expected):
    data = quiet(people(tmp_path, *names))
    assert {data.person(i): int(i) for i in data.train.people} == expected
    assert data.n_ids == len(names), "a folder 0 or -1 is somebody"


def test_nobody_has_numbers_where_the_layout_says_so(tmp_path):
    tree = plant(tmp_path / "tree", "train_all/0002/a.png", "train_all/0003/a.png", "query/0001/a.png",
                 "gallery/0001/b.png", "gallery/-1/c.png", "gallery/0000/d.png")
    assert sorted(quiet(tree).gallery.ids.tolist()) == [-1, 0, 1]
    names = ["bounding_box_train/0000_c1s1_1_0.png", "bounding_box_train/0002_c1s1_1_0.png",
             "bounding_box_train/0003_c1s1_1_0.png", "query/0000_c1s1_1_0.png", "query/-1_c1s1_1_0.png",
             "query/0001_c1s1_1_0.png", "bounding_box_test/0001_c2s1_1_0.png", "bounding_box_test/0000_c2s1_1_0.png"]
    found = check_dataset(plant(tmp_path / "market", *names), own=True).findings
    assert sorted((f.split, f.what.split("/")[1][:4]) for f in found if f.kind == "nobody") == [
        ("query", "-1_c"), ("query", "0000"), ("train", "0000")], "a distractor is no match for a distractor"


def test_a_person_is_asked_for_as_written(tmp_path):
    g = open_gallery(people(tmp_path / "g", "2", "7", "10"))
    assert [g.person(find_person(x, g)) for x in ("7", 7, "007", " 7 ")] == ["7"] * 4
    assert find_person("5", g) == 5 and find_person("anna", g) not in g.split.people
    q = identify(photo(tmp_path / "new.png", 99), g, id="7")
    assert (q.person, q.said) == ("7", "as told")
    named = open_gallery(people(tmp_path / "n", "anna", "bob"))
    assert find_person("1", named) not in named.split.people, "nobody is called 1"
    two = open_gallery(people(tmp_path / "two", "7", "007"))
    assert two.person(find_person("7", two)) == "7"
    with pytest.raises(ValueError, match="--id 07: may be 007 or 7. Write it as there"):
        find_person("07", two)
    composed, apart = "Ren\u00e9", "Rene\u0301"
    mac = open_gallery(people(tmp_path / "mac", apart, "bob"))
    assert mac.person(find_person(composed, mac)) == composed
    with pytest.raises(ValueError, match="--id 0: people are numbered from 1"):
        find_person("0", g)
    assert find_person("0", open_gallery(people(tmp_path / "zero", "0", "1"))) == 1


def test_numbers_of_two_halves_never_meet(tmp_path):
    for split, line in (("train", "0000/0000_000_01_x_1_0.png 0"), ("train", "0001/0001_000_01_x_1_0.png 1"),
                        ("query", "0000/0000_001_02_x_1_0.png 0"), ("gallery", "0000/0000_002_03_x_1_0.png 0")):
        photo(tmp_path / ("train" if split == "train" else "test") / line.split()[0], len(line + split))
        with open(tmp_path / f"list_{split}.txt", "a") as f: f.write(line + "\n")
    data, g = quiet(tmp_path), open_gallery(tmp_path)
    assert not set(data.train.people) & set(data.gallery.people) and data.person(data.query.ids[0]) == "0"
    q = identify(data.train.paths[0], g)
    assert q.person == "0" and q.id not in g.split.people, "person 0 of training is not person 0 of the test"
    assert find_person("0", g) == data.query.ids[0]


def table(folder: Path, text: str, n: int = 6) -> Path:
    for k in range(n): photo(folder / f"{k}.png", k)
    (folder / "photos.csv").write_text(text, encoding="utf-8")
    return folder / "photos.csv"


def test_a_spreadsheet_and_its_numbers(tmp_path, capsys):
    rows = ["0.png,1.0,1.0", "1.png, 1 ,2", "2.png,1,nan", "3.png,0002,", "4.png,2.0,3.0", "5.png,+2,4"]
    data = quiet(table(tmp_path, "path,id,camera\n" + "\n".join(rows) + "\n"))
    assert data.train.ids.tolist() == [1, 1, 1, 2, 2, 2] and data.train.cams.tolist() == [1, 2, -1, -1, 3, 4]
    assert (data.person(1), data.person(2)) == ("1", "0002"), "as it was written first"
    for cell in ("nan", "", "NaN", "#N/A", "None", "NULL", "1.5E+11"):
        file = table(tmp_path, f"path,id\n0.png,1\n1.png,{cell}\n")
        assert data_cli(["check", str(file)]) == 2
        err = capsys.readouterr().err
        assert "photos.csv, line 3: id" in err and err.count("\n") == 1
    mixed = quiet(table(tmp_path, "path,id\n0.png,anna\n1.png,7.0\n2.png,7\n"))
    assert [mixed.person(i) for i in mixed.train.ids] == ["anna", "7", "7"]


def test_names_in_either_form_of_unicode(tmp_path):
    for k in range(4): photo(tmp_path / unicodedata.normalize("NFC", f"é{k % 2}") / f"ü{k}.png", k)
    both = ["Zoë", "Zoe\u0308"]
    rows = [(unicodedata.normalize("NFD", f"é{k % 2}/ü{k}.png"), both[k % 2]) for k in range(4)]
    (tmp_path / "t.csv").write_text("path,id\n" + "".join(f"{p},{i}\n" for p, i in rows), encoding="utf-8")
    data = quiet(tmp_path / "t.csv")
    assert data.n_ids == 1 and all(p.is_file() for p in data.train.paths) and not data.remarks


# kind 2: what is not used is spoken of

def test_everything_that_is_not_used_is_counted(tmp_path, capsys):
    root = people(tmp_path / "own", "anna", "bob", "carl")
    plant(root, "group.png", "anna/more/4.png", "dora/cam1/1.png", "@eaDir/1.png/thumb.png", "__MACOSX/anna/1.png")
    (root / "bob" / "IMG_1.HEIC").touch()
    (root / "notes.csv").write_text("who,when\n")
    report = check_dataset(root)
    assert report.kinds("look") == {"deeper": 2, "format": 1, "loose": 1, "table": 1}
    assert report.kinds("note")["system"] == 2 and report.fit and int(report.table.photos[0]) == 9
    with pytest.warns(UserWarning, match="own: 1 photos beside.*group.png.*2 photos in folders further down") as warned:
        load_dataset(None, root)
    assert len(warned) == 1, "one line"
    assert any("1 photos beside" in note for note in open_gallery(root).notes)
    assert data_cli(["check", str(root)]) == 0 and "group.png" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["tif", "tiff", "bmp", "webp", "jpe"])
def test_pictures_of_other_programs(tmp_path, ending):
    for k in range(6):
        path = tmp_path / f"p{k // 2}" / f"{k}.{ending}"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 32), (k * 9, 0, 0)).save(path, "JPEG" if ending == "jpe" else None)
    assert quiet(tmp_path).train.n == 6


def test_a_network_drive_leaves_no_people(tmp_path):
    root = people(tmp_path, "p1", "p2", "p3")
    plant(root, "@eaDir/cover.jpg/SYNOPHOTO_THUMB_M.jpg", "cover.jpg", ".AppleDouble/x.jpg", "#recycle/p9/1.jpg")
    report = check_dataset(root)
    assert report.table.people[0] == 3 and report.kinds("look") == {"loose": 1} and report.fit


def test_a_table_beside_the_folders_is_read(tmp_path):
    root = plant(tmp_path, *(f"cam{c}/{k}.png" for c in (1, 2) for k in range(3)))
    rows = "".join(f"cam{c}/{k}.png,{k},{c},x\n" for c in (1, 2) for k in range(3))
    (root / "photos.csv").write_text("path,id,camera,note\n" + rows.replace(",0,", ",9,"))
    for path in (root, root / "photos.csv"):
        data = quiet(path)
        assert data.name == "csv" and data.n_ids == 3 and [(r.kind, r.detail) for r in data.remarks] == [
            ("column", "note")]
    (root / "more.csv").write_text("path,id\ncam1/0.png,1\n")
    with pytest.raises(ValueError, match=r"holds 2 tables of photos \(more.csv, photos.csv\)"):
        load_dataset(None, root)


def test_a_line_without_an_end(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("a," * (LONGEST // 2) + "a\n")
    assert data_cli(["check", str(tmp_path / "a.csv")]) == 2
    err = capsys.readouterr().err
    assert "a.csv, line 1: longer than" in err and len(err) < 300 + len(str(tmp_path))
    (tmp_path / "b.csv").write_text(",".join(f"column{k}" for k in range(2000)) + "\n")
    assert data_cli(["check", str(tmp_path / "b.csv")]) == 2
    assert len(capsys.readouterr().err) < 600


# kind 3: the layout is evidence

SPLITS = ("train", "query", "gallery")


@pytest.mark.parametrize("folders", [SPLITS, ("image_train", "image_query", "image_test"), ("Train", "probe", "test")])
def test_splits_with_photos_side_by_side(tmp_path, folders):
    for k in range(6):
        for c in (1, 2):
            name = f"{k + 1:04d}_c{c:03d}_{c}.png"
            photo(tmp_path / folders[0 if k < 3 else c] / name, 9 * k + c)
    data = quiet(tmp_path)
    assert [(s.name, s.n, len(s.people)) for s in data.splits] == [
        ("train", 6, 3), ("query", 3, 3), ("gallery", 3, 3)] and data.person(4) == "0004"
    assert check_dataset(tmp_path).fit


def test_train_val_and_test_of_people(tmp_path):
    for split, who in (("train", "abcdef"), ("val", "gh"), ("test", "xyz")):
        people(tmp_path / split, *who)
    data, report = quiet(tmp_path), check_dataset(tmp_path)
    assert [(s.name, s.n) for s in data.splits] == [
        ("train", 18), ("query", 3), ("gallery", 6), ("val_query", 2), ("val_gallery", 4)]
    assert report.fit and report.kinds("note")["picked"] == 5 and sum(s.n for s in data.splits) == 33
    people(tmp_path / "test", "a")
    assert check_dataset(tmp_path).kinds("look")["learnt"] == 2, "person a is learnt, and asked for"


@pytest.mark.parametrize("inner", ["images", "data/crops", "train"])
def test_a_folder_around_the_people(tmp_path, inner):
    people(tmp_path / inner, "anna", "bob")
    data = quiet(tmp_path)
    assert data.n_ids == 2 and data.root == tmp_path / inner


@pytest.mark.parametrize("files, words", [
    ([f"cam{c}/{k:04d}.png" for c in (1, 2, 3) for k in range(3)], "named like cameras .cam1, cam2, cam3"),
    ([f"Camera {c}/{k:04d}_{c}.png" for c in (1, 2) for k in range(3)], "named like cameras"),
    ([f"{s}/{k}.png" for s in ("train", "val") for k in range(3)], "none of the 3 file names|named like splits"),
    ([f"batch{k // 4}/{k:04d}_c{c}s1_1.png" for k in range(8) for c in (1, 2)], "file names say other people"),
    ([f"p{k}/cam{c}/{j}.png" for k in (1, 2) for c in (1, 2) for j in (1, 2)], "2 folders in it hold folders of"),
])
def test_what_speaks_against_people_is_asked(tmp_path, files, words, capsys):
    assert data_cli(["check", str(plant(tmp_path, *files))]) == 2
    out = capsys.readouterr()
    import re
    assert re.search(words, out.err) and "--pattern" in out.err or "attern" in out.err
    assert "fit to train on" not in out.out and out.err.count("\n") == 1


def test_a_pattern_reads_folders_too(tmp_path):
    plant(tmp_path / "a", *(f"cam{c}/{k:04d}.png" for c in (1, 2) for k in (5, 6, 7)))
    data = load_dataset(None, tmp_path / "a", r"cam(?P<cam>\d+)/(?P<id>\d+)")
    assert data.train.cams.tolist() == [1, 1, 1, 2, 2, 2] and data.train.ids.tolist() == [5, 6, 7] * 2
    assert data.person(5) == "0005"
    plant(tmp_path / "b", *(f"{who}/cam{c}/{k}.png" for who in ("anna", "bob") for c in (1, 2) for k in (1, 2)))
    data = load_dataset(None, tmp_path / "b", r"(?P<id>[^/]+)/cam(?P<cam>\d+)/")
    assert [data.person(i) for i in data.train.people] == ["anna", "bob"] and set(data.train.cams) == {1, 2}
    assert quiet(tmp_path / "a", "folder").n_ids == 2, "whoever says so has folders of people"


@pytest.mark.parametrize("name, believed", [
    ("20230514_{t}_{n:03d}_crop.png", False), ("{p:04d}_c1_{n}.png", False), ("{p:04d}_c{n}.png", False),
    ("{p:04d}_c{c}s1_{n:06d}_01.png", True), ("{p:04d}_{n:03d}_{c:02d}_0303morning_0015_0.png", True),
    ("{q:04d}_c{c}s1_{n:06d}_01.png", False)])
def test_a_camera_in_a_name_is_evidence(tmp_path, name, believed):
    for p in range(4):
        for n in range(4):
            text = name.format(p=p + 1, q=p + 2, n=n, c=1 + n % 2, t=134500 + n)
            photo(tmp_path / f"{p + 1:04d}" / text, 9 * p + n)
    report, data = check_dataset(tmp_path), quiet(tmp_path)
    assert (data.train.cams >= 0).all() == believed == (data.train.cams >= 0).any()
    assert report.kinds("look").get("guessed", 0) == (0 if believed else 16) and report.fit
    assert hold_out_people(data).val_query.n, "and training accepts what `check` calls fit"


# kind 4: fit only for what training and ranking accept

def listed(folder: Path, rows: list) -> Path:
    for k, (path, *_) in enumerate(rows): (folder / path).exists() or photo(folder / path, k)
    text = "path,id,camera,split\n" + "".join(",".join(map(str, r)) + "\n" for r in rows)
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"

TRAIN = [(f"{p}_{k}.png", p, 1 + k // 2, "train") for p in range(1, 5) for k in range(4)]


@pytest.mark.parametrize("rows, kind", [
    ([("q.png", 9, 1, "val_query")], "half"), ([("q.png", 9, 1, "query")], "half"),
    ([("g.png", 9, 1, "gallery")], "half"), ([("g.png", 9, 1, "val_gallery")], "half"),
    ([("q.png", 9, 1, "query"), ("g.png", 9, 1, "gallery")], "lost"),
    ([("q.png", 9, 1, "query"), ("g.png", 8, 2, "gallery")], "lost"),
    ([("q.png", 9, 1, "query"), ("g.png", 9, "", "gallery")], "cameras"),
    ([("q.png", 1, 1, "query"), ("g.png", 1, 2, "gallery")], "shared")])
def test_check_and_training_refuse_the_same(tmp_path, rows, kind):
    report = check_dataset(listed(tmp_path, TRAIN + rows))
    assert set(report.kinds("stop")) >= {kind} and not report.fit and "not fit to train on" in report.verdict
    with pytest.raises(ValueError, match="not fit to train on"):
        require_trainable(report)


@pytest.mark.parametrize("train, level, kind", [
    ([(f"{p}.png", p, 1, "train") for p in range(1, 9)], "stop", "unheld"),
    ([(f"{p}_{k}.png", p, 1, "train") for p in range(1, 9) for k in range(3)], "stop", "unheld"),
    ([(f"{p}_{k}.png", p, k if p > 1 else "", "train") for p in range(1, 9) for k in (1, 1.0, 2)], "stop", "cameras"),
    (TRAIN[:8], "need", "aside"),
    ([(f"{p}_{k}.png", p, "", "train") for p in (1, 2, 3) for k in (1, 2)][:6], None, None)])
def test_whether_somebody_can_be_set_aside_is_known_before(tmp_path, train, level, kind):
    report, data = check_dataset(listed(tmp_path, train)), quiet(tmp_path / "t.csv")
    if level is None:
        assert report.trainable and is_measurable(hold_out_people(data))
        return
    assert kind in report.kinds(level) and not report.trainable and "fit to train on;" not in report.verdict
    assert report.verdict.startswith("not fit" if level == "stop" else "nothing wrong; but not enough to train on")
    if kind != "cameras":
        with pytest.raises(ValueError): hold_out_people(data)


def test_a_photo_is_no_answer_to_itself(tmp_path):
    for k in range(3): photo(tmp_path / f"{k}.png", k)
    os.link(tmp_path / "0.png", tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(tmp_path / "1.png")
    shutil.copy(tmp_path / "2.png", tmp_path / "copy.png")
    os.mkfifo(tmp_path / "pipe.png")
    query = [tmp_path / n for n in ("0.png", "1.png", "2.png", "gone.png")]
    gallery = [tmp_path / n for n in ("hard.png", "soft.png", "copy.png", "0.png", "pipe.png")]
    own = same_photos(query, gallery)
    assert own.tolist() == [[0, 0], [0, 3], [1, 1], [2, 2]] and same_photos([], gallery).shape == (0, 2)
    splits = [make_split(paths, [Label(7, -1)] * len(paths), "x") for paths in (query[:2], gallery[:2])]
    assert unanswered(*splits, own[[0, 2]]).tolist() == [False, False], "the other one is left"
    one = [splits[0].take([0]), splits[1].take([0])]
    assert unanswered(*one, np.array([[0, 0]])).tolist() == [True]


def embeddings(ids, cams=None, seed=0) -> Embeddings:
    f = torch.nn.functional.normalize(torch.randn(len(ids), 6, generator=torch.Generator().manual_seed(seed)), dim=1)
    return Embeddings(f, None, torch.tensor(ids), torch.tensor(cams or [-1] * len(ids)))


@pytest.mark.filterwarnings("ignore:no camera labels", "ignore:.* have no true match")
def test_the_evaluator_leaves_the_querys_own_photo_out():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 6, 40).tolist()
    gallery = embeddings(ids)
    query = gallery.take(slice(0, 12))
    own = np.array([[k, k] for k in range(12)])
    assert rank_metrics(query, gallery).rank1 == 1.0, "noise finds itself"
    result = rank_metrics(query, gallery, own=own, chunk=5)
    for k in range(12):
        rest = [j for j in range(40) if j != k]
        alone = rank_metrics(query.take([k]), gallery.take(rest))
        assert result.ap[k] == pytest.approx(alone.ap[0]) and result.first[k] == alone.first[0]
    assert result.rank1 < 1 and k not in ranked_list(query, gallery, 39, own).index[k].tolist()
    junk = gallery._replace(ids=gallery.ids.clone().index_fill_(0, torch.tensor([0]), -1))
    assert rank_metrics(query, junk, own=own).ap[0] == rank_metrics(query.take([0]), junk).ap[0]


def test_overlap_is_a_finding(tmp_path):
    rows = TRAIN + [(f"q{k}.png", 9 + k, "", "query") for k in range(2)] + [(f"g{k}.png", 9 + k, "", "gallery")
                                                                            for k in range(2)]
    rows = [(p, i, "", s) for p, i, _, s in rows]
    assert "overlap" not in kinds(listed(tmp_path / "a", rows), "look")
    both = rows + [("q0.png", 9, "", "gallery")]
    assert kinds(listed(tmp_path / "b", both), "look") == {"overlap": 1}
    only = [r for r in both if r[0] != "g0.png"]
    assert kinds(listed(tmp_path / "c", only), "look") == {"overlap": 1, "unanswered": 1}
    shutil.copy(tmp_path / "a" / "q1.png", tmp_path / "a" / "g1.png")
    assert kinds(tmp_path / "a" / "t.csv", "look") == {"overlap": 1, "unanswered": 1}, "the bytes tell"


def test_linked_photos_are_the_photos(tmp_path):
    plain = people(tmp_path / "plain", "p1", "p2")
    for p in plain.rglob("*.png"):
        link = tmp_path / "links" / p.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(p)
    answers = [identify(root / "p1" / "0.png", open_gallery(root))[1:] for root in (plain, tmp_path / "links")]
    assert answers[0] == answers[1] == (1, -1, "a photo of the dataset", 0, "p1", (0,))
    assert quiet(tmp_path / "links").train.n == 6


def test_written_numbers_of_people():
    assert number_people(["b", "a"]) == {"a": 1, "b": 2} and number_people([]) == {}
    assert number_people(["-1", "0", "5"], nobody=True) == {"-1": -1, "0": 0, "5": 5}


def test_two_writings_of_a_number_are_said(tmp_path):
    found = [f.what for f in judge_people(quiet(people(tmp_path, "7", "007", "8"))) if f.kind == "writings"]
    assert found == ["007 and 7"]
