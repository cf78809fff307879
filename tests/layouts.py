"""One small rendered world in every layout that can be read; shared by the tests of the commands. No test itself."""

import csv
import shutil
from pathlib import Path

from dgnet.datasets import ReidData, load_dataset
from dgnet.synthetic import write_domain

SIZES = dict(n_train_ids=8, n_test_ids=4, n_val_ids=2, images_per_id=4, test_images_per_id=4, seed=0)


def copied(photo: Path, folder: Path, name: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(photo, folder / (name or photo.name))


def tree(data: ReidData, root: Path) -> Path:
    """The tree `pytorch/` that the official code prepares: a folder per person, the first photo of each training person
    once more in val."""
    for split, folder in (("train", "train_all"), ("query", "query"), ("gallery", "gallery"),
                          ("multi_query", "multi-query")):
        if s := getattr(data, split):
            for p in s.paths: copied(p, root / folder / p.name.split("_")[0])
    for person in (root / "train_all").iterdir():
        for k, p in enumerate(sorted(person.iterdir())):
            copied(p, root / ("train" if k else "val") / person.name)
    return root


def people(data: ReidData, root: Path) -> Path:
    "The training people, a folder each, in file names that tell nothing."
    for p, i in zip(data.train.paths, data.train.ids):
        folder = root / f"Person {i:02d} ü"
        copied(p, folder, f"pose {len(list(folder.glob('*')))}.jpg")
    return root


def table(data: ReidData, file: Path) -> Path:
    "All splits in a CSV, columns and rows in an order of their own."
    rows = [(s.name, int(i), p.relative_to(file.parent).as_posix(), int(c)) for s in data.splits for p, i,
            c in zip(s.paths, s.ids, s.cams)]
    with open(file, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("split", "id", "path", "camera"), *rows[::-1]])
    return file


def write_layouts(
    folder: Path,      # an empty one
    height: int = 64,  # pixels, as tier smoke has them
    width: int = 32,
) -> dict[str, Path]:
    """name → path of: market, duke, msmt17, cuhk03 (rendered), and Market's world once more as pytorch, folder and csv.
    8 people to learn, 4 photos each."""
    worlds = {name: write_domain(name, folder / "worlds", height=height, width=width, **SIZES)
              for name in ("market", "duke", "msmt17", "cuhk03")}
    data = load_dataset("market", worlds["market"])
    return {**worlds, "pytorch": tree(data, folder / "re-layout" / "pytorch"),
            "folder": people(data, folder / "my own photos"), "csv": table(data, folder / "photos.csv")}
