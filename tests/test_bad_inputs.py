"""The corpus of bad inputs: files, folders, CSVs, checkpoints, arguments. Each gets one message that names the file or argument and a remedy, an exit code that is not 0, no traceback; and nothing on disk changes."""
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
    Case("data", "check", ("usage", "FOLDER")),
    Case("data", "check {d}/half_market", ("half_market", "query", "Unpack")),
    Case("data", "check {d}/two_sets", ("two_sets", "holds 2 datasets", "name one of these folders")),
    Case("data", "check {d}/lists", ("lists", "not on disk")),
    Case("data", "check {d}/strange_names", ("strange_names", "no file name starts like", "0002_c1")),
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
    Case("train", "{d}/folder --tier smoke --set lr_id=NaN", ("lr_id=nan", "0 or more")),
    Case("train", "{d}/folder --tier smoke --set height=63", ("height=63", "multiple of 2")),
    Case("train", "{d}/folder --tier smoke --set warm_up=3", ("warm_up=3", "from 0 to 1")),
    Case("train", "{d}/folder --tier smoke --set adv=wgan", ("adv=", "lsgan, log")),
    Case("train", "{d}/folder --tier smoke --set iterations=3", ("iterations=3", "no such field")),
    Case("train", "{d}/folder --tier smoke --set tier=full", ("tier=full", "an option of its own")),
    Case("train", "{d}/folder --tier smoke --set batch=4000", ("4000", "smaller batch")),
    Case("train", "{d}/folder --tier smoke --out {d}/folder/out", ("--out", "inside the dataset", "Write elsewhere")),
    Case("train", "{d}/folder --tier smoke --out {d}/archive.zip", ("archive.zip", "is a file", "Give a folder")),
    Case("train", "{d}/folder --tier smoke --out {d}/letters", ("letters", "holds something else already", "another folder")),
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
    Case("reproduce", "--workers 0 --dry-run", ("--workers 0", "1 or more")),
    Case("reproduce", "--tier huge", ("--tier", "invalid choice")),
]
