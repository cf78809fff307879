"""Data as people have it, once more: situations beyond those of `test_labels`, each with the value that is right."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgnet import labels, layouts
from dgnet.check import check_dataset, data_cli
from dgnet.datasets import load_dataset
from dgnet.galleries import open_gallery
from dgnet.labels import is_photo, photo_formats, photo_suffixes
from dgnet.photos import decode
from dgnet.reid import Embeddings, check_matches, rank_metrics
from dgnet.set_plan import open_source
from dgnet.verdict import judge_people, label_note


def photo(path: Path, k: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (32, 16, 3), np.uint8)).save(path, "PNG")
    return path


def people(root: Path, *names: str, photos: int = 3) -> Path:
    for p, name in enumerate(names):
        for k in range(photos): photo(root / name / f"{k}.png", 10 * p + k)
    return root


def quiet(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(None, path)


def table(root: Path, ids: list, header: str = "path,id", more: str = "") -> Path:
    for k in range(len(ids)): photo(root / f"{k}.png", k)
    (root / "list.csv").write_text("\n".join([header, *(f"{k}.png,{i}{more}" for k, i in enumerate(ids))]) + "\n")
    return root / "list.csv"


def found(path: Path, kind: str) -> list:
    return [f.what for f in check_dataset(path).findings if f.kind == kind]


# labels

def test_leading_zeros_that_a_spreadsheet_took_from_some_lines_are_said(tmp_path):
    file = table(tmp_path, ["007", "7", "07", "8", "8", "7.0", "9", "9"])
    assert found(file, "written") == ["007 and 7 and 07"]
    data = quiet(file)
    assert data.n_ids == 3 and data.person(7) == "007" and (data.train.ids == 7).sum() == 4
    assert not found(table(tmp_path / "same", ["1", "1.0", "1,0".join('""'), "2"]), "written"), "one writing"


def test_one_odd_person_among_numbers_is_said(tmp_path):
    assert found(table(tmp_path, ["1000", '"1,234"', "1234", "12e3", "7"]), "mixed") == ["1,234", "12e3"]
    assert not found(table(tmp_path / "names", ["anna", "bob"]), "mixed")
    assert found(table(tmp_path / "huge", ["9" * 19, "1"]), "mixed") == ["9" * 19], "more digits than a number has here"


def test_one_photo_in_two_folders_of_people_is_said(tmp_path):
    root = people(tmp_path / "p", "anna", "bob", "carl")
    (root / "anna2").symlink_to(root / "anna")
    shutil.copy(root / "bob" / "0.png", root / "carl" / "copy.png")
    contradicted = {(f.what, f.detail) for f in judge_people(quiet(root)) if f.kind == "contradicted"}
    assert contradicted == {*((f"anna2/{k}.png", f"is anna/{k}.png") for k in range(3)),
                            ("carl/copy.png", "is bob/0.png")}
    shutil.copy(root / "bob" / "0.png", root / "bob" / "again.png")
    assert len([f for f in judge_people(quiet(root)) if f.kind == "contradicted"]) == 4, "twice as one person is no lie"


def test_a_query_who_is_learnt_under_another_name_is_said(tmp_path):
    for split, names in (("train", "ab"), ("query", "cd"), ("gallery", "cd")): people(tmp_path / split, *names)
    assert {f.split for f in judge_people(quiet(tmp_path)) if f.kind == "contradicted"} == {"query", "gallery"}


def test_the_evaluators_warning_has_the_persons_as_written():
    lost = torch.tensor([1, 0, 0])
    with pytest.warns(UserWarning, match=r"2 of 3 queries have no true match and count as 0 \(persons: Ann, 007\)$"):
        check_matches(lost, torch.tensor([3, 1, 2]), {1: "Ann", 2: "007"}.get)
    e = Embeddings(torch.eye(3), None, torch.tensor([1, 2, 2]), torch.tensor([1, 1, 1]))
    g = e._replace(cams=torch.tensor([2, 1, 1]))
    with pytest.warns(UserWarning, match=r"\(persons: p2\)"): rank_metrics(e, g, person=lambda i: f"p{i}")


# one judge

def test_rank_and_generate_set_say_what_check_says_of_labels(tmp_path):
    root = people(tmp_path / "p", "anna", "bob", "carl", "dora")
    assert label_note(quiet(root)) == "" and not open_source(root).notes
    shutil.copy(root / "bob" / "0.png", root / "carl" / "copy.png")
    words = "1 × photos that are there twice, as different people (train carl/copy.png is bob/0.png)"
    assert words in check_dataset(root).verdict + label_note(quiet(root)) and label_note(quiet(root)).count("×") == 1
    assert [n for n in open_gallery(root).notes if words in n] == [label_note(quiet(root))]
    assert open_source(root).notes == (label_note(quiet(root)),)


def test_whether_it_is_enough_to_learn_from_is_not_asked_by_who_only_ranks(tmp_path):
    data = quiet(people(tmp_path, "anna"))
    assert any(f.kind == "few" for f in judge_people(data)) and label_note(data) == ""


# what was found but not used

def test_a_telephones_photos_are_used_where_they_can_be_read_and_spoken_of_where_not(tmp_path, monkeypatch):
    assert photo_suffixes(("JPEG", "HEIF", "AVIF")) - photo_suffixes(("JPEG",)) == {".heic", ".heif", ".hif", ".avif"}
    monkeypatch.setattr(labels, "photo_formats", lambda: ("JPEG", "PNG"))
    root = people(tmp_path / "p", "anna", "bob", "carl")
    (root / "anna" / "x.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert found(root, "format") == ["anna/x.HEIC"] and not is_photo("x.heic")
    monkeypatch.setattr(labels, "photo_formats", lambda: ("JPEG", "PNG", "HEIF"))
    assert is_photo("x.HEIC") and quiet(root).train.n == 10 and not found(root, "format")


@pytest.mark.skipif("AVIF" not in photo_formats(), reason="this Pillow reads no AVIF")
def test_avif_photos_of_a_person_are_photos(tmp_path):
    root = people(tmp_path, "anna", "bob", "carl")
    Image.new("RGB", (16, 32)).save(root / "anna" / "a.avif")
    assert quiet(root).train.n == 10 and check_dataset(root).shapes == {"RGB 32 x 16": 10}


@pytest.mark.parametrize("name, words", [("a/1.heic", "pillow-heif"), ("a/1.gif", r"save it as JPEG or PNG")])
def test_a_folder_of_nothing_but_other_pictures_says_so(tmp_path, name, words, monkeypatch, capsys):
    monkeypatch.setattr(labels, "photo_formats", lambda: ("JPEG", "PNG"))
    (tmp_path / "a").mkdir()
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=f"1 × a picture in a format that is not read.*{words}"):
        open_gallery(tmp_path)
    assert data_cli(["check", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err and layouts.unread_pictures(people(tmp_path / "p", "x")) == ""


@pytest.mark.parametrize("content, words", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>404", "web page"), (b"<HTML>", "web page"), (b"none", "UnidentifiedImageError")])
def test_what_lies_in_place_of_a_photo_is_named(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    assert words in decode(tmp_path / "a.jpg").detail


def test_links_that_lead_to_themselves_are_counted(tmp_path):
    root = people(tmp_path, "anna", "bob", "carl")
    for place in (root, root / "anna"): (place / "x.jpg").symlink_to(place / "x.jpg")
    (root / "anna" / "round").symlink_to(root)
    report = check_dataset(root)
    assert [(f.kind, f.what) for f in report.findings if f.what.endswith("x.jpg")] == [
        ("broken", "anna/x.jpg"), ("loose", "x.jpg")] and sum(report.shapes.values()) == 9


def test_the_table_is_no_stray_file_of_its_own(tmp_path):
    file = table(tmp_path, ["a", "b", "c"])
    (tmp_path / "notes.txt").touch()
    assert found(file, "stray") == ["notes.txt"]


@pytest.mark.parametrize("n, words", [(1, "0.png. Write"), (2, "0.png, nor those of 1 other line. Write"),
                                      (3, "0.png, nor those of 2 other lines. Write")])
def test_missing_photos_of_a_table_in_number(tmp_path, n, words):
    file = table(tmp_path, ["1", "2", "3"])
    for k in range(n): (tmp_path / f"{k}.png").unlink()
    with pytest.raises(FileNotFoundError, match=f"no photo {words}"): load_dataset(None, file)


# environment

@pytest.mark.parametrize("module, name", [("check", "data_cli"), ("search", "rank_cli")])
def test_a_deleted_working_directory_is_named(tmp_path, module, name):
    (tmp_path / "gone").mkdir()
    code = (f"import os, sys; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir({str(tmp_path / 'gone')!r}); "
            f"sys.argv = ['dgnet_x', '--help']; sys.path.insert(0, {os.getcwd()!r}); "
            f"from dgnet.{module} import {name}; {name}(['--help'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "dgnet_x: the working directory has been deleted. Change to another one (cd)\n"
