"""What the six commands share: words that any terminal can show, counters, numbers, files to write, exit codes."""
import argparse
import io
import os
import sys

import pytest

from dgnet.terminal import Failure, counter, image_size, number, output_file, printable, run_command, say


def raising(error):
    def do(): raise error
    return do


@pytest.mark.parametrize("error, code, line", [
    (ValueError("a: bad. Mend it"), 2, "dgnet_demo: a: bad. Mend it\n"),
    (FileNotFoundError("a: no such file"), 2, "dgnet_demo: a: no such file\n"),
    (FloatingPointError("loss is nan"), 1, "dgnet_demo: loss is nan\n"),
    (MemoryError("any words"), 3, "dgnet_demo: not enough memory\n"), (KeyboardInterrupt(), 130, "\nstopped\n"),
])
def test_an_error_is_a_line_and_a_code(error, code, line, capsys):
    failures = (Failure((FloatingPointError,), 1), Failure((MemoryError,), 3, lambda e: "not enough memory"))
    calls = []
    assert run_command("dgnet_demo", raising(error), *failures, before=lambda: calls.append(1)) == code
    assert capsys.readouterr() == ("", line) and calls == [1]


def test_what_was_not_foreseen_keeps_its_traceback_and_success_says_nothing(capsys):
    with pytest.raises(KeyError, match="a bug"):
        run_command("dgnet_demo", raising(KeyError("a bug")))
    assert run_command("dgnet_demo", lambda: None) == 0 and run_command("dgnet_demo", lambda: 1) == 1
    assert capsys.readouterr() == ("", "")


def test_the_first_failure_that_fits_is_taken(capsys):
    first, second = Failure((OSError,), 5), Failure((FileNotFoundError,), 6)
    assert run_command("p", raising(FileNotFoundError("a")), first, second) == 5
    assert run_command("p", raising(FileNotFoundError("a")), second, first) == 6
    assert run_command("p", raising(KeyboardInterrupt()), stopped="p: stopped; go on") == 130
    assert capsys.readouterr().err == "p: a\np: a\np: stopped; go on\n"


def test_words_for_any_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", narrow := io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    say("ü 写")
    narrow.flush()
    assert narrow.buffer.getvalue() == "ü ?\n".encode("latin-1")
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\ufffd" and printable("写") == "写"


def test_a_counter_is_for_a_terminal_alone(monkeypatch, capsys):
    report = counter("photos")
    for k in (1, 2): report(k, 2)
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for k in (1000, 2000): report(k, 2000)
    line = capsys.readouterr().err
    assert "1,000 of 2,000 photos" in line and not line.split("\r")[-1].strip(), "and it is gone at the end"


@pytest.mark.parametrize("parse, text, value", [
    (number(int, 2, 9), "9", 9), (number(float, 0.5, 9), "0.5", 0.5), (image_size(8, 99), "16×8", (16, 8)),
    (image_size(8, 99, model=None), "model", None), (number(int, 2, 9), "1", "whole number from 2 to 9"),
    (number(float, 2, 9), "nan", "number from 2 to 9"), (number(int, 2, 9), "2.0", "whole number"),
    (image_size(8, 99), "16x8x8", "each from 8 to 99"), (image_size(8, 99), "7x8", "HEIGHTxWIDTH"),
    (image_size(8, 99, model=None), "photo", "like 256x128; or model"),
])
def test_words_that_are_numbers(parse, text, value):
    if not isinstance(value, str):
        assert parse(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError, match=value):
        parse(text)


def test_files_that_may_be_written(tmp_path):
    photo, data = tmp_path / "photo.png", tmp_path / "data"
    photo.touch()
    data.mkdir()
    (tmp_path / "link.png").symlink_to(photo)
    os.link(photo, tmp_path / "hard.png")
    assert output_file(None, "--out", (".png",)) is None
    assert output_file(str(tmp_path / "new.PNG"), "--out", (".png",), data, [photo]) == tmp_path / "new.PNG"
    for name, options, words in (
            ("none/a.png", {}, "there is no folder"), ("a.txt", {}, "ends in .png or .jpg"), ("data", {}, "ends in"),
            ("data/a.png", {"dataset": data}, "lies inside the dataset"),
            ("photo.png", {"dataset": photo}, "is the list of photos itself"),
            ("link.png", {"inputs": [photo]}, "would overwrite what is read"),
            ("hard.png", {"inputs": [photo], "refusal": "is a photo"}, "is a photo. Write elsewhere"),
            ("photo.png", {"replace": False}, "is there already")):
        with pytest.raises((OSError, ValueError), match=words):
            output_file(str(tmp_path / name), "--out", (".png", ".jpg"), **options)
