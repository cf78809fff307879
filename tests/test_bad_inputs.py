"""The corpus of bad inputs: files, folders, CSVs, checkpoints, arguments. Each gets one message that names the file or
argument and a remedy, an exit code that is not 0, no traceback; and nothing on disk changes."""
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent


class Case(NamedTuple):
    command: str     # data, train, generate, rank or reproduce
    args: str        # {…} are things of the fixture `place`; split at spaces, ~ is a space inside a name
    says: tuple      # words of the message: the name, then the remedy

SWAP, MODEL = "swap {d}/whole.png {d}/whole.png ", "--model {m}/model.safetensors"   # words of many cases

DATA = [
    Case("data", "check {d}/no_such_folder", ("no_such_folder", "no such folder", "Unpack")),
    Case("data", "check {d}/empty_folder", ("empty_folder", "empty folder", "Unpack")),
    Case("data", "check {d}/letters", ("letters", "no known dataset", "Unpack")),
    Case("data", "check {d}/archive.zip", ("archive.zip", "a file, not a folder", "Unpack")),
    Case("data", "check {d}/good --name markt", ("markt", "no such dataset", "market")),
    Case("data", "check {d}/good --name duke", ("good", "looks like", "name=None")),
    Case("data", "check {d}/good --sheet {d}/nowhere/s.png", ("nowhere", "there is no folder", "Make it first")),
    Case("data", "check {d}/good --sheet {d}/sheet.txt", ("sheet.txt", "give a file that ends in .png")),
    Case("data", "check {d}/good --sheet {d}/good/s.png", ("s.png", "inside the dataset", "Write elsewhere")),
    Case("data", "check {d}/good --csv {d}", ("--csv", "give a file that ends in .csv")),
    Case("data", "check {d}/good --pattern (", ("(", "pattern")),
    Case("data", "check {d}/good --pattern x(?P<id>\\d+)", ("pattern", "id")),
    Case("data", "card markt", ("markt", "no such card", "market")),
    Case("data", "", ("usage", "required")),
    Case("data", "check", ("usage", "PATH")),
    Case("data", "check {d}/half_market", ("half_market", "query", "Unpack")),
    Case("data", "check {d}/two_sets", ("two_sets", "holds 2 datasets", "name one of these folders")),
    Case("data", "check {d}/lists", ("lists", "not on disk")),
    Case("data", "check {d}/strange_names", ("strange_names", "start like 0002_c1", "Give a pattern that fits")),
]
CSVS = [
    Case("data", "check {d}/csv/missing.csv", ("missing.csv", "no such file")),
    Case("data", "check {d}/csv/empty.csv", ("empty.csv",)),
    Case("data", "check {d}/csv/no_id.csv", ("no_id.csv", "id")),
    Case("data", "check {d}/csv/header_only.csv", ("header_only.csv",)),
    Case("data", "check {d}/csv/bad_split.csv", ("bad_split.csv", "tarin", "train")),
    Case("data", "check {d}/csv/bad_camera.csv", ("bad_camera.csv", "left")),
    Case("data", "check {d}/csv/no_photo.csv", ("no_photo.csv", "gone.jpg")),
    Case("data", "check {d}/csv/twice.csv", ("twice.csv", "a.jpg")),
    Case("data", "check {d}/csv/latin1.csv", ("latin1.csv", "UTF-8")),
    Case("data", "check {d}/csv/ragged.csv", ("ragged.csv", "line")),
    Case("data", "check {d}/csv/no_train.csv", ("no_train.csv", "train")),
]
TRAIN = [
    Case("train", "{d}/no_such_folder", ("no_such_folder", "no such folder", "Unpack")),
    Case("train", "{d}/empty_folder", ("empty_folder", "empty folder")),
    Case("train", "{d}/archive.zip", ("archive.zip", "not a folder")),
    Case("train", "{d}/letters", ("letters", "no known dataset")),
    Case("train", "{d}/one_person", ("one_person", "people")),
    Case("train", "{d}/two_people", ("two_people", "fewer than two are left", "--hold-out")),
    Case("train", "{d}/broken --tier smoke", ("broken", "cut.png", "words.png", "--skip-broken")),
    Case("train", "{d}/all_broken --tier smoke --skip-broken", ("all_broken",)),
    Case("train", "{d}/good --tier smoke", ("counts that differ", "--own")),
    Case("train", "{d}/folder --tier smoke --hold-out 0", ("no test people", "--hold-out 1")),
    Case("train", "{d}/folder --tier smoke --hold-out -1", ("--hold-out -1", "0 or more")),
    Case("train", "{d}/folder --tier smoke --hold-out 99", ("fewer than two are left",)),
    Case("train", "{d}/folder --tier smoke --hold-out many", ("--hold-out", "invalid int value")),
    Case("train", "{d}/folder --tier huge", ("--tier", "invalid choice")),
    Case("train", "{d}/folder --tier smoke --name markt", ("markt", "no such dataset")),
    Case("train", "{d}/folder --tier smoke --recipe cake", ("--recipe", "invalid choice")),
    Case("train", "{d}/folder --tier smoke --save-every -1", ("--save-every -1", "0 or more")),
    Case("train", "{d}/folder --tier smoke --save-every nan", ("--save-every nan", "0 or more")),
    Case("train", "{d}/folder --tier smoke --set n_iter", ("--set n_iter", "is no value for n_iter")),
    Case("train", "{d}/folder --tier smoke --set n_iter=lots", ("n_iter=lots", "is no value")),
    Case("train", "{d}/folder --tier smoke --set n_iter=0", ("n_iter=0", "1 or more")),
    Case("train", "{d}/folder --tier smoke --set n_iter=2.5", ("n_iter=2.5", "whole number")),
    Case("train", "{d}/folder --tier smoke --set batch=-4", ("batch=-4", "1 or more")),
    Case("train", "{d}/folder --tier smoke --set lr_id=NaN", ("lr_id=NaN", "0 or more")),
    Case("train", "{d}/folder --tier smoke --set height=63", ("height=63", "multiple of 2")),
    Case("train", "{d}/folder --tier smoke --set warm_up=3", ("warm_up=3", "from 0 to 1")),
    Case("train", "{d}/folder --tier smoke --set adv=wgan", ("adv=wgan", "lsgan, log")),
    Case("train", "{d}/folder --tier smoke --set iterations=3", ("iterations=3", "no such field")),
    Case("train", "{d}/folder --tier smoke --set tier=full", ("tier=full", "an option of its own")),
    Case("train", "{d}/folder --tier smoke --set batch=4000", ("4000", "smaller batch")),
    Case("train", "{d}/folder --tier smoke --out {d}/folder/out", ("--out", "inside the dataset", "Write elsewhere")),
    Case("train", "{d}/folder --tier smoke --out {d}/archive.zip", ("archive.zip", "is a file", "Give a folder")),
    Case("train", "{d}/folder --tier smoke --out {d}/letters",
         ("letters", "holds something else already", "another folder")),
    Case("train", "{d}/folder --tier smoke --out {d}/archive.zip/out", ("archive.zip", "cannot be written")),
    Case("train", "", ("usage", "FOLDER")),
]
REPRODUCE = [
    Case("reproduce", "--only fig99", ("fig99", "no notebook starts with")),
    Case("reproduce", "--skip nothing", ("nothing", "no notebook starts with")),
    Case("reproduce", "--data market", ("--data market", "NAME=FOLDER")),
    Case("reproduce", "--data market={d}/no_such_folder", ("no_such_folder", "is not a folder")),
    Case("reproduce", "--data markt={d}/good", ("markt", "there are")),
    Case("reproduce", "--tier smoke --only fig1 --data market={d}/empty_folder", ("empty_folder", "no known dataset")),
    Case("reproduce", "--tier smoke --only table5 --data market={d}/good",
         ("--data market", "no notebook", "Leave --only out")),
    Case("reproduce", "--workers 0 --dry-run", ("--workers 0", "1 or more")),
    Case("reproduce", "--tier huge", ("--tier", "invalid choice")),
]

GENERATE = [
    Case("generate", "swap {d}/whole.png {d}/no_such.jpg " + MODEL + " --out {t}/o.png",
         ("no_such.jpg", "no such file", "Check the name")),
    Case("generate", "swap {d}/whole.png {d}/flat " + MODEL + " --out {t}/o.png", ("flat", "a folder, not a photo")),
    Case("generate", "swap {d}/words.jpg {d}/whole.png " + MODEL + " --out {t}/o.png",
         ("words.jpg", "not a readable image", "Replace or delete")),
    Case("generate", "swap {d}/cut.png {d}/whole.png " + MODEL + " --out {t}/o.png",
         ("cut.png", "not a readable image", "Replace or delete")),
    Case("generate", "swap {d}/empty.jpg {d}/whole.png " + MODEL + " --out {t}/o.png",
         ("empty.jpg", "not a readable image")),
    Case("generate", SWAP + "--model {m}/none.safetensors --out {t}/o.png",
         ("none.safetensors", "no such file", "Train a model")),
    Case("generate", SWAP + "--model {m} --out {t}/o.png", ("models", "a folder, not a model")),
    Case("generate", SWAP + "--model {m}/cut.safetensors --out {t}/o.png",
         ("cut.safetensors", "not a readable safetensors file", "Copy or save it again")),
    Case("generate", SWAP + "--model {m}/garbage.safetensors --out {t}/o.png",
         ("garbage.safetensors", "not a readable safetensors file")),
    Case("generate", SWAP + "--model {m}/empty.safetensors --out {t}/o.png",
         ("empty.safetensors", "not a readable safetensors file")),
    Case("generate", SWAP + "--model {m}/text.safetensors --out {t}/o.png",
         ("text.safetensors", "not a readable safetensors file")),
    Case("generate", SWAP + "--model {m}/stranger.safetensors --out {t}/o.png",
         ("stranger.safetensors", "not a DGNet model")),
    Case("generate", SWAP + "--model {m}/damaged.safetensors --out {t}/o.png",
         ("damaged.safetensors", "so it is damaged", "Copy or save it again")),
    Case("generate", SWAP + "--model {m}/newer.safetensors --out {t}/o.png",
         ("newer.safetensors", "flux_capacitor", "that version")),
    Case("generate", SWAP + "--model {m}/headless.safetensors --out {t}/o.png",
         ("headless.safetensors", "its header lacks sha256", "DGNet.save")),
    Case("generate", SWAP + "--model {m}/official.pt --out {t}/o.png", ("official.pt", "a pickle", "load_official")),
    Case("generate", SWAP + "--model {m}/malice.pt --out {t}/o.png", ("malice.pt", "a pickle")),
    Case("generate", SWAP + "--model {m}/malice.safetensors --out {t}/o.png", ("malice.safetensors", "a pickle")),
    Case("generate", "swap {d}/whole.png {d}/whole.png --out {t}/o.png", ("no model", "--model FILE")),
    Case("generate", SWAP + MODEL + " --out {d}/whole.png --force",
         ("whole.png", "stay as they are", "Write elsewhere")),
    Case("generate", SWAP + MODEL + " --out {d}/archive.zip", ("archive.zip", "give a file that ends in .png")),
    Case("generate", SWAP + MODEL + " --out {d}/flat/one.jpg", ("one.jpg", "is there already", "--force")),
    Case("generate", SWAP + MODEL + " --out {d}/nowhere/o.png", ("nowhere", "there is no folder", "Make it first")),
    Case("generate", SWAP + MODEL + " --size 3x3", ("3x3", "HEIGHTxWIDTH")),
    Case("generate", "grid --appearance {d}/letters --structure {d}/whole.png " + MODEL + " --out {t}/o.png",
         ("letters", "no photo in this folder")),
    Case("generate", "interpolate {d}/whole.png {d}/whole.png --steps 1 " + MODEL, ("--steps", "from 2 to 240")),
    Case("generate", "interpolate {d}/whole.png {d}/whole.png --of colour " + MODEL, ("--of", "invalid choice")),
    Case("generate", "set {d}/empty_folder --pairs 3 --out {t}/set " + MODEL, ("empty_folder", "an empty folder")),
    Case("generate", "set {d}/letters --pairs 3 --out {t}/set " + MODEL, ("letters", "no known dataset")),
    Case("generate", "set {d}/broken --pairs 3 --out {t}/set " + MODEL, ("broken", "cannot be read", "--skip-broken")),
    Case("generate", "set {d}/folder --pairs 0 --out {t}/set " + MODEL, ("--pairs", "from 1")),
    Case("generate", "set {d}/folder --pairs 99999 --out {t}/set " + MODEL, ("99,999", "Ask for fewer")),
    Case("generate", "set {d}/folder --pairs 3 --out {d}/folder/set " + MODEL,
         ("--out", "stays as it is", "Write elsewhere")),
    Case("generate", "set {d}/folder --pairs 3 --out {d}/letters " + MODEL,
         ("letters", "holds other things", "new folder")),
    Case("generate", "set {d}/folder --pairs 3 --seed -1 --out {t}/set " + MODEL, ("--seed", "from 0")),
    Case("generate", "", ("usage", "required")),
]
RANK = [
    Case("rank", "{d}/no_such.jpg --gallery {d}/good " + MODEL, ("no_such.jpg", "no such photo", "Check the path")),
    Case("rank", "{d}/words.jpg --gallery {d}/good " + MODEL,
         ("words.jpg", "not a readable image", "Replace or delete")),
    Case("rank", "{d}/flat --gallery {d}/good " + MODEL, ("flat", "a folder, where a query photo is expected")),
    Case("rank", "{d}/whole.png --gallery {d}/none " + MODEL, ("none", "no such folder")),
    Case("rank", "{d}/whole.png --gallery {d}/letters " + MODEL, ("letters",)),
    Case("rank", "{d}/whole.png --gallery {d}/empty_folder " + MODEL, ("empty_folder",)),
    Case("rank", "{d}/whole.png --gallery {d}/broken " + MODEL, ("cannot be read", "--skip-broken")),
    Case("rank", "{d}/whole.png --gallery {d}/good --model {m}/cut.safetensors",
         ("cut.safetensors", "Copy or save it again")),
    Case("rank", "{d}/whole.png --gallery {d}/good --model {m}/malice.pt", ("malice.pt",)),
    Case("rank", "{d}/whole.png --gallery {d}/good --model {m}/none.safetensors", ("none.safetensors", "no such file")),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --top 0", ("--top 0", "at least one")),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --id 0", ("--id 0", "numbered from 1")),
    Case("rank", "{d}/whole.png --gallery {d}/flat " + MODEL + " --id 3", ("--id 3", "no labels", "Leave it out")),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --maps", ("--maps", "--out")),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --maps=heat --out {t}/o.png",
         ("--maps heat", "activation")),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --out {d}/whole.png", ("whole.png",)),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --out {d}/nowhere/o.png", ("nowhere",)),
    Case("rank", "{d}/whole.png --gallery {d}/good " + MODEL + " --csv {d}/good/list.csv", ("list.csv", "dataset")),
    Case("rank", "{d}/whole.png --gallery {d}/good", ("no model", "--model FILE")),
]


class Malice:
    "Unpickling it writes a file: code in a checkpoint."
    def __init__(self, target): self.target = target
    def __reduce__(self): return (Path.touch, (Path(self.target),))


def photo(path: Path, size=(32, 64), noise=60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, noise).convert("RGB").save(path)
    return path


def csvs(folder: Path) -> None:
    for n in "abcd": photo(folder / f"{n}.jpg")
    def say(name, text, encoding="utf-8"): (folder / name).write_text(text, encoding=encoding)
    say("empty.csv", "")
    say("no_id.csv", "path,camera,split\na.jpg,1,train\n")
    say("header_only.csv", "path,id,camera,split\n")
    say("bad_split.csv", "path,id,camera,split\na.jpg,1,1,tarin\nb.jpg,2,1,train\n")
    say("bad_camera.csv", "path,id,camera,split\na.jpg,1,left,train\nb.jpg,2,1,train\n")
    say("no_photo.csv", "path,id,camera,split\na.jpg,1,1,train\ngone.jpg,2,1,train\n")
    say("twice.csv", "path,id,camera,split\na.jpg,1,1,train\na.jpg,2,1,train\n")
    say("latin1.csv", "path,id,camera,split\na.jpg,Jörg,1,train\nb.jpg,2,1,train\n", "latin-1")
    say("ragged.csv", "path,id,camera,split\na.jpg,1,1,train,more,and more\nb.jpg,2,1,train\n")
    say("no_train.csv", "path,id,camera,split\na.jpg,1,1,query\nb.jpg,1,2,gallery\n")


def checkpoints(folder: Path, model: Path) -> None:
    folder.mkdir()
    whole = model.read_bytes()
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "cut.safetensors").write_bytes(whole[:len(whole) // 2])
    (folder / "garbage.safetensors").write_bytes(os.urandom(999))
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("a model, honestly")
    save_file({"w": torch.zeros(3)}, folder / "stranger.safetensors")
    damaged = bytearray(whole)
    damaged[-5] ^= 255
    (folder / "damaged.safetensors").write_bytes(damaged)
    n, = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8:8 + n])
    facts = json.loads(header["__metadata__"]["dgnet"])
    facts["config"]["flux_capacitor"] = 1
    save_file(load_file(model), folder / "newer.safetensors", {"dgnet": json.dumps(facts)})
    torch.save({"a": torch.zeros(3)}, folder / "official.pt")
    del facts["sha256"]
    save_file(load_file(model), folder / "headless.safetensors", {"dgnet": json.dumps(facts)})
    (folder / "malice.pt").write_bytes(pickle.dumps(Malice(folder / "it ran")))
    (folder / "malice.safetensors").write_bytes(pickle.dumps(Malice(folder / "it ran")))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder of bad things beside a few good ones."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.synthetic import write_domain
    d = tmp_path_factory.mktemp("bad things")
    shutil.move(write_domain("market", d / "worlds", n_train_ids=4, n_test_ids=2, n_val_ids=2, images_per_id=4,
                             test_images_per_id=4, height=64, width=32), d / "good")
    # photos of somebody, not a rendered world
    for f in ("factors.csv", "joints.csv", "synthetic.json"):
        (d / "good" / f).unlink(missing_ok=True)
    (d / "empty_folder").mkdir()
    (d / "letters").mkdir()
    (d / "letters" / "letter.txt").write_text("dear all")
    (d / "archive.zip").write_bytes(b"PK\3\4 and so on")
    shutil.copytree(d / "good" / "bounding_box_train", d / "half_market" / "bounding_box_train")
    for k in "ab": shutil.copytree(d / "good", d / "two_sets" / k)
    (d / "lists" / "train").mkdir(parents=True)
    (d / "lists" / "test").mkdir()
    for n in ("train", "query", "gallery"):
        (d / "lists" / f"list_{n}.txt").write_text("0000/0000_000_01_0303morning_0015_0.jpg 0\n")
    for f in ("bounding_box_train", "query", "bounding_box_test"):
        photo(d / "strange_names" / f / "holiday.jpg")
    for n in range(3): photo(d / "one_person" / "me" / f"{n}.png")
    for p in ("me", "you"):
        for n in range(3): photo(d / "two_people" / p / f"{n}.png")
    for f in ("folder", "broken"):
        for p in range(6):
            for n in range(3): photo(d / f / f"person {p}" / f"{n}.png")
    whole = photo(d / "whole.png").read_bytes()
    (d / "broken" / "person 1" / "cut.png").write_bytes(whole[:len(whole) // 2])
    (d / "broken" / "person 2" / "words.png").write_text("no photo at all")
    (d / "broken" / "person 2" / "empty.png").write_bytes(b"")
    for p in ("a", "b", "c"):
        (d / "all_broken" / p).mkdir(parents=True)
        for n in range(3): (d / "all_broken" / p / f"{n}.png").write_bytes(b"nothing")
    (d / "csv").mkdir()
    csvs(d / "csv")
    (d / "words.jpg").write_text("no photo at all")
    (d / "cut.png").write_bytes(whole[:len(whole) // 2])
    (d / "empty.jpg").write_bytes(b"")
    (d / "flat").mkdir()
    photo(d / "flat" / "one.jpg")
    photo(d / "flat" / "two.jpg")
    torch.manual_seed(0)
    checkpoints(d / "models", DGNet(make_config("smoke"), 4).eval().save(d / "model.safetensors"))
    return d


def state(d: Path) -> dict:
    return ({p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(d.rglob("*")) if p.is_file()}
            | {p: None for p in d.rglob("*") if p.is_dir()})


def command(name: str):
    from dgnet.check import data_cli
    from dgnet.generated_set import generate_cli
    from dgnet.reproduce import reproduce_cli
    from dgnet.search import rank_cli
    from dgnet.train_own import train_cli
    return {"data": data_cli, "train": train_cli, "reproduce": reproduce_cli, "generate": generate_cli,
            "rank": rank_cli}[name]


def arguments(case: Case, place: Path) -> list:
    return [a.replace("~", " ").replace("{t}", ".").replace("{d}", str(place)).replace("{m}", str(place / "models"))
            for a in case.args.split()]

CORPUS = DATA + CSVS + TRAIN + GENERATE + RANK + REPRODUCE


def test_there_are_enough_and_each_is_another():
    assert len(CORPUS) >= 60 and len({(c.command, c.args) for c in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("case", CORPUS, ids=lambda c: f"{c.command} {c.args}"[:90])
def test_a_bad_input_gets_one_message_and_changes_nothing(place, case, capsys, monkeypatch, tmp_path):
    for module in ("train_own", "runs"): monkeypatch.setattr(f"dgnet.{module}.LOCAL", tmp_path / "local")
    monkeypatch.setattr("dgnet.model.WEIGHTS", tmp_path / "weights")   # a package that came without models
    monkeypatch.chdir(tmp_path)
    before = state(place)
    try:
        code = command(case.command)(arguments(case, place))
    except SystemExit as e:
        code = e.code
    message = capsys.readouterr().err
    assert code not in (0, None), "an exit code that is not 0"
    for words in case.says:
        assert words.replace("{d}", str(place)) in message, f"{words!r} is missing in: {message}"
    one_line = len(message.strip().splitlines()) == 1
    assert "Traceback" not in message and ("usage:" in message or one_line), f"one message: {message}"
    assert "usage:" in message or message.startswith(f"dgnet_{case.command}: ")
    assert state(place) == before, "nothing on disk has changed"
    created = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not created, f"and nothing was made: {created}"


def test_no_code_of_a_checkpoint_ran(place): assert not (place / "models" / "it ran").exists()


@pytest.mark.parametrize("case", [DATA[0], CSVS[5], TRAIN[6], GENERATE[0], RANK[0]], ids=lambda c: c.command)
def test_as_a_process_too(place, case):
    module, function = {"data": ("check", "data_cli"), "train": ("train_own", "train_cli"),
                        "generate": ("generated_set", "generate_cli"), "rank": ("search", "rank_cli")}[case.command]
    program = f"import sys; from dgnet.{module} import {function}; sys.exit({function}())"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", program, *arguments(case, place)]
    p = subprocess.run(command, env=env, capture_output=True, text=True)
    assert p.returncode not in (0, None) and "Traceback" not in p.stderr and all(w in p.stderr for w in case.says)
