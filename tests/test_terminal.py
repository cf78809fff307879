"""What the six commands share: words that any terminal can show, counters, numbers, files to write, exit codes."""
import argparse
import html
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dgnet.terminal import (CommandParser, Failure, counter, image_size, markdown_code, number, output_file, printable,
                            run_command, say, shell_command)

ROOT = Path(__file__).resolve().parent.parent


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
            ("photo.png", {}, "is there already")):
        with pytest.raises((OSError, ValueError), match=words):
            output_file(str(tmp_path / name), "--out", (".png", ".jpg"), **options)


@pytest.mark.parametrize("name, shown", [
    ("写真 é.jpg", "写真 é.jpg"), ("9\x1b[2J.jpg", "9\\x1b[2J.jpg"), ("a\nfit to train on", "a\\nfit to train on"),
    ("a\r\tb\x7f\x9b", "a\\r\\tb\\x7f\\x9b"),
    ("right\u202eto left", "right\\u202eto left"), ("line\u2028", "line\\u2028"),
    (os.fsdecode(b"caf\xe9"), "caf\ufffd"), ("\ud800", "\ufffd"),
])
def test_what_gives_orders_to_a_terminal_is_shown(name, shown, capsys):
    assert printable(name) == printable(Path(name)) == shown
    say(f"{name}\n2")
    assert "\x1b" not in capsys.readouterr().out


def test_no_terminal_at_all(monkeypatch):
    for stream in ("stdout", "stderr"): monkeypatch.setattr(sys, stream, None)
    say("nobody listens")
    say("nobody listens", error=True)
    counter("photos")(1, 2)
    assert run_command("p", raising(ValueError("a"))) == 2 and run_command("p", lambda: None) == 0


def test_an_error_is_one_line_and_no_longer_than_a_screen(capsys):
    run_command("p", raising(ValueError("photos.csv, line 2:\n" + "a," * 10**6 + " Give four columns")))
    message = capsys.readouterr().err
    assert len(message) < 1920 and len(message.splitlines()) == 1
    assert message.startswith("p: photos.csv, line 2:\\n") and message.endswith("Give four columns\n")


NAMES = ["people", "my people", "a'; touch OWNED; '", "$(touch OWNED)", "`touch OWNED`", "a\nb", "9\x1b[2J", "~", "-rf",
         "*", "!x", "\\", os.fsdecode(b"caf\xe9'\\"), "写真"]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize("name", NAMES)
def test_a_pasted_command_has_the_words_that_were_meant(name, tmp_path):
    line = shell_command("printf", "%s\\0", "--gallery", Path(name))
    assert printable(line) == line, "nothing in it gives orders to the terminal"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True)
    words = [os.fsdecode(w) for w in done.stdout.split(b"\0")[:-1]]
    assert [words[0], words[1].removeprefix("./")] == ["--gallery", name] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*NAMES, "x` |\n\n# Owned\n\n<script>alert(1)</script>", "a|b", "``"])
def test_a_name_in_markdown_is_no_markup(name):
    text = markdown_code(name)
    assert "\n" not in text and "<script" not in text and "|" not in text
    inside = text.removeprefix("<code>").removesuffix("</code>").removeprefix("`").removesuffix("`")
    assert "`" not in inside and html.unescape(inside) == printable(name)


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
    np._core._exceptions._ArrayMemoryError((10**15,), np.dtype("f8")),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("can't start new thread"), OSError(12, "Cannot allocate memory; out of memory")])
def test_no_memory_is_said_whoever_runs_out_of_it(error, capsys):
    assert run_command("p", raising(error)) == 2
    assert capsys.readouterr().err.startswith("p: not enough memory. ")


def test_no_memory_that_names_a_photo_keeps_its_name(capsys):
    run_command("p", raising(MemoryError("9.png: not enough memory to read its 9 × 9 pixels. End what else runs here")))
    assert capsys.readouterr().err.startswith("p: 9.png: not enough memory")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_or_nobody_behind_standard_output():
    program = ("import sys; from dgnet.terminal import run_command, say; "
               "sys.exit(run_command('p', lambda: [say('x' * 9000) for _ in range(999)] and None))")
    with open("/dev/full", "w") as full:
        p = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert p.returncode == 2 and p.stderr.startswith("p: standard output: cannot be written (No space left on device)")
    p = subprocess.run(["bash", "-c", f'{sys.executable} -c "{program}" | head -c 5; exit ${{PIPESTATUS[0]}}'],
                       capture_output=True, text=True, cwd=ROOT)
    assert p.stderr == "" and p.returncode == 141


def test_a_home_that_does_not_exist(capsys):
    run_command("p", lambda: Path("~nobody-of-that-name/x").expanduser())
    message = capsys.readouterr().err
    assert message.startswith("p: ~: no such home folder") and len(message.splitlines()) == 1


def test_a_word_of_the_command_line_gives_no_orders(capsys):
    parser = CommandParser("p")
    parser.add_argument("--n", type=number(int, 1, 9))
    with pytest.raises(SystemExit): parser.parse_args(["--n", "\x1b[2J\nfit to train on"])
    message = capsys.readouterr().err
    assert "\x1b" not in message and len(message.splitlines()) == 2
