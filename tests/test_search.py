"""`dgnet_rank`: galleries of every kind, whose query it is, the camera rule, maps that add up, features that are kept,
and bad input."""
import configparser
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import dgnet.search
from dgnet.appearance import AppearanceEncoder
from dgnet.config import make_config
from dgnet.core import PALETTE
from dgnet.evidence import CAPTIONS, MAPS, activation_map, affine, enlarge, evidence, overlay, pool_with_places
from dgnet.model import DGNet
from dgnet.search import (
    WIDEST, gallery_features, identify, open_gallery, rank_cli, search, search_table, search_text, show_search,
)
from dgnet.reid import embed, rank_metrics, similarity
from dgnet.datasets import Label, load_dataset, make_split
from dgnet.photos import load_images
from dgnet.synthetic import write_domain

ROOT = Path(__file__).resolve().parent.parent


def state(root: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


def photo(path: Path, k: int = 0, size=(16, 32), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def plant(root: Path, names: list) -> Path:
    for k, n in enumerate(names): photo(root / n, k)
    return root


def net(n_ids: int = 3, seed: int = 0, **changes) -> DGNet:
    torch.manual_seed(seed)
    model = DGNet(make_config("smoke", "market", **changes), n_ids, start=False).eval()
    # as if it had been trained: statistics and biases that are not 0 and 1
    for m in model.E_a.modules():   # as if it had been trained: statistics and biases that are not 0 and 1
        if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(m.bias, 0, 0.1)
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_domain("market", tmp_path_factory.mktemp("w"), n_train_ids=3, n_test_ids=4, n_val_ids=2,
                        images_per_id=4, test_images_per_id=6, height=32, width=16)


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("m") / "model.safetensors")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(dgnet.search, "CACHE", tmp_path_factory.mktemp("cache"))

FLAT = ["0001_c1_1.jpg", "0001_c2_1.jpg", "0002_c1_1.jpg", "0002_c2_1.jpg", "-1_c1_1.jpg", "0000_c2_1.jpg"]


@pytest.mark.parametrize("names, layout, n, labelled, cameras, note", [
    (FLAT, "names", 6, True, True, "read from the file names"),
    (["a.jpg", "b ü.png", "0001_c1_1.jpg"], "flat", 3, False, False, "1 of 3 file names look as if"),
    (["Ada Łukasz/x.jpg", "Ada Łukasz/y.jpg", "山田/z.jpg", "山田/u.jpg"], "folder", 4, True, False,
     "no gallery split"),
    (["Ada/x.jpg", "Ada/y.jpg", "Bo/z.jpg", "loose.jpg"], "folder", 3, True, False, "1 photos beside the folders"),
    (["train_all/1/0001_c1_1.jpg", "query/2/0002_c1_1.jpg", "gallery/2/0002_c2_1.jpg", "gallery/3/0003_c2_1.jpg"],
     "folder", 2, True, True, None),
])
def test_galleries(tmp_path, names, layout, n, labelled, cameras, note):
    root = plant(tmp_path / "g", names)
    before = state(root)
    g = open_gallery(root)
    assert (g.layout, g.split.n, g.labelled, g.cameras) == (layout, n, labelled, cameras) and state(root) == before
    assert (not g.notes) if note is None else any(note in s for s in g.notes)


def test_galleries_of_datasets(world, tmp_path):
    g, data = open_gallery(world), load_dataset(None, world)
    assert (g.layout, g.cameras, g.notes) == ("market", True, ())
    assert g.split.paths == data.gallery.paths
    assert len(g.known) == sum(len(set(s.paths)) for s in data.splits)
    for name in ("duke", "msmt17", "cuhk03"):
        root = write_domain(name, tmp_path, n_train_ids=2, n_test_ids=2, n_val_ids=2, images_per_id=4,
                            test_images_per_id=4, height=32, width=16)
        g = open_gallery(root)
        assert g.layout == name and g.cameras and g.split.paths == load_dataset(None, root).gallery.paths


def test_a_gallery_from_a_table(tmp_path, model, file, capsys):
    root = plant(tmp_path / "photos", FLAT[:4])
    (tmp_path / "lists").mkdir()
    table = tmp_path / "lists" / "all.csv"
    rows = [
        ("0001_c1_1.jpg", "Ada", 1, "train"), ("0002_c1_1.jpg", "Bo", 1, "train"),
        ("0001_c2_1.jpg", "Ada", 2, "query"), ("0001_c1_1.jpg", "Ada", 1, "gallery"),
        ("0002_c2_1.jpg", "Bo", 2, "gallery"),
    ]
    table.write_text("path,id,camera,split\n" + "".join(f"../photos/{','.join(map(str, r))}\n" for r in rows))
    g = open_gallery(table)
    assert (g.layout, g.split.n, g.labelled, g.cameras) == ("csv", 2, True, True)
    result = search(model, g, [g.split.paths[0].parent / "0001_c2_1.jpg"], id="Ada", cam=2)
    mine = search(model, g, [root / "0001_c2_1.jpg", root / "0002_c2_1.jpg"]).answers
    assert mine[0].query[1:4] == (1, 2, "a photo of the dataset")
    assert mine[0].rows == result.answers[0].rows and mine[1].query.row == 1 and mine[1].rows == [0]
    assert result.answers[0].matches == 1 and result.protocol == "cross-camera"
    assert {r["file"] for r in search_table(result)} == {"../photos/0001_c1_1.jpg", "../photos/0002_c2_1.jpg"}
    before = state(tmp_path)
    assert run("--model", file, "--gallery", table, root / FLAT[1], "--out", root / FLAT[0], "--force") == 2
    assert "is one of the gallery's photos" in capsys.readouterr().err and state(tmp_path) == before


def test_whom_a_query_shows(world, tmp_path):
    data, g = load_dataset(None, world), open_gallery(world)
    mine = data.query.paths[0]
    renamed, named = Path(shutil.copy(mine, tmp_path / "x.jpg")), Path(shutil.copy(mine, tmp_path / mine.name))
    assert identify(mine, g)[1:4] == (data.query.ids[0], data.query.cams[0], "a photo of the dataset")
    assert identify(named, g)[1:4] == (data.query.ids[0], data.query.cams[0], "by its file name")
    assert identify(renamed, g)[1:3] == (None, -1) and "--id" in identify(renamed, g).said
    assert identify(renamed, g, id=7)[1:3] == (7, -1) and identify(renamed, g, id=7, cam=2)[1:3] == (7, 2)
    known = (data.query.ids[0], data.query.cams[0])
    assert identify(mine, g, id=int(known[0]))[1:3] == known, "told what is known: the camera stays"
    assert identify(mine, g, id=99)[1:3] == (99, -1), "told otherwise: the camera belonged to another label"
    assert [identify(p, g).row for p in (mine, g.split.paths[3])] == [-1, 3]
    assert identify(tmp_path / ".." / tmp_path.name / "x.jpg", g).id is None
    link = tmp_path / "link"
    link.symlink_to(world)
    assert identify(link / "query" / mine.name, g).said == "a photo of the dataset"
    for p, i in zip(data.gallery.paths, data.gallery.ids):
        if i < 1:
            assert identify(p, g).id is None and "nobody" in identify(p, g).said
    plain = plant(tmp_path / "plain", ["a.jpg", "b.jpg"])
    assert identify(named, open_gallery(plain))[1:3] == (None, -1)
    blind = open_gallery(plant(tmp_path / "blind", ["Ada/0001_a.jpg", "Ada/y.jpg", "Bo/z.jpg"]))
    assert identify(named, blind).id is None and identify(blind.split.paths[2], blind)[1:3] == (2, -1)


def test_numbers_are_the_evaluators(world, model):
    data = load_dataset(None, world)
    result = search(model, world, data.query.paths)
    q, g = (embed(model.E_a, load_images(s, 64, 32), s) for s in (data.query, data.gallery))
    r = rank_metrics(q, g, beta=model.cfg.beta)
    assert np.allclose([a.ap for a in result.answers], r.ap, atol=1e-6)
    assert np.allclose([a.ap_standard for a in result.answers], r.ap_standard, atol=1e-6)
    assert [a.first - 1 for a in result.answers] == r.first.tolist() and result.protocol == r.protocol == "cross-camera"
    s = similarity(q, g, beta=model.cfg.beta)
    for k, a in enumerate(result.answers):
        same = data.gallery.ids == data.query.ids[k]
        same_camera = same & (data.gallery.cams == data.query.cams[k])
        junk = set(np.flatnonzero((data.gallery.ids == -1) | same_camera))
        order = [j for j in s[k].argsort(descending=True).tolist() if j not in junk][:10]
        assert a.rows == order
        assert a.right == [data.gallery.ids[j] == data.query.ids[k] for j in order]
        assert a.junk == len(junk)
        assert a.matches == sum(same) - sum(same_camera)


def test_a_query_does_not_find_itself(tmp_path, model):
    root = plant(tmp_path / "p", ["a.jpg", "b.jpg", "c.jpg"])
    result = search(model, root, [root / "b.jpg"], top=5)
    assert [result.features.gallery.split.paths[k].name for k in sorted(result.answers[0].rows)] == ["a.jpg", "c.jpg"]
    assert result.protocol == "no labels"
    people = plant(tmp_path / "f", ["Ada/x.jpg", "Ada/y.jpg", "Bo/z.jpg"])
    a, b = search(model, people, [people / "Ada" / "x.jpg", people / "Bo" / "z.jpg"]).answers
    assert (a.matches, a.junk) == (1, 1) and 0 not in a.rows and sorted(a.rows) == [1, 2]
    assert b.first is None and b.note == "the gallery shows person Bo only in this very photo"
    assert b.right == [False, False]


def test_cameras_unknown_in_part_or_not_at_all(tmp_path, model):
    root = plant(tmp_path / "f", ["1/0001_c1_1.jpg", "1/0001_c1_2.jpg", "1/0001_c2_1.jpg", "2/x.jpg", "2/y.jpg"])
    result = search(model, root, [root / "1" / "0001_c1_1.jpg"])
    assert result.protocol == "no cameras" and result.answers[0].matches == 2
    assert "easier than the papers' cross-camera protocol" in search_text(result)
    named = plant(tmp_path / "n", FLAT)
    here = search(model, named, [named / FLAT[0]])
    assert here.protocol == "cross-camera" and here.answers[0].matches == 1 and here.answers[0].junk == 2
    shutil.copy(named / FLAT[0], tmp_path / "q.jpg")
    asked = search(model, named, [tmp_path / "q.jpg"], id=1)
    assert asked.answers[0].matches == 1 and "camera is not known" in search_text(asked)
    assert asked.answers[0].junk == 2 and asked.answers[0].scores[0] < 1.49, "a copy of a photo does not find it"
    Image.open(named / FLAT[0]).save(tmp_path / "again.png")
    other = search(model, named, [tmp_path / "again.png"], id="0001")
    assert other.answers[0].matches == 2 and other.answers[0].scores[0] == pytest.approx(1.5, abs=1e-4)
    gone = search(model, named, [tmp_path / "q.jpg"], id=5)
    assert gone.answers[0].note == "person 5 is not known in this gallery" and set(gone.answers[0].right) == {False}
    same = search(model, plant(tmp_path / "s", ["0001_c1_1.jpg", "0002_c1_1.jpg"]), [tmp_path / "q.jpg"], id=1, cam=1)
    assert same.answers[0].note.endswith("only at the query's own camera, 1")


@pytest.mark.parametrize("code_heads", [False, True])
@pytest.mark.parametrize("flip, beta_on", [(True, "query"), (False, "both")])
def test_evidence_adds_up_to_the_score(model, code_heads, flip, beta_on):
    torch.manual_seed(1)
    E_a = model.E_a
    if code_heads:
        E_a = AppearanceEncoder(3, "basic", (1, 1, 1, 1), 8, True, 4, 16, code_heads=True).eval()
    x = torch.randint(0, 256, (6, 3, 64, 32), dtype=torch.uint8)
    e = embed(E_a, x, make_split([Path(f"{k}") for k in range(6)], [Label(k, 0) for k in range(6)], "x"), flip=flip)
    for average in (x[:3], torch.zeros_like(x[:1])):
        got = evidence(E_a, x, e.take(slice(0, 1)), average, 0.7, beta_on, flip)
        score = similarity(e.take(slice(0, 1)), e, 0.7, beta_on=beta_on)[0]
        assert torch.allclose(got.places.sum((1, 2)) + got.rest, score, atol=1e-5)
    assert got.places[0].abs().sum() > 0
    shift = evidence(E_a, x, e.take(slice(0, 1)), x[:3], 0.7, beta_on, flip)
    assert not torch.allclose(shift.rest, got.rest), "what is shared moves between places and rest"


def test_evidence_lies_where_the_maximum_is(model):
    x = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    p = pool_with_places(model.E_a, (x / 255 - 0.5) * 4)
    with torch.no_grad():
        fmap = model.E_a.features((x / 255 - 0.5) * 4)
    assert torch.equal(fmap.flatten(2).gather(2, p.where[:, :, None])[:, :, 0], p.v)
    assert torch.equal(p.v, fmap.amax((2, 3)))
    W, b = affine(model.E_a.head_fine)
    with torch.no_grad():
        assert torch.allclose(p.v @ W.T + b, model.E_a.head_fine(p.v).f, atol=1e-5)


def test_activation_map(model):
    x = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model.E_a.train()
    got = activation_map(model.E_a, x)
    assert model.E_a.training and all(m.training for m in model.E_a.modules())
    model.E_a.eval()
    assert torch.equal(got, activation_map(model.E_a, x)) and got.shape[1] < 64 and (got >= 0).all()
    assert not got.requires_grad
    large = enlarge(torch.ones(2, 4, 2), 64, 32)
    assert large.shape == (2, 64, 32) and torch.allclose(large, torch.ones(2, 64, 32))
    flat = overlay(x, torch.zeros(3, 64, 32), alpha=1.0)
    assert len(flat.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)) == 1
    assert not torch.equal(overlay(x, torch.rand(3, 64, 32)), flat)


def test_strip(tmp_path, world, model):
    data = load_dataset(None, world)
    unknown = Path(shutil.copy(data.query.paths[0], tmp_path / "weiß $x$ 写真.jpg"))
    result = search(model, world, [*data.query.paths[:2], unknown], top=4)
    for maps in (None, *MAPS):
        fig = show_search(result, maps)
        for k, a in enumerate(result.answers):
            axes = fig.axes[k * 5:k * 5 + 5]
            marks = ["✓" if r else "✗" for r in a.right] if k < 2 else [""] * 4
            assert [ax.get_title().split()[1] if k < 2 else "" for ax in axes[1:]] == marks
            assert axes[1].get_title().startswith("\n1 ")
            colours = [ax.spines["left"].get_edgecolor() for ax in axes[1:]]
            from matplotlib.colors import to_rgba
            assert colours == [to_rgba("#999999") if r is None else to_rgba(PALETTE["good" if r else "bad"])
                               for r in a.right]
            assert axes[0].images[0].get_array().shape[0] == (64 if maps is None else 129)
        assert CAPTIONS[maps] in [t.get_text() for t in fig.texts] + [""]
    with pytest.raises(ValueError, match="--maps heat: there are activation and similarity"):
        show_search(result, "heat")
    assert result.answers[2].right == [None] * 4 and {r["match"] for r in search_table(result)[8:]} == {""}


def test_lists_of_different_length(tmp_path, model):
    root = plant(tmp_path, FLAT[:5])
    result = search(model, root, [root / FLAT[0], root / FLAT[4]], top=9)
    assert [len(a.rows) for a in result.answers] == [3, 4]
    assert len(show_search(result, "similarity").axes) == 10


def test_kept_features(tmp_path, model):
    root, cache = plant(tmp_path / "g", ["a.jpg", "b.jpg", "c.jpg"]), tmp_path / "kept"
    def get(**options):
        return gallery_features(options.pop("model", model), open_gallery(root), cache=cache, **options)
    first, again = get(), get()
    assert (first.stored, again.stored) == (False, True) and len(list(cache.iterdir())) == 1
    assert torch.equal(first.embeddings.fine, again.embeddings.fine)
    assert not get(model=net(seed=1)).stored
    photo(root / "b.jpg", 9)
    os.utime(root / "b.jpg", (1, 1))
    changed = get()
    old, new = first.embeddings.prim, changed.embeddings.prim
    assert not changed.stored and not torch.equal(new[1], old[1]) and torch.equal(new[::2], old[::2])
    for f in cache.iterdir(): f.write_bytes(f.read_bytes()[:100])
    assert not get().stored and get().stored, "a damaged store is made again"
    (root / "d.jpg").write_bytes(b"")
    assert not get(skip_broken=True).stored and get(skip_broken=True).stored
    assert [p.name for p in get(skip_broken=True).broken] == ["d.jpg"]
    with pytest.raises(ValueError, match="d.jpg: 1 of 4 gallery photos cannot be read.*--skip-broken"):
        get()
    before = state(root)
    gallery_features(model, open_gallery(root), True, root / "cache")
    assert state(root) == before, "never into the gallery"
    assert not gallery_features(model, open_gallery(root), True).stored
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.warns(UserWarning, match="could not be kept"):
        gallery_features(model, open_gallery(root), True, blocked)
    assert not list(tmp_path.rglob("*.tmp"))


def test_rows_after_broken_photos(tmp_path, model):
    root = plant(tmp_path, FLAT)
    (root / "-1_c9_1.jpg").write_bytes(b"<html>")   # sorted first
    result = search(model, root, [root / FLAT[1]], skip_broken=True)
    paths = [p.name for p in result.features.gallery.split.paths]
    assert "-1_c9_1.jpg" not in paths and paths[result.answers[0].query.row] == FLAT[1]
    assert FLAT[1] not in [paths[k] for k in result.answers[0].rows]
    assert result.answers[0].matches == 1
    assert "1 photos that cannot be read are left out: -1_c9_1.jpg" in search_text(result)


def test_many_photos_are_read_in_handfuls(tmp_path, model, monkeypatch):
    root = plant(tmp_path, [f"{k}.jpg" for k in range(7)])
    whole, asked = gallery_features(model, open_gallery(root)), []
    rows, e = dgnet.search._embed_all(model, open_gallery(root).split, lambda *n: asked.append(n), handful=3)
    assert torch.allclose(e.prim, whole.embeddings.prim, atol=1e-6) and rows == list(range(7))
    assert asked[-1] == (7, 7) and len(asked) == 3


def run(*args): return rank_cli([str(a) for a in args])


def test_the_command(world, file, tmp_path, capsys):
    data, before = load_dataset(None, world), state(world)
    q = data.query.paths[:2]
    for k, maps in enumerate(([], ["--maps"], ["--maps", "similarity"])):
        out = tmp_path / f"strip {k} ü.png"
        assert run("--model", file, "--gallery", world, *maps, *q, "--out", out, "--csv", tmp_path / "l.csv", "--top",
                   5) == 0
        assert Image.open(out).width > 300
    text = capsys.readouterr().out
    assert text.count("first true match at rank") == 6 and "by the standard rule" in text
    assert "photographs of people" not in text
    table = pd.read_csv(tmp_path / "l.csv")
    assert len(table) == 10 and table.match.isin([0, 1]).all()
    assert table.score.iloc[:5].is_monotonic_decreasing
    assert all((world / f).is_file() for f in table.file)
    assert state(world) == before and len(list(dgnet.search.CACHE.iterdir())) == 1
    assert run(q[0], "--model", file, "--gallery", world) == 0
    assert "first true match" in capsys.readouterr().out, "numbers alone"


def test_the_command_on_photos_without_labels(tmp_path, file, capsys):
    root = plant(tmp_path / "写真 $1", ["a b.jpg", "ü.png", "c.jpg"])
    for k, mode in enumerate(("L", "RGBA", "P", "CMYK")):
        photo(root / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}", k, (40, 30), mode)
    assert run("--model", file, "--gallery", root, "--maps", root / "ü.png", "--out", tmp_path / "s.png", "--csv",
               tmp_path / "s.csv") == 0
    out = capsys.readouterr().out
    assert "no labels" in out and "person not known" in out and "stays on this machine" in out
    assert pd.read_csv(tmp_path / "s.csv").match.isna().all()
    assert len(pd.read_csv(tmp_path / "s.csv")) == 6


def test_a_read_only_gallery(world, file, tmp_path):
    root = Path(shutil.copytree(world, tmp_path / "w"))
    folders = [root, *[p for p in root.rglob("*") if p.is_dir()]]
    for p in folders: p.chmod(0o555)
    before = state(root)
    try:
        assert run("--model", file, "--gallery", root, next((root / "query").glob("*.jpg"))) == 0
        assert state(root) == before
    finally:
        for p in folders: p.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_without_permission(file, capsys, monkeypatch):
    root, me = Path(tempfile.mkdtemp()), os.geteuid()
    plant(root / "g", ["a.jpg", "b.jpg"])
    shutil.copy(file, root / "m.safetensors")
    (root / "out").mkdir()
    for p in (root, root / "g", root / "m.safetensors"): p.chmod(0o755)
    (root / "cache").mkdir()
    (root / "cache").chmod(0o777)
    monkeypatch.setattr(dgnet.search, "CACHE", root / "cache")
    def asked(*args):
        if me == 0: os.setresuid(65534, 65534, 0)   # the real one too: `os.access` asks for that
        try:
            return run(*args), capsys.readouterr().err
        finally:
            if me == 0: os.setresuid(0, 0, 0)
    try:
        (root / "out").chmod(0o555)
        status, words = asked("--model", root / "m.safetensors", "--gallery", root / "g", root / "g" / "a.jpg", "--out",
                            root / "out" / "s.png")
        assert status == 2 and "no permission to write there" in words
        (root / "g").chmod(0)
        status, words = asked("--model", root / "m.safetensors", "--gallery", root / "g", root / "m.safetensors")
        assert status == 2 and "g: no permission to read. Ask its owner, or: chmod -R u+rX" in words
        (root / "g").chmod(0o755)
        (root / "m.safetensors").chmod(0)
        status, words = asked("--model", root / "m.safetensors", "--gallery", root / "g", root / "g" / "a.jpg")
        assert status == 2 and "m.safetensors: no permission to read" in words
    finally:
        (root / "g").chmod(0o755)
        shutil.rmtree(root)


def bad_inputs(t: Path, file: Path) -> list:
    "Arguments, and what must be said."
    g, q = plant(t / "g", FLAT), photo(t / "q.jpg", 5)
    plain = plant(t / "plain", ["a.jpg", "b.jpg"])
    for name, content in (("empty.jpg", b""), ("text.jpg", b"hello"),
                          ("cut.jpg", photo(t / "whole.jpg", 1, (64, 128)).read_bytes()[:500]),
                          ("page.png", b"<html>404</html>")):
        (t / name).write_bytes(content)
    whole = file.read_bytes()
    for name, content in (("cut.safetensors", whole[:len(whole) // 2]), ("noise.safetensors", os.urandom(2000)),
                          ("zero.safetensors", b"")):
        (t / name).write_bytes(content)
    torch.save({"a": torch.zeros(3)}, t / "pickle.pt")
    from safetensors.torch import save_file
    save_file({"x": torch.zeros(2)}, t / "other.safetensors")
    save_file({"x": torch.zeros(2)}, t / "header.safetensors", {"dgnet": json.dumps({"format": "dgnet-model"})})
    (t / "nothing").mkdir()
    (t / "notes").mkdir()
    (t / "notes" / "a.txt").touch()
    (t / "outdir").mkdir()
    half = plant(t / "half", ["bounding_box_train/0001_c1s1_1_1.jpg"])
    two = plant(t / "two", [f"{k}/bounding_box_train/0001_c1s1_1_1.jpg" for k in "ab"])
    plant(t / "broken", ["a.jpg", "b.jpg"])
    (t / "broken" / "c.jpg").write_bytes(b"x")
    (t / "ruins").mkdir()
    (t / "ruins" / "c.jpg").write_bytes(b"x")
    m = ("--model", file)
    return [
        ((*m, "--gallery", g, t / "none.jpg"), "none.jpg: no such photo. Check the path"),
        ((*m, "--gallery", g, t / "notes"), "notes: a folder, where a query photo is expected"),
        *(((*m, "--gallery", g, t / n), f"{n}: not a readable image")
          for n in ("empty.jpg", "text.jpg", "cut.jpg", "page.png")),
        ((*m, "--gallery", t / "none", q), "none: no such folder"),
        ((*m, "--gallery", t / "text.jpg", q), "text.jpg: a file, not a folder"),
        ((*m, "--gallery", t / "nothing", q), "nothing: an empty folder"),
        ((*m, "--gallery", t / "notes", q), "notes: neither photos nor a known dataset"),
        ((*m, "--gallery", half, q), "query: no such folder"), ((*m, "--gallery", two, q), "holds 2 datasets"),
        ((*m, "--gallery", g, "--name", "Market1501", q), "'Market1501': no such dataset; one of market"),
        ((*m, "--gallery", half, "--name", "duke", q), "looks like market, not duke"),
        ((*m, "--gallery", t / "broken", q), "c.jpg: 1 of 3 gallery photos cannot be read"),
        ((*m, "--gallery", t / "ruins", "--skip-broken", q), "ruins: none of the 1 photos can be read"),
        (("--model", t / "none.safetensors", "--gallery", g, q), "none.safetensors: no such file"),
        (("--model", t / "notes", "--gallery", g, q), "notes: not a file of its own"),
        *((("--model", t / n, "--gallery", g, q), f"{n}: not a readable safetensors file")
          for n in ("cut.safetensors", "noise.safetensors", "zero.safetensors", "pickle.pt", "q.jpg")),
        (("--model", t / "other.safetensors", "--gallery", g, q), "not a DGNet model"),
        (("--model", t / "header.safetensors", "--gallery", g, q), "its header lacks"),
        ((*m, "--gallery", g, q, "--out", t / "none" / "s.png"), "there is no folder"),
        ((*m, "--gallery", g, q, "--out", t / "outdir"), "ends in .png"),
        ((*m, "--gallery", g, q, "--out", t / "s.exe"), "ends in .png"),
        ((*m, "--gallery", g, q, "--out", g / "s.png"), "lies inside the dataset"),
        ((*m, "--gallery", g, q, "--out", q), "would overwrite what is read"),
        ((*m, "--gallery", g, q, "--csv", t / "l.txt"), "ends in .csv"),
        ((*m, "--gallery", g, q, "--csv", g / "l.csv"), "lies inside the dataset"),
        ((*m, "--gallery", g, q, "--top", 0), "--top 0: a list has at least one photo"),
        ((*m, "--gallery", g, q, "--top", -3), "--top -3"),
        ((*m, "--gallery", g, q, "--top", WIDEST + 1, "--out", t / "s.png"), f"a strip shows {WIDEST} photos at most"),
        ((*m, "--gallery", g, *[q] * 31, "--out", t / "s.png"), "31 queries: a strip shows 30"),
        ((*m, "--gallery", g, "--maps", q), "Say where with --out"),
        ((*m, "--gallery", g, "--maps=heat", q, "--out", t / "s.png"),
         "--maps heat: there are activation and similarity"),
        ((*m, "--gallery", g, "--id", 0, q), "--id 0: people are numbered from 1"),
        ((*m, "--gallery", g, "--id", 1, "--cam", -1, q), "--cam -1: cameras are numbered"),
        ((*m, "--gallery", g, "--cam", 1, q), "Give --id too"),
        ((*m, "--gallery", plain, "--id", 1, q), "have no labels"),
        ((*m, "--gallery", plain, "--cam", 1, q), "not all known"),
    ]


def test_bad_input_is_one_line_and_changes_nothing(tmp_path, file, capsys):
    cases = bad_inputs(tmp_path, file)
    before = state(tmp_path)
    for args, words in cases:
        status, out = run(*args), capsys.readouterr()
        assert status == 2 and words in out.err and out.err.startswith("dgnet_rank: ")
        assert out.err.count("\n") == 1 and not out.out, (args, out)
    assert state(tmp_path) == before and not list(dgnet.search.CACHE.iterdir())


@pytest.mark.parametrize("args, words", [
    ([], "required"), (["--model", "m"], "required"), (["--model", "m", "--gallery", "g"], "QUERY"),
    (["--model", "m", "--gallery", "g", "q", "--top", "many"], "invalid int"),
    (["--model", "m", "--gallery", "g", "q", "--top", "nan"], "invalid int"),
    (["--model", "m", "--gallery", "g", "q", "--tops", "3"], "unrecognized"),
])
def test_arguments(args, words, capsys):
    with pytest.raises(SystemExit) as e:
        rank_cli(args)
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_a_bomb_is_no_photo(tmp_path, file, capsys, monkeypatch):
    root = plant(tmp_path / "g", ["a.jpg", "b.jpg"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert run("--model", file, "--gallery", root, photo(tmp_path / "q.png")) == 2
    assert "q.png: not a readable image (more pixels than can be meant" in capsys.readouterr().err


def test_interrupted(tmp_path, file, monkeypatch, capsys):
    root = plant(tmp_path / "g", ["a.jpg", "b.jpg"])
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(dgnet.search, "search", stop)
    assert run("--model", file, "--gallery", root, root / "a.jpg") == 130 and "stopped" in capsys.readouterr().err


def test_python_errors(tmp_path, model):
    root = plant(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match="no query photo: give one or more"):
        search(model, root, [])
    with pytest.raises(ValueError, match="--top 0"):
        search(model, root, [root / "a.jpg"], top=0)


def test_the_command_is_installed():
    cfg = configparser.ConfigParser(delimiters=["="], interpolation=None)
    cfg.read_string((ROOT / "settings.ini").read_text(encoding="utf-8"))
    assert "dgnet_rank=dgnet.commands:rank_command" in cfg["DEFAULT"]["console_scripts"].split()
