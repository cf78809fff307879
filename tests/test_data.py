"""Datasets in every layout and every kind of disorder, photos, augmentation, and the sampler of pairs and positives."""

import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgnet.data import (Label, TripletSampler, augment, describe, holdout, is_photo, load_dataset, load_images, make_split, parse_name,
                        pick_queries, random_erasing, read_image, recognise, relabel)
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
    ("0000_000_01_0303morning_0015_0.jpg", (0, 1)), ("3059_021_15_0303noon_0500_2_ex.jpg", (3059, 15)), ("12345_c123s1_0_0.jpg", (12345, 123)),
    ("holiday.jpg", None), ("c1_0002.jpg", None), ("0002.jpg", None)])
def test_names(name, expected): assert parse_name(name) == expected


def test_what_is_a_photo():
    yes = ["a.jpg", "a.jpg.jpg", "a.JPEG", "a.Png", "a.webp", "a.bmp"]
    no = ["Thumbs.db", ".DS_Store", "._a.jpg", ".jpg", "a.mat", "a.jpg.part", "readme.txt", "jpg"]
    assert all(map(is_photo, yes)) and not any(map(is_photo, no))


def test_market_with_strays(tmp_path):
    root = boxes(tmp_path / "Market-1501-v15.09.15", MARKET)
    for stray in ("Thumbs.db", ".DS_Store", "._0002_c1s1_000451_03.jpg"): (root / "bounding_box_train" / stray).write_bytes(b"x")
    for path in (root, tmp_path):
        data = load_dataset(None, path)
        assert (data.name, data.root, data.n_ids) == ("market", root, 2)
        assert data.train.ids.tolist() == [2, 2, 7] and data.train.cams.tolist() == [1, 2, 3] and len(data.train.ignored) == 3
        assert data.gallery.ids.tolist() == [-1, 0, 1] and data.gallery.people.tolist() == [1]
        assert data.multi_query.ids.tolist() == [1, 1], "only the queried people"
        assert data.val_query is None
    assert load_images(data.gallery, 16, 8).shape == (3, 3, 16, 8), ".jpg.jpg opens like any other"
    table = describe(data).set_index("split")
    assert table.loc["gallery", ["distractors", "junk"]].tolist() == [1, 1] and table.loc["train", "ignored files"] == 3


def test_an_unreadable_name_is_said(tmp_path):
    root = boxes(tmp_path, MARKET)
    photo(root / "query" / "holiday.jpg")
    with pytest.warns(UserWarning, match="1 photos passed over.*holiday.jpg"): data = load_dataset("market", root)
    assert data.query.n == 1 and data.query.ignored == ("holiday.jpg",)
    for f in (root / "query").iterdir(): f.rename(f.with_name("x" + f.name))
    with pytest.raises(ValueError, match="query: no file name starts like"): load_dataset("market", root)


def test_duke_and_cuhk03(tmp_path):
    duke = boxes(tmp_path / "duke", {"bounding_box_train": ["0001_c2_f0046182.jpg"], "query": ["0005_c12_f0046985.jpg"], "bounding_box_test": ["0005_c1_f0051341.jpg"]})
    assert load_dataset(None, duke).name == "duke" and load_dataset(None, duke).query.cams.tolist() == [12]
    for kind in ("detected", "labeled"):
        boxes(tmp_path / "cuhk" / kind, {"bounding_box_train": [f"000{k}_c1_{k}.png" for k in range(1, 3 if kind == "detected" else 4)],
                                         "query": ["0009_c1_1.png"], "bounding_box_test": ["0009_c2_2.png"]})
    assert [load_dataset(n, tmp_path / "cuhk").train.n for n in (None, "cuhk03", "cuhk03-labeled")] == [2, 2, 3]
    assert load_dataset("cuhk03", tmp_path / "cuhk" / "labeled").train.n == 3, "the folder itself may be named"


def msmt(root: Path, train="train", test="test") -> Path:
    lists = {"train": ["0000/0000_000_01_0303morning_0015_0.jpg 0"], "val": ["0001/0001_003_15_0303noon_0015_0.jpg 1"],
             "query": ["0000/0000_000_11_0303morning_0015_0.jpg 0"], "gallery": ["0000/0000_001_02_0303morning_0015_0.jpg 0"]}
    for name, lines in lists.items():
        for l in lines: photo(root / (test if name in ("query", "gallery") else train) / l.split()[0])
        (root / f"list_{name}.txt").write_text("\n".join(lines) + "\n\n")
    return root


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17(tmp_path, folders):
    data = load_dataset(None, msmt(tmp_path, *folders))
    assert data.name == "msmt17" and data.train.n == 2 and data.train.cams.tolist() == [1, 15]
    assert data.query.ids.tolist() == [1] and data.query.cams.tolist() == [11], "label 0 is a person, so it becomes 1"
    data.gallery.paths[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"0000_001_02.*in list_gallery.txt.*with 0 others"): load_dataset(None, tmp_path)


def test_plain_folder(tmp_path):
    for person, n in (("Ada", 3), ("Grace", 2), ("Joan", 1)):
        for k in range(n): photo(tmp_path / person / f"{k}.jpg")
    (tmp_path / ".git").mkdir(); (tmp_path / "empty").mkdir(); (tmp_path / "Ada" / "Thumbs.db").touch()
    data = load_dataset(None, tmp_path)
    assert data.name == "folder" and data.train.ids.tolist() == [1, 1, 1, 2, 2, 3] and (data.train.cams == -1).all()
    assert data.query.n == data.gallery.n == 0 and data.train.ignored == ("Thumbs.db",)
    assert holdout(data, 2).val_query.ids.tolist() == [2] and holdout(data, 2).val_gallery.ids.tolist() == [2, 3]


def test_the_official_tree(tmp_path):
    for folder, person, f in (("train_all", "0002", "0002_c1s1_0_0.jpg"), ("query", "0001", "0001_c1s1_0_0.jpg"), ("gallery", "-1", "-1_c3s1_0_0.jpg"),
                              ("gallery", "0001", "0001_c2s1_0_0.jpg"), ("multi-query", "0001", "0001_c1s1_0_9.jpg")): photo(tmp_path / folder / person / f)
    data = load_dataset(None, tmp_path)
    assert data.gallery.ids.tolist() == [-1, 1] and data.gallery.cams.tolist() == [3, 2] and data.multi_query.n == 1 and data.n_ids == 1
    shutil.rmtree(tmp_path / "query")
    with pytest.raises(FileNotFoundError, match="query: no such folder, though"): load_dataset(None, tmp_path)


def test_errors_name_path_and_remedy(tmp_path):
    def fails(error, match, name, path):
        with pytest.raises(error, match=match) as e: load_dataset(name, path)
        assert str(path) in str(e.value)
        return str(e.value)
    for name in (None, "market", "folder"): assert "Unpack" in fails(FileNotFoundError, "no such folder", name, tmp_path / "none")
    assert "Unpack" in fails(FileNotFoundError, "no known dataset", None, tmp_path)
    assert "Unpack" in fails(FileNotFoundError, "no photo", "folder", tmp_path)
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
        with pytest.raises(OSError, match="0001_c1s1_0_0.jpg: not a readable image"): load_images(make_split([bad], [Label(1, 1)], "train"), 16, 8)


@pytest.mark.parametrize("world", ["market", "duke", "msmt17", "cuhk03"])
def test_synthetic_worlds(tmp_path, world):
    data = load_dataset(None, write_domain(world, tmp_path, n_train_ids=5, n_test_ids=3, n_val_ids=2, images_per_id=6, test_images_per_id=6, height=32, width=16))
    f = read_factors(data.root)
    assert data.name == world and (data.n_ids, len(data.query.people), len(data.val_query.people)) == (5, 3, 2)
    for s in data.splits:
        files = [p.relative_to(data.root).as_posix() for p in s.paths]
        rows = [f.files.index(p) for p in files]
        assert (s.cams == f.cameras[rows]).all() and len(f.lookup(s.paths)[1].view) == s.n
        assert (s.ids == f.ids[rows] + (world == "msmt17")).all()
    assert sum(s.n for s in data.splits) == len(f.files) == len({p for s in data.splits for p in s.paths})
    assert set(data.val_query.ids) <= set(data.val_gallery.ids)


def test_the_synthetic_cuhk03_reads_like_the_real_one(tmp_path):
    root = write_domain("cuhk03", tmp_path, n_train_ids=5, n_test_ids=3, n_val_ids=2, images_per_id=9, test_images_per_id=9, height=32, width=16)
    assert root == tmp_path / "CUHK03-NP" / "detected"
    for path in (tmp_path / "CUHK03-NP", root):
        for name in ("cuhk03", None):
            data = load_dataset(name, path)
            assert (data.name, data.root, data.multi_query) == ("cuhk03", root, None)
    assert data.train.n == 5 * 9 and data.query.n == 3 * 2 and data.gallery.n == 3 * 7 and (data.gallery.ids > 0).all()
    assert all(set(s.cams) == {1, 2} for s in data.splits) and not set(data.train.people) & set(data.query.people)
    assert load_images(data.train, 32, 16).shape == (45, 3, 32, 16)
    with pytest.raises(ValueError, match="looks like cuhk03, not duke"): load_dataset("duke", root)


def test_relabel(): assert relabel(np.array([15, 2, 2, 1501, 15])).tolist() == [1, 0, 0, 2, 1]


def test_holdout_is_split_by_identity(tmp_path):
    data = load_dataset(None, write_domain("market", tmp_path, n_train_ids=8, n_test_ids=2, n_val_ids=2, height=32, width=16))
    h = holdout(data, 3)
    assert set(h.train.people) | set(h.val_query.people) == set(data.train.people) and not set(h.train.people) & set(h.val_gallery.people)
    assert h.train.n + h.val_query.n + h.val_gallery.n == data.train.n and min(h.val_query.people) > max(h.train.people)
    for n in (0, 8, 100):
        with pytest.raises(ValueError, match=f"cannot hold out {n} of 8"): holdout(data, n)


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


def test_augment_is_flip_edge_pad_and_crop():
    x = torch.randint(0, 256, (64, 3, 12, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = augment(x, torch.Generator().manual_seed(1), pad=3)
    seen = set()
    for before, after in zip(x.numpy(), y.numpy()):
        padded = np.pad(before, ((0, 0), (3, 3), (3, 3)), mode="edge")
        ways = [(dy, dx, f) for dy in range(7) for dx in range(7) for f in (1, -1) if np.array_equal(padded[:, dy:dy + 12, dx:dx + 9][:, :, ::f], after)]
        assert len(ways) == 1
        seen.add(ways[0])
    assert len(seen) > 30 and {f for *_, f in seen} == {1, -1}, "every photo has a draw of its own"
    assert torch.equal(y, augment(x, torch.Generator().manual_seed(1), pad=3)) and torch.equal(x, augment(x, torch.Generator(), pad=0, p_flip=0.0))


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
    assert abs(hit.float().mean() - 0.5) < 0.03 and 0.015 < share.min() and share.max() < 0.42 and abs(share.mean() - 0.2) < 0.03
    assert 0.25 < ratio.min() and ratio.max() < 4
    assert (hole.float().mean(0) > 0).all(), "every pixel can be lost, the edges too"
    assert torch.equal(y, random_erasing(x, torch.Generator().manual_seed(2))) and torch.equal(x, random_erasing(x, torch.Generator(), p=0.0))


def test_sampler_visits_every_photo_once_per_epoch():
    labels = np.repeat(np.arange(10), 6)
    s = TripletSampler(labels, batch=5, seed=3)
    first = [next(s) for _ in range(s.steps)]
    second = [next(s) for _ in range(s.steps)]
    for epoch in (first, second):
        for role in ("i", "j"): assert torch.cat([getattr(t, role) for t in epoch]).sort().values.tolist() == list(range(60))
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
    assert any((loose.labels[t.i] == loose.labels[t.j]).any() for t in (next(loose) for _ in range(20))), "the official pairs may clash (D15)"
    with pytest.raises(ValueError, match="one person holds so many"): TripletSampler(np.array([0, 0, 0, 1]), batch=2, seed=0, distinct=True)


@pytest.mark.parametrize("stop", [0, 1, 7, 12, 13, 30])
def test_sampler_resumes_exactly(stop):
    labels = np.arange(50) % 7
    a = TripletSampler(labels, batch=4, seed=5)
    for _ in range(stop): next(a)
    b = TripletSampler(labels, batch=4, seed=5)
    b.load_state_dict(a.state_dict())
    for _ in range(30): assert all(torch.equal(x, y) for x, y in zip(next(a), next(b)))


def test_processes_share_a_batch():
    labels = np.arange(48) % 6
    whole, parts = TripletSampler(labels, batch=8, seed=1), [TripletSampler(labels, batch=4, seed=1, rank=r, world=2) for r in (0, 1)]
    for _ in range(15):
        t, (p, q) = next(whole), [next(s) for s in parts]
        for a, b, c in zip(t, p, q): assert torch.equal(a[0::2], b) and torch.equal(a[1::2], c)


def test_sampler_needs_a_full_batch():
    with pytest.raises(ValueError, match="6 photos do not fill one batch of 8"): TripletSampler(np.arange(6), batch=8, seed=0)


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
    assert recognise(tmp_path).name == "market"
