"""One function opens photos: regular files, formats that are read, the size judged before a pixel is decoded; and what
a person can do about a file that is none."""
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dgnet import photos
from dgnet.photos import decode, decode_all, open_photo, photo_fault, photo_formats, read_image, to_rgb

ROOT = Path(__file__).resolve().parent.parent


def noise(path: Path, size=(32, 64), **options) -> Path:
    Image.effect_noise(size, 60).convert("RGB").save(path, **options)
    return path


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(tmp_path / "socket.jpg"))
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    words = {"pipe": "a pipe or a device", "socket": "a pipe or a device", "device": "a pipe or a device",
             "folder": "a folder", "gone": "no such file"}
    for name, why in words.items():
        facts: list = []
        work = threading.Thread(target=lambda p=tmp_path / f"{name}.jpg", facts=facts: facts.append(decode(p)))
        work.daemon = True
        work.start()
        work.join(10)
        assert facts and facts[0].fault == "broken", f"{name}: it must not wait"
        with pytest.raises(OSError, match=f"{name}.jpg: not a readable image .*{why}"):
            read_image(tmp_path / f"{name}.jpg", 64, 32)


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 128\n", b"%PDF-1.4\n",
                                   b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xd7\xcd\xc6\x9a" + bytes(40)])
def test_other_formats_are_not_offered_to_a_decoder(start, tmp_path, monkeypatch):
    "PostScript would go to Ghostscript, if there is one."
    from PIL import EpsImagePlugin
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("a program was started"))
    (tmp_path / "9.jpg").write_bytes(start + bytes(200))
    assert decode(tmp_path / "9.jpg").fault == "broken" and not {"EPS", "PDF", "WMF"} & set(photo_formats())
    with pytest.raises(OSError, match="no image format that is known"): read_image(tmp_path / "9.jpg", 64, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_photos_by_any_name_are_read(kind, tmp_path):
    noise(tmp_path / "photo.jpg", format=kind)
    with open_photo(tmp_path / "photo.jpg") as photo, Image.open(tmp_path / "photo.jpg") as same:
        assert photo[1:] == (64, 32, 1) and np.array_equal(photo.rgb(), to_rgb(same))


@pytest.mark.parametrize("place", ["before", "after"])
def test_notes_in_a_png_are_passed_over(place, tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("prompt", "x" * 3_000_000, zip=True)
    picture = Image.effect_noise((32, 64), 60).convert("RGB")
    picture.save(tmp_path / "a.png", pnginfo=notes)
    if place == "after":   # some programs write them behind the pixels
        whole, at, parts = (tmp_path / "a.png").read_bytes(), 8, []
        while at < len(whole):
            n = struct.unpack(">I", whole[at:at + 4])[0] + 12
            parts.append(whole[at:at + n])
            at += n
        parts.sort(key=lambda p: (b"IHDR", b"IDAT", b"zTXt", b"IEND").index(p[4:8]))
        (tmp_path / "a.png").write_bytes(whole[:8] + b"".join(parts))
    assert decode(tmp_path / "a.png") == ("RGB", 64, 32, "", "")
    assert np.array_equal(read_image(tmp_path / "a.png", 64, 32), picture)


def test_a_cut_png_with_notes_is_still_cut(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("prompt", "x" * 3_000_000, zip=True)
    noise(tmp_path / "a.png", pnginfo=notes)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-900])
    assert decode(tmp_path / "a.png").fault in ("truncated", "broken")


@pytest.mark.parametrize("brand, words", [(b"heic", "HEIC.*pillow-heif.*JPEG"), (b"mif1", "pillow-heif"),
                                          (b"avif", "AVIF.*Pillow")])
def test_a_telephones_photo_says_what_to_install(brand, words, tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "photo_formats", lambda: ("JPEG", "PNG"))   # nothing more is installed
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200))
    with pytest.raises(OSError, match=f"IMG_1.HEIC: .*{words}"): read_image(tmp_path / "IMG_1.HEIC", 64, 32)


def test_a_telephones_photo_is_read_where_that_is_installed(tmp_path):
    if "AVIF" in photo_formats():
        try:
            noise(tmp_path / "a.avif", quality=90)
        except OSError:
            pytest.skip("this Pillow cannot write AVIF")
        assert decode(tmp_path / "a.avif") == ("RGB", 64, 32, "", "")
    pytest.importorskip("pillow_heif")
    assert "HEIF" in photo_formats()
    noise(tmp_path / "a.heic", quality=90)
    assert decode(tmp_path / "a.heic") == ("RGB", 64, 32, "", "")


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_cameras_whole_picture_is_decoded_at_a_part_of_its_size(kind, turn, tmp_path):
    "Its facts are those of the whole; its pixels nearly those of a full decoding."
    exif = Image.Exif()
    exif[0x0112] = turn
    smooth = Image.radial_gradient("L").resize((3000, 2000)).convert("RGB")
    smooth.save(tmp_path / "a.jpg", kind, exif=exif, **({"save_all": True} if kind == "MPO" else {}))
    with open_photo(tmp_path / "a.jpg", 128) as photo: assert min(photo.image.size) >= 250
    assert photo.image.width < 1600, "a half or less"
    assert decode(tmp_path / "a.jpg")[1:4] == ((2000, 3000, "") if turn == 1 else (3000, 2000, ""))
    with Image.open(tmp_path / "a.jpg") as im: whole = np.asarray(to_rgb(im, (128, 64)), int)
    assert np.abs(whole - read_image(tmp_path / "a.jpg", 128, 64)).max() <= 3
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-3000])
    if kind == "JPEG": assert decode(tmp_path / "a.jpg").fault == "truncated"


def test_sixteen_bits_in_bands_are_what_they_were_at_once(monkeypatch):
    v = np.random.default_rng(0).integers(0, 65536, (2400, 2000)).astype(np.uint16)
    once = (v.astype(float) * (255 / 65535)).round().astype(np.uint8)
    for values in (v, v.astype(np.int32), (v / 65535).astype(np.float32)):
        im = Image.fromarray(values)
        assert np.array_equal(np.asarray(to_rgb(im))[:, :, 0], once), im.mode


def test_threads_share_a_bounded_memory():
    memory, most, now = photos._Memory(100), [0], [0]
    def take(n):
        with memory.take(n):
            now[0] += n
            most[0] = max(most[0], now[0])
            threading.Event().wait(0.01)
            now[0] -= n
    threads = [threading.Thread(target=take, args=(n,)) for n in [40] * 9 + [500]]
    for t in threads: t.start()
    for t in threads: t.join(20)
    assert not any(t.is_alive() for t in threads) and most[0] in (80, 500) and memory.taken == 0


def test_no_memory_is_not_called_damaged(tmp_path, monkeypatch):
    noise(tmp_path / "a.png")
    def fail(*_, **__): raise MemoryError
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    for work in (lambda p: decode(p), lambda p: decode_all([p]), lambda p: read_image(p, 64, 32)):
        with pytest.raises(MemoryError, match="a.png: not enough memory to read it"):
            work(tmp_path / "a.png")
    def decoder(*_, **__): raise OSError("out of memory error when reading image file")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoder)
    with pytest.raises(MemoryError, match="a.png"): decode(tmp_path / "a.png")


def test_a_large_flat_picture_takes_a_bounded_memory(tmp_path):
    "48 million pixels of 16 bits in a small file, by several threads."
    Image.new("I;16", (6_000, 8_000)).save(tmp_path / "a.png")
    program = ("import sys, resource; from pathlib import Path; from dgnet.photos import decode_all\n"
               "low = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
               "facts = decode_all([Path(sys.argv[1])] * 3, 3)\n"
               "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - low) // 1024, {f[:4] for f in facts})")
    p = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], capture_output=True, text=True,
                       cwd=ROOT)
    assert p.returncode == 0, p.stderr
    assert int(p.stdout.split()[0]) < 900 and "('I;16', 8000, 6000, '')" in p.stdout, p.stdout


def test_more_pixels_than_can_be_meant(tmp_path, monkeypatch):
    noise(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    fault = decode(tmp_path / "a.png")
    assert fault.fault == "broken" and fault.detail == "DecompressionBombError"


def test_an_upload_goes_the_same_way():
    from dgnet.studio import read_upload
    file = io.BytesIO()
    Image.new("RGB", (32, 64), "red").save(file, "PNG")
    assert read_upload(file.getvalue(), "a.png", 64, 32).shape == (3, 64, 32)
    with pytest.raises(OSError, match="a.png: not a readable image"):
        read_upload(b"%!PS-Adobe-3.0 EPSF-3.0\n", "a.png", 64, 32)


def test_a_photos_size_needs_its_header_alone(tmp_path):
    from dgnet.generate import photo_size
    noise(tmp_path / "a.jpg", (300, 200))
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])   # cut, but the header is there
    assert photo_size(tmp_path / "a.jpg") == (200, 300)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(OSError, match="pipe.jpg: a pipe or a device"): photo_size(tmp_path / "pipe.jpg")
    assert photo_fault(tmp_path / "pipe.jpg", OSError("x")).why.startswith("a pipe")
