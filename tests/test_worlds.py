"""One rendered world in the layouts of all sets: the same photos and people, whichever way they are stored, and the
check passes."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from layouts import SIZES, write_layouts

from dgnet.check import check_dataset, data_cli
from dgnet.datasets import holdout, load_dataset, relabel
from dgnet.pedestrians import WORLDS
from dgnet.photos import TripletSampler, load_images
from dgnet.reid import Embeddings, rank_metrics

NAMES = ("market", "duke", "msmt17", "cuhk03", "pytorch", "folder", "csv")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    return write_layouts(tmp_path_factory.mktemp("layouts"), 32, 16)


@pytest.fixture(autouse=True)
def silent():
    "Nothing here is a photograph of a real person, nor lacks a label: no warning is due."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_all_are_there(layouts):
    assert tuple(layouts) == NAMES and set(WORLDS) - {"strangers"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_counts(layouts, name):
    data, expected = load_dataset(None, layouts[name]), SIZES["n_train_ids"]
    assert data.name == {"pytorch": "folder"}.get(name, name)
    assert load_dataset(data.name, layouts[name]).train.n == data.train.n
    assert data.n_ids == expected and data.train.n == expected * SIZES["images_per_id"]
    assert np.bincount(relabel(data.train.ids)).min() == 4
    if name == "folder":
        assert data.query.n == data.gallery.n == 0 and (data.train.cams == -1).all()
    else:
        assert len(data.query.people) == SIZES["n_test_ids"] and (data.train.cams > 0).all()
        assert set(data.query.people) <= set(data.gallery.people)
    assert load_images(data.train, 32, 16).shape == (32, 3, 32, 16)


@pytest.mark.parametrize("name", ["pytorch", "csv"])
def test_the_same_photos_with_the_same_labels(layouts, name):
    a, b = load_dataset(None, layouts["market"]), load_dataset(None, layouts[name])
    for split in ("train", "query", "gallery", "multi_query"):
        s, t = getattr(a, split), getattr(b, split)
        if s is None:
            assert t is None
            continue
        labels, others = ({p.name: (i, c) for p, i, c in zip(x.paths, x.ids, x.cams)} for x in (s, t))
        assert labels == others
    assert torch.equal(load_images(a.train, 32, 16), load_images(b.train, 32, 16)), "and in the same order"


def test_folders_hold_the_training_people(layouts):
    a, b = load_dataset(None, layouts["market"]).train, load_dataset(None, layouts["folder"]).train
    assert np.array_equal(relabel(a.ids), relabel(b.ids))
    assert torch.equal(load_images(a, 32, 16), load_images(b, 32, 16))


@pytest.mark.parametrize("name", NAMES)
def test_the_check_passes(layouts, name, capsys):
    assert data_cli(["check", str(layouts[name])]) == 0
    assert "fit to train on" in capsys.readouterr().out.splitlines()[-1]


def test_the_place_around_the_tree_will_do(layouts):
    assert load_dataset(None, layouts["pytorch"].parent).root == layouts["pytorch"]


def test_the_second_release_of_msmt17(layouts, tmp_path):
    root = tmp_path / "MSMT17_V2"
    shutil.copytree(layouts["msmt17"], root)
    for f in ("train", "test"): (root / f).rename(root / f"mask_{f}_v2")
    (root / "factors.csv").unlink()   # of the renderer: its paths are those of the first release
    a, b = load_dataset(None, layouts["msmt17"]), load_dataset("msmt17", root)
    assert [s.ids.tolist() for s in a.splits] == [s.ids.tolist() for s in b.splits]
    assert check_dataset(root, own=True).fit


def test_labeled_boxes(layouts, tmp_path):
    for boxes in ("detected", "labeled"): shutil.copytree(layouts["cuhk03"], tmp_path / boxes)
    data = load_dataset("cuhk03-labeled", tmp_path)
    assert (data.name, data.root) == ("cuhk03-labeled", tmp_path / "labeled")
    assert check_dataset(tmp_path, "cuhk03-labeled").fit


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_can_be_trained_on(layouts, name):
    sampler = TripletSampler(relabel(load_dataset(None, layouts[name]).train.ids), batch=4, seed=0, distinct=True)
    for _ in range(2 * sampler.steps):
        t = next(sampler)
        assert (sampler.labels[t.i] != sampler.labels[t.j]).all() and (t.i != t.t_i).all()


@pytest.mark.parametrize("name", NAMES)
def test_people_who_are_known_are_found(layouts, name):
    """With features that name the person rank 1 is 1 in every layout; without cameras by the protocol that needs none,
    never 0."""
    data = load_dataset(None, layouts[name])
    q, g = (data.query, data.gallery) if data.query.n else holdout(data, 3)[6:8]
    def known(s):
        f = torch.eye(200)[torch.from_numpy(s.ids.clip(-1))]
        return Embeddings(f, f, torch.from_numpy(s.ids), torch.from_numpy(s.cams))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r = rank_metrics(known(q), known(g))
    assert r.rank1 == r.mAP == r.mAP_standard == 1
    assert r.protocol == ("no cameras" if name == "folder" else "cross-camera")
    assert any("no camera labels" in str(w.message) for w in caught) == (name == "folder")
