"""Photos in, pictures out: swaps, grids, walks, sets that survive any interruption, and what `dgnet_generate` says to
mistakes."""

import configparser
import csv
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import dgnet
import dgnet.generated_set as G
from dgnet.check import check_dataset
from dgnet.config import make_config
from dgnet.core import denormalise, from_uint8, to_uint8
from dgnet.datasets import load_dataset, parse_name
from dgnet.generate import (
    ImageGenerator, image_sheet, interpolate, load_generator, photo_size, provenance_comment, swap_grid, swap_pairs,
    to_pil,
)
from dgnet.generated_set import generate_cli, generate_set
from dgnet.set_plan import draw_pairs, open_source
from dgnet.model import DGNet
from dgnet.synthetic import write_domain

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("DGNET_DEVICE", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "The file of a small network, untrained: every rule holds for it too."
    torch.manual_seed(0)
    net = DGNet(make_config("smoke"), 8).eval()
    return net.save(tmp_path_factory.mktemp("model ö") / "model.safetensors", iterations=10)


@pytest.fixture(scope="module")
def generator(model):
    return load_generator(model, "cpu")


def photo(path: Path, seed: int = 0, size=(20, 40), mode="RGB") -> Path:
    "A photo with colours of its own."
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(rng.integers(0, 256, (4, 2, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    image.convert(mode).save(path)
    return path


@pytest.fixture
def flat(tmp_path):
    "Ten photos of four people by two cameras, side by side, and a file that is none."
    folder = tmp_path / "Fotos ü 写真"
    for k, (p, c) in enumerate([(2, 1), (2, 2), (2, 1), (7, 1), (7, 2), (7, 2), (9, 1), (9, 2), (12, 2), (12, 1)]):
        photo(folder / f"{p:04d}_c{c}s1_{k:06d}_00.png", k)
    (folder / "Thumbs.db").touch()
    return folder


@pytest.fixture
def two(tmp_path):
    return photo(tmp_path / "a b.jpg", 1), photo(tmp_path / "ß.png", 2)


def state(root: Path) -> dict:
    return {p.relative_to(root).as_posix(): (p.read_bytes() if p.is_file() else None, p.stat().st_mode)
            for p in sorted(root.rglob("*"))}


def contents(root: Path) -> dict:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def cli(*args) -> int: return generate_cli([str(a) for a in args])


def close(a, b) -> bool: return (a.int() - b.int()).abs().max() <= 1

# --- pixels and codes -----------------------------------------------------------------------------------------------


def test_a_swap_is_what_the_network_generates(generator, two):
    x = generator.load_photos(list(two))
    x_i, x_j = from_uint8(x[:1]), from_uint8(x[1:])
    assert torch.equal(swap_pairs(generator, x[:1], x[1:]), to_uint8(denormalise(generator.model.generate(x_i, x_j))))
    assert generator.swap(*two).tobytes() == to_pil(swap_pairs(generator, x[:1], x[1:])[0]).tobytes()
    back = generator.swap(*two[::-1])
    assert generator.swap(*two).tobytes() != back.tobytes(), "appearance and structure are not the same thing"


def test_a_swap_with_oneself_is_the_self_reconstruction(generator, two):
    x = from_uint8(generator.load_photos([two[0]]))
    net = generator.model
    x_00 = to_uint8(denormalise(net.G(net.encode_appearance(x), net.encode_structure(x))))[0]
    assert generator.swap(two[0], two[0]).tobytes() == to_pil(x_00).tobytes()
    assert x_00.float().std() > 5, "a picture, not a grey card"


def test_the_same_call_gives_the_same_picture_whatever_mode_the_network_was_left_in(generator, two):
    first = generator.swap(*two).tobytes()
    generator.model.train()
    try:
        assert generator.swap(*two).tobytes() == first and generator.model.training, "its mode is its owner's"
    finally:
        generator.model.eval()


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batches_bound_the_memory_and_change_nothing_that_can_be_seen(generator, batch):
    x = torch.randint(0, 256, (7, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = []
    hook = generator.model.G.register_forward_hook(lambda m, a, out: shown.append(len(out)))
    try:
        small = generator._replace(batch=batch)
        assert type(small) is ImageGenerator
        assert close(swap_pairs(small, x, x.flip(0)), swap_pairs(generator, x, x.flip(0)))
        shown.clear()
        grid = swap_grid(small, x[:2], x)
        assert max(shown) == batch and sum(shown) == 2 * 7 and close(grid, swap_grid(generator, x[:2], x))
    finally:
        hook.remove()


def test_a_grid_has_appearance_down_and_structure_across(generator):
    x = torch.randint(0, 256, (5, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    grid = swap_grid(generator, x[:2], x[2:])
    assert grid.shape == (2, 3, 3, 64, 32)
    for m, n in np.ndindex(2, 3):
        assert close(grid[m, n], swap_pairs(generator, x[m:m + 1], x[2 + n:3 + n])[0])
    image = np.asarray(generator.grid(list(x[:2]), list(x[2:]), (64, 32)))   # 4 white pixels around each
    def cell(r, c):
        return torch.from_numpy(image[4 + r * 68:68 + r * 68, 4 + c * 36:36 + c * 36].copy()).permute(2, 0, 1)
    assert torch.equal(cell(0, 2), x[3]) and torch.equal(cell(2, 0), x[1]) and close(cell(2, 3), grid[1, 2])


def test_a_walk_goes_from_one_picture_to_the_other(generator):
    x = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    for of, still in (("appearance", None), ("structure", None), ("appearance", x[2]), ("structure", x[2])):
        other = x[:1] if still is None else x[2:]
        path = interpolate(generator, x[0], x[1], of, 5, still)
        both = (x[:2], other.expand(2, -1, -1, -1))
        ends = swap_pairs(generator, *both if of == "appearance" else both[::-1])
        assert close(path[[0, -1]], ends) and path.shape == (5, 3, 64, 32)
    whole, parts = (interpolate(p, x[0], x[1], steps=20) for p in (generator, generator._replace(batch=3)))
    assert close(whole[7], parts[7])
    with pytest.raises(ValueError, match="appearance.*structure"):
        interpolate(generator, x[0], x[1], "clothes")
    with pytest.raises(ValueError, match="two ends"):
        interpolate(generator, x[0], x[1], steps=1)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "CMYK", "P", "1", "I;16"])
def test_photos_of_any_mode_and_any_kind(generator, tmp_path, mode):
    image = (Image.fromarray((np.arange(60 * 30).reshape(60, 30) * 36).astype(np.uint16)) if mode == "I;16"
             else Image.effect_noise((30, 60), 60).convert(mode))
    image.save(path := tmp_path / "photo.tiff")
    by_file, by_image = (generator.load_photos([kind]) for kind in (path, image))
    assert torch.equal(by_file, by_image), "a PIL image and its file are the same photo"
    assert generator.swap(path, image).size == (32, 64)


def test_a_tensor_is_a_photo(generator, two):
    array = torch.from_numpy(np.array(Image.open(two[1]))).permute(2, 0, 1)
    assert torch.equal(generator.load_photos([array]), generator.load_photos([str(two[1])]))
    assert photo_size(array) == (40, 20)


@pytest.mark.parametrize("note, size", [(1, (40, 20)), (3, (40, 20)), (6, (20, 40)), (8, (20, 40))])
def test_the_size_of_a_photo_that_a_camera_has_turned(tmp_path, note, size):
    exif = Image.Exif()
    exif[274] = note
    Image.new("RGB", (20, 40)).save(path := tmp_path / "turned.jpg", exif=exif)
    assert photo_size(path) == size
    with Image.open(path) as image:
        assert photo_size(image) == size


def test_a_photo_is_turned_upright(generator, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), np.uint8))
    upright = noise.resize((40, 80), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(path := tmp_path / "camera.png", exif=exif)
    assert torch.equal(generator.load_photos([path]), generator.load_photos([upright])) and photo_size(path) == (80, 40)


def test_a_picture_is_of_the_size_that_is_asked_for(generator, two):
    assert generator.swap(*two).size == (32, 64) and generator.swap(*two, size=photo_size(two[1])).size == (20, 40)
    x = generator.load_photos([two[0]])[0]
    assert to_pil(x, (128, 64)).tobytes() == to_pil(x).resize((64, 128), Image.Resampling.BICUBIC).tobytes()


def test_a_sheet_enlarges_by_whole_numbers():
    one = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 20, 3), np.uint8))
    assert image_sheet([one]).size == (60 + 8, 150 + 8) and image_sheet([one, one], least=0).size == (52, 58)
    assert image_sheet([one, one, "words"], ["A", "B", "C"], n_cols=2, least=0).size == (52, 4 + 2 * (54 + 16))
    assert (np.asarray(image_sheet([one]))[4:-4:3, 4:-4:3] == np.asarray(one)).all()

# --- models ---------------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_is_refused_and_not_run(tmp_path, two, capsys, form):
    file, mark = tmp_path / "gen.pt", tmp_path / "was run"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save({"a": Bomb(mark)}, file, _use_new_zipfile_serialization=form == "zip")
    assert cli("swap", *two, "--model", file, "--out", tmp_path / "x.png") == 2
    phrase = capsys.readouterr().err
    assert "gen.pt: a pickle" in phrase and "load_official" in phrase and phrase.count("\n") == 1
    assert not mark.exists() and not (tmp_path / "x.png").exists()
    pickle.loads(pickle.dumps(Bomb(mark)))   # such a pickle does run when it is opened
    assert mark.exists()


def test_every_other_wrong_model(tmp_path, model, two, capsys):
    whole = model.read_bytes()
    def forged(name, facts):
        save_file({"w": torch.ones(2)}, tmp_path / name, {"dgnet": json.dumps(facts)})
        return tmp_path / name
    files = {"cut.safetensors": whole[:len(whole) // 2], "header.safetensors": whole[:6], "empty.safetensors": b"",
             "noise.safetensors": bytes(range(256)) * 40, "bit.safetensors": whole[:-4] + bytes([whole[-4] ^ 64])
             + whole[-3:]}
    for name, content in files.items(): (tmp_path / name).write_bytes(content)
    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors")
    for file, phrase in [
        (tmp_path / "none.safetensors", "no such file. Train"), (tmp_path, "a folder, not a model"),
        (tmp_path / "cut.safetensors", "cut short"), (tmp_path / "header.safetensors", "cut short"),
        (tmp_path / "empty.safetensors", "cut short"), (tmp_path / "noise.safetensors", "not a readable"),
        (tmp_path / "bit.safetensors", "damaged"), (tmp_path / "other.safetensors", "not a DGNet model"),
        (two[0], "not a readable safetensors"), (forged("list.safetensors", [1]), "where an object belongs"),
        (forged("bare.safetensors", {"format": "dgnet-model"}), "its header lacks"),
    ]:
        assert cli("swap", *two, "--model", file, "--out", tmp_path / "x.png") == 2
        err = capsys.readouterr().err
        assert phrase in err and file.name in err and err.startswith("dgnet_generate: ") and err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_the_device_that_is_asked_for(model, monkeypatch, two, tmp_path, capsys):
    monkeypatch.setenv("DGNET_DEVICE", "toaster")
    assert cli("swap", *two, "--model", model, "--out", tmp_path / "x.png") == 2
    assert "DGNET_DEVICE=toaster: no such device" in capsys.readouterr().err
    with pytest.raises(ValueError, match="batch=0"):
        load_generator(model, "cpu", 0)


def test_a_full_gpu_is_said_in_words(model, monkeypatch, two, tmp_path, capsys):
    def full(*a): raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(G, "swap_pairs", full)
    assert cli("swap", *two, "--model", model, "--out", tmp_path / "x.png") == 2
    assert "DGNET_DEVICE=cpu" in capsys.readouterr().err

# --- pairs ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=14), st.integers(0, 99), st.floats(0, 1))
def test_pairs_are_of_different_people_and_dealt_out_evenly(ids, seed, share):
    ids = np.array(ids)
    room = (ids[:, None] != ids[None]).sum(1)
    if not room.any(): return
    n = max(1, round(share * room.sum()))
    i, j = (k.numpy() for k in draw_pairs(ids, n, seed))
    assert len(i) == n == len(set(zip(i, j))) and (ids[i] != ids[j]).all() and sorted(zip(i, j)) == list(zip(i, j))
    lent = np.bincount(i, minlength=len(ids))
    level = lent.max()
    assert all(lends >= level - 1 or lends == r for lends, r in zip(lent, room)), "fewer only where there are no more"
    assert [k.tolist() for k in draw_pairs(ids, n, seed)] == [i.tolist(), j.tolist()]


def test_pairs_that_do_not_exist():
    ids = np.array([1, 1, 2])
    assert len(draw_pairs(ids, 4).i) == 4
    assert [p.tolist() for p in draw_pairs(ids, None)] == [[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3]
    assert draw_pairs(np.arange(40), 100, 1).j.tolist() != draw_pairs(np.arange(40), 100, 2).j.tolist()
    with pytest.raises(ValueError, match="5 pairs of different people asked for, 3 photos of 2 people have 4"):
        draw_pairs(ids, 5)
    with pytest.raises(ValueError, match="3 photos of 1 people have 0.*or for all"):
        draw_pairs(np.array([4, 4, 4]), 1)
    with pytest.raises(ValueError, match="144,000,000 pictures. Say how many: --pairs 120000"):
        draw_pairs(np.arange(12_000), None)
    with pytest.raises(ValueError, match="at least one"):
        draw_pairs(ids, 0)

# --- sources --------------------------------------------------------------------------------------------------------


def test_sources_of_every_kind(flat, tmp_path):
    s = open_source(flat)
    assert (s.layout, s.people, s.split.n, s.split.people.tolist()) == ("flat", "file names", 10, [2, 7, 9, 12])
    for k in range(3): photo(tmp_path / "holiday" / f"IMG {k}.jpg", k)
    mine = open_source(tmp_path / "holiday")
    assert (mine.people, mine.split.ids.tolist(), mine.split.cams.tolist()) == ("one per photo", [1, 2, 3], [-1] * 3)
    for name in ("Ada Łukasz/1.jpg", "Ada Łukasz/2.jpg", "山田/3.jpg"):
        photo(tmp_path / "people" / name, len(name))
    folders = open_source(tmp_path / "people")
    assert (folders.layout, folders.people, folders.split.ids.tolist()) == ("folder", "folders", [1, 1, 2])
    world = write_domain("msmt17", tmp_path, n_train_ids=3, n_test_ids=2, n_val_ids=0, images_per_id=2, height=32,
                         width=16)
    rendered = open_source(world)
    assert (rendered.layout, rendered.card.title) == ("msmt17", "a rendered world")
    assert rendered.split.n == load_dataset(None, world).train.n
    assert len({x.sha256 for x in (s, mine, folders, rendered)}) == 4


def test_photos_that_a_csv_lists_and_photos_of_ones_own_names(generator, flat, tmp_path, model):
    listed = tmp_path / "lists" / "mine.csv"
    listed.parent.mkdir()
    listed.write_text("path,id,camera\n" + "".join(f"../{flat.name}/{p.name},{'Ada' if k < 5 else 'Łukasz'},{k % 3}\n"
                                                   for k, p in enumerate(sorted(flat.glob("*.png")))), encoding="utf-8")
    s = open_source(listed)
    assert (s.layout, s.split.n, s.split.people.tolist()) == ("csv", 10, [1, 2])
    assert cli("set", listed, "--model", model, "--out", tmp_path / "lists" / "out", "--pairs",
               "8") == 0, "a list may lie beside what is made"
    rows = list(csv.DictReader((tmp_path / "lists" / "out" / "manifest.csv").open(encoding="utf-8")))
    assert len(rows) == 8
    assert all((listed.parent / r["appearance"]).samefile(flat / Path(r["appearance"]).name) for r in rows)
    for k, p in enumerate(sorted(flat.glob("*.png"))):
        p.rename(flat / f"shot {k} of 1{k % 4} by cam{k % 2}.png")
    assert open_source(flat).people == "one per photo"
    mine = open_source(flat, pattern=r"of (?P<id>\d+) by cam(?P<cam>\d+)")
    assert (mine.people, mine.split.people.tolist()) == ("file names", [10, 11, 12, 13])
    assert sorted(set(mine.split.cams)) == [0, 1]
    with pytest.raises(ValueError, match="not a regular expression"):
        open_source(flat, pattern="(")


def test_photos_beside_folders_are_left_out_with_a_note(tmp_path, model, capsys):
    for k, name in enumerate(("a.jpg", "ann/1.jpg", "bob/1.jpg")): photo(tmp_path / "in" / name, k)
    assert cli("set", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--pairs", "2") == 0
    out = capsys.readouterr()
    assert re.fullmatch(r"note: .*in: 1 photos beside the folders that are used \(.*\). dgnet_data check names all\n",
                        out.err)
    assert "2 pictures of 2 people" in out.out


def test_nobody_lends_nothing(flat):
    for name in ("0000_c1s1_000001_00.png", "-1_c1s1_000002_00.png"): photo(flat / name)
    assert open_source(flat).split.n == 10
    for p in flat.glob("00[01]*.png"): p.unlink()
    with pytest.raises(ValueError, match="which mean nobody"):
        open_source(flat)


def test_a_source_is_known_by_its_bytes(flat, tmp_path):
    first = open_source(flat).sha256
    assert open_source(shutil.copytree(flat, tmp_path / "elsewhere")).sha256 == first, "wherever it lies"
    one = next(flat.glob("*.png"))
    content = one.read_bytes()
    photo(one, 99)
    changed = open_source(flat).sha256
    one.write_bytes(content)
    one.rename(one.with_name("0012_c1s1_000077_00.png"))
    assert len({first, changed, open_source(flat).sha256}) == 3


def test_broken_photos_are_named_or_skipped(flat, model, tmp_path, capsys):
    whole = open_source(flat).sha256
    (flat / "0002_c1s1_000100_00.png").write_bytes(next(flat.glob("*.png")).read_bytes()[:60])
    (flat / "0002_c1s1_000101_00.jpg").touch()
    before = state(tmp_path)
    ask = ("set", flat, "--model", model, "--out", tmp_path / "out", "--pairs", "20")
    assert cli(*ask) == 2
    err = capsys.readouterr().err
    assert "2 of 12 photos cannot be read: 0002_c1s1_000100_00.png, 0002_c1s1_000101_00.jpg. Replace" in err
    assert "--skip-broken" in err and state(tmp_path) == before
    assert cli(*ask, "--skip-broken") == 0
    out = capsys.readouterr()
    assert "note: 2 photos cannot be read and are left out: 0002_c1s1_000100_00.png" in out.err
    assert open_source(flat, skip_broken=True).sha256 == whole
    left_out = json.loads((tmp_path / "out" / "generated.json").read_text())["left out"]
    assert left_out == ["0002_c1s1_000100_00.png", "0002_c1s1_000101_00.jpg"]


def test_a_source_without_a_readable_photo(tmp_path):
    for k in range(2): (tmp_path / f"{k}.jpg").write_text("no photo")
    with pytest.raises(ValueError, match="none of its photos can be read"):
        open_source(tmp_path, skip_broken=True)

# --- sets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["png", "jpg"])
def test_a_set_is_complete_and_reads_back(generator, flat, tmp_path, images):
    source = open_source(flat)
    result = generate_set(generator, source, tmp_path / "out", 40, 3, images)
    assert (result.pictures, result.made) == (40, 40)
    rows = list(csv.DictReader((result.folder / "manifest.csv").open(encoding="utf-8")))
    files = {p.relative_to(result.folder).as_posix() for p in result.folder.rglob(f"*.{images}")}
    assert files == {r["file"] for r in rows} and len(rows) == 40
    beside = {p.name for p in result.folder.iterdir() if p.is_file()}
    assert beside == {"README.md", "manifest.csv", "generated.json"}
    assert Counter(r["appearance"] for r in rows) == {p.name: 4 for p in source.split.paths}
    for r in rows:
        a, s = parse_name(r["appearance"]), parse_name(r["structure"])
        columns = ("appearance_id", "structure_id", "appearance_cam", "structure_cam")
        assert (a.id, s.id, a.cam, s.cam) == tuple(int(r[k]) for k in columns) and a.id != s.id
        assert r["file"].startswith(f"{a.id:04d}/{a.id:04d}_c{s.cam}_")
        photos = generator.load_photos([flat / r["appearance"], flat / r["structure"]])
        wanted = swap_pairs(generator, *photos.split(1))[0]
        shown = torch.from_numpy(np.array(Image.open(result.folder / r["file"]))).permute(2, 0, 1)
        assert close(shown, wanted) if images == "png" else (shown.float() - wanted.float()).abs().mean() < 6
    back = load_dataset(None, result.folder)
    assert back.name == "folder" and back.train.n == 40 and back.n_ids == 4
    assert [parse_name(p.name).cam for p in back.train.paths] == back.train.cams.tolist()
    report = check_dataset(result.folder)
    assert report.fit and not report.kinds("look")


def test_what_a_set_says_of_itself(generator, model, flat, tmp_path, capsys):
    assert cli("set", flat, "--model", model, "--out", tmp_path / "out", "--pairs", "all") == 0
    phrase = capsys.readouterr()
    assert re.search(r"out: 100 pictures of 4 people; 100 made now in [\d.]+ s, [\d.]+ per second on cpu\n$",
                     phrase.out) and not phrase.err
    facts = json.loads((tmp_path / "out" / "generated.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    same = facts["same"]
    assert same["model"] == generator.sha256 and same["source"] == open_source(flat).sha256
    assert same["seed"] == 0 and same["dgnet"] == dgnet.__version__
    assert (facts["pictures"], facts["photos"], facts["people"], facts["finished"]) == (100, 10, 4, True)
    assert (facts["command"] == "dgnet_generate set 'Fotos ü 写真' --model model.safetensors --pairs all --seed 0 "
            "--format png --size model --out out" and facts["command"] in card)
    for words in (generator.sha256, facts["same"]["source"], "100 pictures of 4 people", "not taken by a camera",
                  "## Terms", "terms of those photos hold", "## Responsible use",
                  "people who do and who may be recognised", "zheng2019joint", "every ordered pair"):
        assert words in card
    for name, content in contents(tmp_path / "out").items():
        assert str(tmp_path).encode() not in content, f"{name} shows a path of this machine"
    some = next((tmp_path / "out").rglob("*.png"))
    assert Image.open(some).text["Comment"] == provenance_comment(generator)
    assert generator.sha256[:16] in provenance_comment(generator)


def test_the_card_carries_the_terms_of_its_photos(generator, tmp_path):
    world = write_domain("duke", tmp_path, n_train_ids=3, n_test_ids=2, n_val_ids=0, images_per_id=2, height=32,
                         width=16)
    generate_set(generator, open_source(world), tmp_path / "one", 4)
    assert "photos that they are made of were rendered" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    for odd in ("factors.csv", "synthetic.json"): (world / odd).unlink()   # without them it is taken for the real set
    with pytest.warns(UserWarning, match="withdrawn"):
        source = open_source(world)
    generate_set(generator, source, tmp_path / "two", 4)
    assert "WITHDRAWN by its owners" in (tmp_path / "two" / "README.md").read_text(encoding="utf-8")


def test_sizes_of_a_set(generator, flat, tmp_path):
    photo(flat / "0002_c1s1_000500_00.png", 5, size=(24, 60))
    source = open_source(flat)
    for name, size, wanted in (("model", None, {(32, 64)}), ("given", (48, 16), {(16, 48)}),
                               ("photo", "photo", {(20, 40), (24, 60)})):
        result = generate_set(generator, source, tmp_path / name, None, size=size)
        assert {Image.open(p).size for p in result.folder.rglob("*.png")} == wanted


def test_a_camera_that_nobody_noted_is_not_made_up(generator, tmp_path):
    for k in range(3): photo(tmp_path / "own" / f"{k}.jpg", k)
    result = generate_set(generator, open_source(tmp_path / "own"), tmp_path / "out", None)
    assert (load_dataset(None, result.folder).train.cams == -1).all()
    assert (result.folder / "0001" / "0001_a00000_s00002.png").is_file()

# --- nothing lost ---------------------------------------------------------------------------------------------------


def test_a_set_goes_on_wherever_it_was_stopped(generator, flat, tmp_path):
    source = open_source(flat)
    whole = contents(generate_set(generator, source, tmp_path / "whole", 50).folder)
    rng = np.random.default_rng(0)
    for k in range(6):
        shutil.copytree(tmp_path / "whole", out := tmp_path / f"part {k}")
        files = sorted(whole) if k else [f for f in whole if f != "generated.json"]
        lost = [f for f in files if f != "generated.json" and rng.random() < (k + 1) / 6]
        for f in lost: (out / f).unlink()
        for f in lost[:3]: (out / f).with_name(f".{Path(f).name}.tmp").write_bytes(b"half a pict")
        result = generate_set(generator, source, out, 50)
        assert contents(out) == whole and result.made == sum(f.endswith(".png") for f in lost)


def test_ctrl_c_says_how_to_go_on(model, generator, flat, tmp_path, monkeypatch, capsys):
    ask = ("set", flat, "--model", model, "--out", tmp_path / "out", "--pairs", "40")
    save, created = G.save_image, []
    def stop(*args):
        save(*args)
        created.append(1)
        if len(created) == 20: raise KeyboardInterrupt
    monkeypatch.setattr(G, "save_image", stop)
    assert cli(*ask) == 130 and "the same command goes on from here" in capsys.readouterr().err
    assert not json.loads((tmp_path / "out" / "generated.json").read_text())["finished"]
    assert not (tmp_path / "out" / "manifest.csv").exists()
    monkeypatch.setattr(G, "save_image", save)
    assert cli(*ask) == 0
    assert 0 < int(re.search(r"40 pictures of 4 people; (\d+) made now", capsys.readouterr().out)[1]) < 40
    assert cli(*ask[:4], "--out", tmp_path / "other" , "--pairs", "40") == 0
    one, other = ({k: v for k, v in contents(tmp_path / name).items() if k.endswith(("png", "csv"))}
                  for name in ("out", "other"))
    assert one == other

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from dgnet.generated_set import generate_cli
torn, whole, kills, ask = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
def there(): return sum(len(files) for _, _, files in os.walk(torn))
rng, landed = random.Random(0), 0
for k in range(kills):
    goal, began = there() + rng.randrange(0, 14), time.monotonic()
    pid = os.fork()
    if pid == 0: os._exit(generate_cli([*ask, str(torn)]))
    while there() < goal and time.monotonic() - began < 60 and not os.waitpid(pid, os.WNOHANG)[0]: time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.02))
    try: os.kill(pid, signal.SIGKILL); landed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    except (ProcessLookupError, ChildProcessError): pass
print("killed", landed, "times, files:", there(), flush=True)
sys.exit(generate_cli([*ask, str(torn)]) or generate_cli([*ask, whole]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_it_ends_with_the_same_files(model, flat, tmp_path):
    torn, whole = (tmp_path / n / "set" for n in ("torn", "whole"))
    for p in (torn, whole): p.parent.mkdir()
    ask = ["set", flat, "--model", model, "--pairs", "70", "--out"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DGNET_DEVICE": "cpu"}
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLS, torn, whole, "8", *ask], capture_output=True,
                            text=True, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    assert int(re.search(r"killed (\d+) times",
                         result.stdout)[1]) >= 2, f"{result.stdout}: a machine this fast ends the set before the kills"
    assert contents(torn) == contents(whole) and len(contents(whole)) == 73


def test_another_command_is_refused_and_nothing_is_mixed(generator, flat, tmp_path):
    source = open_source(flat)
    generate_set(generator, source, tmp_path / "out", 30)
    torch.manual_seed(1)
    other = load_generator(DGNet(make_config("smoke"), 8).save(tmp_path / "other.safetensors"), "cpu")
    photo(flat / "0002_c2s1_000900_00.png", 50)
    before = state(tmp_path / "out")
    for phrase, call in [
        ("seed 0, now 1", (generator, source, 30, 1)), ("pairs 30, now 31", (generator, source, 31)),
        ("pairs 30, now all", (generator, source, None)), ("images png, now jpg", (generator, source, 30, 0, "jpg")),
        (r"size \[64, 32\], now photo", (generator, source, 30, 0, "png", "photo")),
        ("model .*, now ", (other, source, 30)), ("source .*, now ", (generator, open_source(flat), 30)),
        ("batch 16, now 8", (generator._replace(batch=8), source, 30)),
    ]:
        with pytest.raises(ValueError, match=f"out: holds another set .{phrase}.*Give a new folder"):
            generate_set(call[0], call[1], tmp_path / "out", *call[2:])
    assert state(tmp_path / "out") == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"foreign: holds other things \(thesis.tex\)"):
        generate_set(generator, source, tmp_path / "foreign", 30)
    (tmp_path / "out" / "generated.json").write_text("{")
    with pytest.raises(ValueError, match="generated.json: cannot be read"):
        generate_set(generator, source, tmp_path / "out", 30)
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_write_one_set(generator, flat, tmp_path):
    from filelock import FileLock
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        with pytest.raises(ValueError, match="another command is at work there"):
            generate_set(generator, open_source(flat), tmp_path / "out", 5)
    assert not list((tmp_path / "out").rglob("*.png"))
    assert generate_set(generator, open_source(flat), tmp_path / "out", 5).made == 5


def test_a_full_disk_leaves_what_was_there(generator, flat, tmp_path, monkeypatch, capsys, model):
    ask = ("set", flat, "--model", model, "--out", tmp_path / "out", "--pairs", "40")
    save, written = Image.Image.save, []

    def full(image, path, *args, **options):
        written.append(path)
        if len(written) < 20: return save(image, path, *args, **options)
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert cli(*ask) == 2
    message = capsys.readouterr().err
    assert re.search(r"dgnet_generate: .*\.png: cannot be written \(No space left on device\)\. Make room", message)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    monkeypatch.setattr(Image.Image, "save", save)
    assert cli(*ask) == 0 and len(list((tmp_path / "out").rglob("*.png"))) == 40


def test_a_finished_set_is_left_as_it_is(model, flat, tmp_path, capsys):
    ask = ("set", flat, "--model", model, "--out", tmp_path / "out", "--pairs", "9")
    assert cli(*ask) == 0
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    capsys.readouterr()
    assert cli(*ask) == 0 and "all there already, nothing was made" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_read_only_photos(model, flat, tmp_path):
    for p in (*flat.iterdir(), flat): p.chmod(0o555)
    try:
        before = state(flat)
        assert cli("set", flat, "--model", model, "--out", tmp_path / "out", "--pairs", "5") == 0
        assert state(flat) == before
    finally:
        for p in (flat, *flat.iterdir()): p.chmod(0o755)

# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_is_installed():
    cfg = configparser.ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    assert "dgnet_generate=dgnet.commands:generate_command" in cfg["DEFAULT"]["console_scripts"].split()


def test_swaps(model, generator, two, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli("--model", model, *two) == 0 and cli("swap", *two, "--model", model, "--out", "b.png") == 0
    assert re.match(r"swap.png: 64 × 32 pixels, [\d.]+ s on cpu\n", capsys.readouterr().out)
    assert Path("swap.png").read_bytes() == Path("b.png").read_bytes()
    assert Image.open("b.png").tobytes() == generator.swap(*two).tobytes()
    assert cli("swap", *two, "--model", model, "--out", "c.jpg", "--size", "photo") == 0
    assert Image.open("c.jpg").size == (20, 40) and b"not a photograph" in Path("c.jpg").read_bytes()
    assert cli("swap", *two, "--model", model, "--out", "d.png", "--size", "100x60", "--both") == 0
    assert Image.open("d.png").size == (4 * 64 + 4, 100 + 4 + 16 + 4)


def test_grids(model, flat, two, tmp_path, capsys):
    assert cli("grid", "--appearance", *two, "--structure", flat, "--model", model, "--out", tmp_path / "g.png",
               "--size", "40x20") == 0
    assert "2 appearances × 10 structures" in capsys.readouterr().out
    assert Image.open(tmp_path / "g.png").size == (11 * 24 + 4, 3 * 44 + 4)


def test_interpolations(model, two, flat, tmp_path):
    third = next(flat.glob("*.png"))
    assert cli("interpolate", *two, "--model", model, "--out", tmp_path / "s.png", "--steps", "3") == 0
    assert Image.open(tmp_path / "s.png").size == (3 * 68 + 4, 128 + 4 + 16 + 4)
    assert cli("interpolate", *two, "--of", "structure", "--still", third, "--model", model, "--out",
               tmp_path / "s.gif", "--steps", "6", "--fps", "4", "--size", "photo") == 0
    with Image.open(tmp_path / "s.gif") as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"], film.size) == (10, 250, 0, (20, 40))
        assert b"not a photograph" in film.info["comment"]


def test_rendered_photos_to_try_it_with(model, tmp_path, capsys):
    assert cli("photos", "--out", tmp_path / "people", "--people", 3) == 0
    photos = sorted((tmp_path / "people").glob("*.jpg"))
    assert len(photos) == 6 and {Image.open(p).size for p in photos} == {(64, 128)}
    assert open_source(tmp_path / "people").people == "file names"
    assert photos[0].name in capsys.readouterr().out
    assert cli("photos", "--out", tmp_path / "people") == 2 and "holds something already" in capsys.readouterr().err
    assert cli("set", tmp_path / "people", "--model", model, "--out", tmp_path / "set", "--pairs", "6") == 0
    card = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert "Nobody in them exists: the photos that they are made of were rendered" in card


def test_nothing_is_overwritten_without_force_and_an_input_never(model, two, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert cli("swap", *two, "--model", model, "--out", out) == 0
    out.write_bytes(b"precious")
    assert cli("swap", *two, "--model", model, "--out", out) == 2
    assert out.read_bytes() == b"precious"
    assert "out.png: is there already" in capsys.readouterr().err
    assert cli("swap", *two, "--model", model, "--out", out, "--force") == 0 and out.read_bytes() != b"precious"
    (tmp_path / "link.png").symlink_to(two[1])
    os.link(two[0], tmp_path / "hard.png")
    before = state(tmp_path)
    capsys.readouterr()
    for target in (*two, tmp_path / "link.png", tmp_path / "hard.png"):
        assert cli("swap", *two, "--model", model, "--out", target, "--force") == 2
        assert "stay as they are" in capsys.readouterr().err
    assert cli("grid", "--appearance", *two, "--structure", two[0], "--model", model, "--out", two[0], "--force") == 2
    assert cli("interpolate", *two, "--still", out, "--model", model, "--out", out, "--force") == 2
    assert state(tmp_path) == before


def test_progress_is_for_a_terminal(model, flat, tmp_path, monkeypatch, capsys):
    assert cli("set", flat, "--model", model, "--out", tmp_path / "a", "--pairs", "5") == 0
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli("set", flat, "--model", model, "--out", tmp_path / "b", "--pairs", "40") == 0
    assert "16 of 40 pictures" in capsys.readouterr().err


def test_a_terminal_that_cannot_show_a_name(model, two, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert cli("swap", *two, "--model", model, "--out", tmp_path / "ü.png") == 0
    out.flush()
    assert b"?.png" in out.buffer.getvalue()


def test_every_mistake_is_one_line_and_changes_nothing(model, flat, two, tmp_path, monkeypatch, capsys):
    a, b = two
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dgnet.model.WEIGHTS", tmp_path / "none")   # a package that came without models
    photo(tmp_path / "there.png", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / "void.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(a.read_bytes()[:300])
    (tmp_path / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    S, M = ("set", flat, "--model", model), ("--model", model)
    wrong = [
        (("swap", a, b), "no model. Give one with --model FILE"),
        (("swap", a, b, "--model", "none.safetensors"), "none.safetensors: no such file. Train"),
        (("swap", a, b, "--model", "empty"), "empty: a folder, not a model"),
        (("swap", a, "none.jpg", *M), "none.jpg: no such file. Check the name"),
        (("swap", "empty", b, *M), "empty: a folder, not a photo"), (("swap", a, "void.jpg", *M), "void.jpg"),
        (("swap", "text.jpg", b, *M), "text.jpg"), (("swap", a, "cut.jpg", *M), "cut.jpg"),
        (("swap", "noise.png", b, *M), "noise.png"),
        (("swap", a, b, *M, "--out", "there.png"),
         "there.png: is there already, and this command did not make it. Give another name, or say --force"),
        (("swap", a, b, *M, "--out", "none/x.png"), "there is no folder none"),
        (("swap", a, b, *M, "--out", "x.tiff"), "give a file that ends in .png"),
        (("swap", a, b, *M, "--out", "x"), "give a file that ends in .png"),
        (("swap", a, b, *M, "--out", "empty"), "give a file that ends in .png"),
        (("swap", a, b, *M, "--out", "x.gif"), "give a file that ends in .png"),
        (("swap", a, b, *M, "--out", model, "--force"), "give a file that ends in .png"),
        (("swap", a, b, *M, "--both", "--size", "photo"), "--size photo: all pictures on a sheet have one size"),
        (("grid", "--appearance", a, "--structure", b, *M, "--size", "photo"), "--size photo: all pictures"),
        (("grid", "--appearance", "empty", "--structure", b, *M), "--appearance empty: no photo in this folder"),
        (("grid", "--appearance", a, "--structure", "notes", *M), "--structure notes: no photo in this folder"),
        (("grid", "--appearance", a, "--structure", "none", *M), "none: no such file"),
        (("grid", "--appearance", *[flat] * 20, "--structure", *[flat] * 20, *M),
         "200 × 200 pictures: a grid holds at most 1,600"),
        (("interpolate", a, "none.jpg", *M), "none.jpg: no such file"),
        (("interpolate", a, b, "--still", "notes", *M), "notes: a folder, not a photo"),
        (("interpolate", a, b, *M, "--out", "x.mp4"), "ends in .png or .jpg or .jpeg or .gif"),
        (("set", "none", *M, "--out", "o", "--pairs", "3"), "none: no such folder"),
        (("set", a, *M, "--out", "o", "--pairs", "3"), "a b.jpg: a file, not a folder"),
        (("set", "empty", *M, "--out", "o", "--pairs", "3"), "empty: an empty folder"),
        (("set", "notes", *M, "--out", "o", "--pairs", "3"), "notes: no known dataset"),
        ((*S, "--out", a, "--pairs", "3"), "a b.jpg: a file, not a folder"),
        ((*S, "--out", "none/o", "--pairs", "3"), "there is no folder none"),
        ((*S, "--out", flat, "--pairs", "3"), "which stays as it is"),
        ((*S, "--out", flat / "o", "--pairs", "3"), "which stays as it is"),
        ((*S, "--out", tmp_path, "--pairs", "3"), "which stays as it is"),
        ((*S, "--out", "notes", "--pairs", "3"), "notes: holds other things (a.txt)"),
        ((*S, "--out", "o", "--pairs", "1000"),
         "1,000 pairs of different people asked for, 10 photos of 4 people have 74"),
        (("set", flat, "--out", "o", "--pairs", "3"), "no model"),
        (("photos", "--out", "notes"), "notes: holds something already"),
        (("photos", "--out", "none/o"), "there is no folder none"),
        (("photos", "--out", a), "a b.jpg: a file, not a folder"),
    ]
    before = state(tmp_path)
    for args, phrase in wrong:
        assert cli(*args) == 2, args
        out = capsys.readouterr()
        assert phrase in out.err and out.err.startswith("dgnet_generate: ")
        assert out.err.count("\n") == 1 and not out.out, (args, out.err)
    assert state(tmp_path) == before


@pytest.mark.parametrize("args, phrase", [
    ([], "required"), (["swap", "a.jpg"], "required: B"), (["a.jpg"], "required: B"),
    (["grid", "--appearance", "a.jpg"], "--structure"), (["grid", "--appearance"], "expected at least one argument"),
    (["set", "f", "--pairs", "3"], "--out"), (["set", "f", "--out", "o"], "--pairs"),
    (["set", "f", "--out", "o", "--pairs", "0"], "0: give a whole number from 1"),
    (["set", "f", "--out", "o", "--pairs", "-3"], "-3: give a whole number from 1"),
    (["set", "f", "--out", "o", "--pairs", "some"], "some: give a whole number"),
    (["set", "f", "--out", "o", "--pairs", "2.5"], "2.5: give a whole number"),
    (["set", "f", "--out", "o", "--pairs", "nan"], "nan: give a whole number"),
    (["set", "f", "--out", "o", "--pairs", "3", "--seed", "-1"], "-1: give a whole number from 0"),
    (["set", "f", "--out", "o", "--pairs", "3", "--format", "tiff"], "invalid choice: 'tiff'"),
    (["set", "f", "--out", "o", "--pairs", "3", "--size", "big"], "HEIGHTxWIDTH"),
    (["swap", "a", "b", "--size", "0x4"], "from 8 to 4096"),
    (["swap", "a", "b", "--size", "1e3x8"], "from 8 to 4096"),
    (["swap", "a", "b", "--size", "99999x64"], "from 8 to 4096"),
    (["interpolate", "a", "b", "--steps", "1"], "1: give a whole number from 2 to 240"),
    (["interpolate", "a", "b", "--steps", "9999"], "from 2 to 240"),
    (["interpolate", "a", "b", "--fps", "nan"], "nan: give a number from 0.1"),
    (["interpolate", "a", "b", "--fps", "0"], "0: give a number"),
    (["interpolate", "a", "b", "--of", "clothes"], "invalid choice: 'clothes'"),
    (["photos", "--out", "o", "--people", "1"], "from 2 to 200"),
    (["photos", "--out", "o", "--world", "mars"], "invalid choice: 'mars'"),
    (["swap", "a", "b", "--colour"], "unrecognized arguments: --colour"),
])
def test_wrong_arguments(args, phrase, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e:
        generate_cli(args)
    err = capsys.readouterr().err
    assert e.value.code == 2 and phrase in err and "Traceback" not in err and not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_without_permission(model, capsys, tmp_path_factory):
    import tempfile
    root, me = Path(tempfile.mkdtemp()), os.geteuid()
    a, mine = photo(root / "a.png"), shutil.copy(model, root / "m.safetensors")
    (root / "closed").mkdir()
    photo(root / "flat" / "1.png")
    photo(root / "flat" / "2.png", 1)
    root.chmod(0o755)
    Path(mine).chmod(0o644)
    def ask(*args):
        if me == 0: os.seteuid(65534)
        try:
            return cli(*args), capsys.readouterr().err
        finally:
            os.seteuid(me)
    try:
        for closed in (root / "closed", root): closed.chmod(0o555)
        for args in (("swap", a, a, "--model", mine, "--out", root / "closed" / "x.png"),
                     ("set", root / "flat", "--model", mine, "--out", root / "closed" / "o", "--pairs", "all"),
                     ("photos", "--out", root / "closed")):
            status, err = ask(*args)
            assert status == 2 and "no permission to write there. Write elsewhere" in err
        (root / "flat").chmod(0)
        status, err = ask("set", root / "flat", "--model", mine, "--out", Path(tempfile.gettempdir()) / "dgnet never",
                          "--pairs", "all")
        assert status == 2 and "flat: no permission to read. Ask its owner" in err
        assert not (Path(tempfile.gettempdir()) / "dgnet never").exists()
        (root / "flat").chmod(0o755)
        root.chmod(0o755)
        a.chmod(0)
        status, err = ask("swap", a, a, "--model", mine, "--out", "/nowhere.png")
        assert status == 2 and err.count("\n") == 1 and "Traceback" not in err
        Path(mine).chmod(0)
        status, err = ask("swap", root / "flat" / "1.png", root / "flat" / "2.png", "--model", mine, "--out",
                          Path(tempfile.gettempdir()) / "dgnet never.png")
        assert status == 2 and "m.safetensors: no permission to read" in err
        assert not (Path(tempfile.gettempdir()) / "dgnet never.png").exists()
    finally:
        for p in (root, *root.rglob("*")): p.chmod(0o755)
        shutil.rmtree(root)


def test_the_old_name_goes_on_for_one_version(model):
    import dgnet.generate
    with pytest.warns(FutureWarning, match="open_painter is dgnet.generate.load_generator now"):
        from dgnet.generate import open_painter
    assert open_painter is load_generator and open_painter(model, "cpu").sha256 == load_generator(model, "cpu").sha256
    with pytest.raises(AttributeError, match="no attribute 'open_paint'"):
        dgnet.generate.open_paint


def test_the_lines_of_the_readme_make_a_swap(tmp_path, monkeypatch):
    "Two rendered people and a model that comes with the package: as written there."
    block = next(b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
                 if ".swap(one, two)" in b)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    created = Image.open(tmp_path / "swap.png")
    assert created.size == (64, 128)
    one, two = (to_uint8(names[k]) for k in ("one", "two"))
    by_bytes = load_generator("midi-market").swap(one, two)
    assert np.array_equal(np.asarray(created), np.asarray(by_bytes)), "floats and bytes are the same photo"
    with pytest.raises(ValueError, match="outside"):
        load_generator("midi-market").swap(names["one"] * 255, names["two"])
