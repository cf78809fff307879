"""The swap studio without a browser: sliders move the picture, ends are the model's own swaps, uploads and errors; and
no widget is stored in a notebook."""
import io
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dgnet.studio
from dgnet.config import make_config
from dgnet.core import denormalise, from_uint8
from dgnet.model import DGNet
from dgnet.studio import Mixer, Studio, board_figure, front_end, pick_photos, png_bytes, read_upload, swap_studio

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DGNet(make_config("smoke", "market"), 3, start=False).eval()


@pytest.fixture
def people():
    return torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def photo(path: Path, k: int = 0, size=(20, 40), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode).save(path)
    return path


def test_ends_are_the_models_own_swaps(model, people):
    m = Mixer(model, people, ["a", "b", "c"])
    for i, j in ((0, 1), (2, 0)):
        x_i, x_j = from_uint8(people[[i]]), from_uint8(people[[j]])
        for t_a, t_s, a, s in ((0, 0, x_i, x_i), (1, 0, x_j, x_i), (0, 1, x_i, x_j), (1, 1, x_j, x_j)):
            assert torch.allclose(m.picture(i, j, t_a, t_s), denormalise(model.generate(a, s))[0], atol=1e-5)
    with torch.no_grad():
        a, s = model.encode_appearance(from_uint8(people[:2])), model.encode_structure(from_uint8(people[:2]))
        by_hand = denormalise(model.G((0.75 * a[0] + 0.25 * a[1])[None], (0.4 * s[0] + 0.6 * s[1])[None]))[0]
    assert torch.allclose(m.picture(0, 1, 0.25, 0.6), by_hand, atol=1e-5)
    board = m.board(0, 1, 3)
    assert len(board) == 9 and torch.allclose(board[1], m.picture(0, 1, 0.5, 0))
    assert torch.allclose(board[3], m.picture(0, 1, 0, 0.5))
    assert len(board_figure(m, 0, 1, 3).axes) == 21


def test_the_model_is_left_as_it_was(model, people):
    model.train()
    modes = [m.training for m in model.modules()]
    x = Mixer(model, people, ["a", "b", "c"]).picture(0, 1, 0.3, 0.3)
    assert [m.training for m in model.modules()] == modes and not x.requires_grad
    model.eval()
    assert torch.equal(x, Mixer(model, people, ["a", "b", "c"]).picture(0, 1, 0.3, 0.3))


def test_sliders_and_menus_move_the_picture(model, people):
    s = swap_studio(model, people, height=64)
    shown = [s.picture.value]
    def moved():
        shown.append(s.picture.value)
        return shown[-1] != shown[-2]
    s.t_a.value = 0.5
    assert moved()
    s.t_s.value = 1.0
    assert moved()
    s.j.value = 2
    assert moved() and s.x_j.value == png_bytes(people[2] / 255, 64)
    s.i.value = 1
    assert moved() and s.x_i.value == png_bytes(people[1] / 255, 64)
    assert s.picture.value == png_bytes(s.mixer.picture(1, 2, 0.5, 1.0), 64)
    assert "50% appearance and 0% structure" in s.said.value
    s.reset.click()
    assert (s.t_a.value, s.t_s.value) == (0, 0) and s.picture.value == png_bytes(s.mixer.picture(1, 2, 0, 0), 64)
    s.i.value = 2
    s.t_a.value = 1.0
    s.t_s.value = 0.35
    at_rest = png_bytes(s.mixer.picture(2, 2, 0, 0), 64)
    still, moved = (np.asarray(Image.open(io.BytesIO(bytes(v)))).astype(int) for v in (s.picture.value, at_rest))
    assert np.abs(still - moved).max() <= 2, "one photo twice: the sliders change nothing but the rounding"
    s.t_a.value = 7.0
    assert s.t_a.value == 1.0, "beyond the end is the end"


def test_one_photo(model, people):
    s = swap_studio(model, people[:1])
    assert (s.i.value, s.j.value) == (0, 0)
    s.t_a.value = 0.6
    assert Image.open(io.BytesIO(s.picture.value)).size == (128, 256)


def upload(name: str, content: bytes) -> dict:
    return {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content),
            "last_modified": datetime(2026, 1, 1)}


def test_upload(model, people, tmp_path):
    s = swap_studio(model, people)
    s.i.value, s.t_a.value = 2, 0.5
    mine = photo(tmp_path / "eigenes ü.png", 7, mode="RGBA").read_bytes()
    s.upload.value = (upload("eigenes ü.png", mine),)
    assert (s.i.value, s.j.value) == (2, 3) and s.i.options == s.j.options and s.j.options[3] == ("eigenes ü.png", 3)
    assert s.picture.value == png_bytes(s.mixer.picture(2, 3, 0.5, 0), 256)
    before = s.picture.value
    s.upload.value = (upload("notes.txt", b"hello"),)
    assert s.said.value == "notes.txt: not a readable image (UnidentifiedImageError). Upload a JPEG or PNG"
    assert s.picture.value == before and len(s.mixer.names) == 4
    s.upload.value = ()
    assert len(s.mixer.names) == 4


def test_an_upload_is_turned_as_it_was_held(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255   # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6   # held upright, to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "t.png", exif=exif)
    x = read_upload((tmp_path / "t.png").read_bytes(), "t.png", 64, 32)
    assert x[:, :24].float().mean() > 250 and x[:, 40:].float().mean() < 5
    for content in (b"", b"\x89PNG", (tmp_path / "t.png").read_bytes()[:60]):
        with pytest.raises(OSError, match="^x.png: not a readable image .*Upload a JPEG or PNG"):
            read_upload(content, "x.png", 64, 32)


def test_photos_from_everywhere(tmp_path):
    files = [photo(tmp_path / "写真" / f"{k}.jpg", k) for k in range(7)]
    x, names = pick_photos(tmp_path / "写真", 64, 32, most=3)
    assert names == ["0.jpg", "3.jpg", "6.jpg"] and x.shape == (3, 3, 64, 32)
    assert pick_photos([str(files[4]), files[1]], 64, 32)[1] == ["4.jpg", "1.jpg"]
    for n in ("-1_c1_1.jpg", "0001_c1_1.jpg", "0000_c2_1.jpg"): photo(tmp_path / "named" / n)
    assert pick_photos(tmp_path / "named", 64, 32)[1] == ["0000_c2_1.jpg", "0001_c1_1.jpg"], "no junk"
    assert pick_photos(x, 64, 32)[1] == ["photo 1", "photo 2", "photo 3"]


def test_bad_input(tmp_path, model, people):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    for photos, kind, words in [
        (tmp_path / "none", FileNotFoundError, "none: no such folder"),
        (tmp_path / "empty", FileNotFoundError, "empty: an empty folder"),
        (tmp_path / "bad.jpg", NotADirectoryError, "bad.jpg: a file, not a folder"),
        ([tmp_path / "no.jpg"], FileNotFoundError, "no.jpg: no such photo. Check the path"),
        ([tmp_path / "empty"], FileNotFoundError, "a folder is given by itself"),
        ([tmp_path / "bad.jpg"], OSError, "bad.jpg: not a readable image"),
        ([], ValueError, "none to show. Give one photo or more"),
        (people.float(), ValueError, r"torch.float32 \(3, 3, 64, 32\), where uint8 \(n, 3, 64, 32\)"),
        (people[:, :, :8], ValueError, r"\(3, 3, 8, 32\)"), (people[:0], ValueError, "with n > 0 is expected"),
    ]:
        with pytest.raises(kind, match=words):
            swap_studio(model, photos)
    with pytest.raises(ValueError, match="most=0: take one photo or more"):
        swap_studio(model, people, most=0)
    with pytest.raises(ValueError, match="3 photos and 1 names"):
        Mixer(model, people, ["a"])


def test_is_anybody_looking(monkeypatch):
    class Shell: user_ns = {}
    monkeypatch.delenv("IN_TEST", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not front_end(), "plain Python"
    monkeypatch.setattr(dgnet.studio, "get_ipython", Shell)
    assert not front_end(), "a kernel alone"
    monkeypatch.setenv("JPY_SESSION_NAME", "x.ipynb")
    assert front_end()
    monkeypatch.setenv("IN_TEST", "1")
    assert not front_end()
    monkeypatch.delenv("IN_TEST")
    monkeypatch.delenv("JPY_SESSION_NAME")
    monkeypatch.setattr(Shell, "user_ns", {"__vsc_ipynb_file__": "x.ipynb"})
    assert front_end()


@pytest.mark.parametrize("path", sorted(ROOT.glob("nbs/[!_]*.ipynb")), ids=lambda p: p.stem)
def test_no_widget_is_stored(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"]
    kinds = {k for c in nb["cells"] for output in c.get("outputs", ()) for k in output.get("data", ())}
    assert not [k for k in kinds if "widget" in k]


def test_the_studio_is_a_widget_that_anyone_can_lay_out(model, people):
    s = swap_studio(model, people)
    assert isinstance(s, Studio) and [len(getattr(c, "children", ())) for c in s.children] == [3, 3, 3, 0]
