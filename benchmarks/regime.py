"""Whom should mini train on? What *perfect* pictures are worth to E_a, for several choices of people, photos, cameras,
learning rate and start: true swaps, labelled by the teacher and by the right name, against the control, on validation
people.

    python benchmarks/regime.py --list
    python benchmarks/regime.py --only mini slow --seed 0
    python benchmarks/regime.py --only one_camera_slower --own conditional --seed 0 1 2

The second adds rows to figures/regime.csv, which the notebook study_pilots reads; the third, with DG-Net's own swaps in
place of true ones, to figures/regime_own.csv.
"""
import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import torch

from dgnet.bound import draw_true_swaps
from dgnet.config import PER_DATASET, make_config
from dgnet.core import FIGURES, default_device, device_name, keep_freed_memory
from dgnet.datasets import relabel
from dgnet.loop import refresh_batch_norm
from dgnet.runs import evaluate, get_data, get_run, get_start, get_teacher, load_split
from dgnet.synthetic import read_factors
from dgnet.train import GeneratedBatch, TrainState, fit

# strangers of whom E_a cannot learn what a wall is: their backbone alone is asked for
ONE_CAMERA = dict(cameras=1, n_iter=2_500, teacher_iter=2_000, generate=False)
FEW = dict(people=400, n_iter=1_000, teacher_iter=1_200, generate=False)
REGIMES = {   # name: (in words, what is changed from mini, what is changed from mini's strangers)
    "mini": ("150 people, 3 photos, 2 cameras", {}, {}),
    "slow": ("E_a at half the rate", dict(lr_id=0.001), {}),
    "slower": ("E_a at a quarter of the rate", dict(lr_id=0.0005), {}),
    "slower_gentle": ("E_a at a quarter of the rate, the teacher at a tenth", dict(lr_id=0.0005, teacher_lr=0.002), {}),
    "one_camera": ("4 photos by one camera", dict(shots=4, cameras=1), {}),
    "one_camera_slower": ("4 photos by one camera, E_a at a quarter of the rate",
                          dict(shots=4, cameras=1, lr_id=0.0005), {}),
    "one_camera_gentle": ("4 photos by one camera, E_a at a quarter of the rate, the teacher at a tenth",
                          dict(shots=4, cameras=1, lr_id=0.0005, teacher_lr=0.002), {}),
    "one_camera_lowest": ("4 photos by one camera, E_a and the teacher at a tenth of the rate",
                          dict(shots=4, cameras=1, lr_id=0.0002, teacher_lr=0.002), {}),
    "few": ("50 people", dict(people=50), {}),
    "few_slower": ("50 people, E_a at a quarter of the rate", dict(people=50, lr_id=0.0005), {}),
    "start_one": ("strangers by one camera each", {}, ONE_CAMERA),
    "start_one_slow": ("strangers by one camera each, E_a at half the rate", dict(lr_id=0.001), ONE_CAMERA),
    "start_one_slower": ("strangers by one camera each, E_a at a quarter of the rate", dict(lr_id=0.0005), ONE_CAMERA),
    "start_one_crowd": ("strangers by one camera each, 600 people, E_a at half the rate, the teacher longer",
                        dict(lr_id=0.001, people=600, teacher_iter=1500), ONE_CAMERA),
    "start_few": ("400 strangers", {}, FEW),
    "start_few_slow": ("400 strangers, E_a at half the rate", dict(lr_id=0.001), FEW),
    "start_few_slower": ("400 strangers, E_a at a quarter of the rate", dict(lr_id=0.0005), FEW),
}
COLUMNS = ("regime", "changed", "seed", "photos", "teacher", "teacher R@1", "control", "true swaps", "worth",
           "true swaps, right name", "worth, right name", "device", "date")


def with_true_swaps(cfg, data, teacher):
    "E_a, fed from the warm-up on with true swaps in place of G's: four of every photo, drawn once."
    cfg, labels = replace(cfg, offline=True), torch.from_numpy(relabel(data.train.ids))
    images = load_split(data.train, cfg)
    swaps = draw_true_swaps(images, *read_factors(data.root).lookup(data.train.paths), cfg)
    state = TrainState(cfg, data.n_ids, labels, teacher.net.backbone, default_device(), maker=get_start(cfg).generator)
    fed = GeneratedBatch(swaps.truth, labels[swaps.i], labels[swaps.j])
    fit(state, teacher.net.train(cfg.teacher_train), images, labels, generated=fed)
    refresh_batch_norm(state.model.E_a, images, cfg)
    return state.model.eval().E_a


def run_regime(name: str, seed: int, dataset: str = "duke") -> dict:
    """Teacher, control and E_a with true swaps, labelled by the teacher and by the right name, in one regime: mAP in
    per cent, both features, validation people."""
    words, changes, strangers = REGIMES[name]
    usual = PER_DATASET["mini", "strangers"]
    PER_DATASET["mini", "strangers"] = usual | strangers
    try:
        cfg = make_config("mini", dataset, seed=seed, **changes)
        data = get_data(cfg)
        teacher = get_teacher(cfg, data)
        def mean_ap(net):
            return 100 * evaluate(net, data.val_query, data.val_gallery, cfg)["both"].mAP
        control = mean_ap(get_run("mini", dataset, generate=False, seed=seed, **changes).model.E_a)
        true, named = (mean_ap(with_true_swaps(replace(cfg, soft_label=label), data, teacher))
                       for label in ("teacher", "conditional"))
    finally:
        PER_DATASET["mini", "strangers"] = usual
    return {"regime": name, "changed": words, "seed": seed, "photos": data.train.n,
            "teacher": 100 * teacher.about["mAP"], "teacher R@1": 100 * teacher.about["rank1"], "control": control,
            "true swaps": true, "worth": true - control, "true swaps, right name": named,
            "worth, right name": named - control,
            "device": device_name(default_device()), "date": time.strftime("%Y-%m-%d")}


def run_own(name: str, seed: int, label: str, dataset: str = "duke") -> dict:
    """DG-Net, its swaps named by `label`, against the control of the same regime: mAP in per cent, both features,
    validation and test people."""
    words, changes, strangers = REGIMES[name]
    if strangers:
        raise ValueError(f"{name}: strangers of its own, who taught no generator. Choose a regime without")
    mean_ap = {}
    for method, more in (("control", {"generate": False}), ("DG-Net", {"soft_label": label})):
        run = get_run("mini", dataset, seed=seed, **changes, **more)
        for people, query, gallery in (("validation", run.data.val_query, run.data.val_gallery),
                                       ("test", run.data.query, run.data.gallery)):
            mean_ap[f"{method}, {people}"] = 100 * evaluate(run.model.E_a, query, gallery, run.config)["both"].mAP
    gains = {f"gain, {p}": mean_ap[f"DG-Net, {p}"] - mean_ap[f"control, {p}"] for p in ("validation", "test")}
    return {"regime": name, "changed": words, "seed": seed, "label": label, **mean_ap, **gains,
            "device": device_name(default_device()), "date": time.strftime("%Y-%m-%d")}


def add_row(row: dict, file: Path) -> None:
    "One more line of a table; its head first, where there is none."
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as f:
        out = csv.DictWriter(f, list(row), lineterminator="\n")
        if new: out.writeheader()
        out.writerow({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    print({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=REGIMES, default=list(REGIMES))
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--own", choices=("teacher", "conditional", "two_label"), help="DG-Net's own swaps, so named")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--out", type=Path, help="default: figures/regime.csv, or regime_own.csv")
    a = parser.parse_args()
    if a.list: return print(*(f"{k:12s} {words}" for k, (words, *_) in REGIMES.items()), sep="\n")
    torch.set_num_threads(1)
    keep_freed_memory()
    out = a.out or FIGURES / ("regime_own.csv" if a.own else "regime.csv")
    out.parent.mkdir(parents=True, exist_ok=True)   # before the hours, not after
    for name in a.only:
        for seed in a.seed:
            add_row(run_own(name, seed, a.own) if a.own else run_regime(name, seed), out)


if __name__ == "__main__": main()
