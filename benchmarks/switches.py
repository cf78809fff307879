"""What is each change to the method worth? mini began with eight; each is set back to the official value alone, some
together, and all of them, judged on validation people: re-identification and swaps.

    python benchmarks/switches.py --list
    python benchmarks/switches.py --only eight three --seeds 0 1

The second adds rows to figures/switches.csv, which the notebook study_pilots reads.
"""
import argparse
import csv
import time
from pathlib import Path

import torch

from dgnet.core import FIGURES, default_device, device_name, keep_freed_memory
from dgnet.quality import generate_all, sharpness, swap_report
from dgnet.runs import evaluate, get_run
from dgnet.samples import true_swaps

BEGAN = dict(lam_cyc=0.0, code_ramped=False, fine_ramped=False)   # what mini began with, and has set back since
BACK = {   # name: (in words, what is set back)
    "alpha": ("α = 0.2: L_fine", dict(alpha=0.2)),
    "code1": ("L^code1 teaches the makers through a copy without gradient (D2)", dict(code1_live=False)),
    "code_ramped": ("L^code starts with the warm-up (D6)", dict(code_ramped=True)),
    "cyc": ("the cycle's reconstruction (D3)", dict(lam_cyc=2.0)),
    "fine_ramped": ("the fine head starts with the warm-up (D12)", dict(fine_ramped=True)),
    "teacher_train": ("the teacher labels in training mode (D9)", dict(teacher_train=True)),
    "grey": ("E_s sees the mean of the three colours", dict(grey_mix=0.0)),
    "img": ("λ_img = 5", dict(lam_img=5.0)),
}


def together(*names: str) -> dict:
    "Several of them at once."
    return {k: v for name in names for k, v in BACK[name][1].items()}


THREE = together("cyc", "code_ramped", "fine_ramped")
SWITCHES = {
    "eight": ("the eight changes that mini began with", {}), **BACK,
    "three": ("D3, D6 and D12 as the official code has them: mini today", THREE),
    "four": ("D3, D6, D9 and D12 as the official code has them", THREE | together("teacher_train")),
    "official": ("all of them: the official recipe", together(*BACK)),
}
COLUMNS = ("switch", "changed", "seed", "mAP", "R@1", "swap / copy", "low", "high", "self / copy", "sharpness",
           "minutes", "device", "date")


def run_switch(name: str, seed: int, dataset: str = "duke") -> dict:
    """One DG-Net at mini: mAP and rank-1 in per cent (both features), swap error over copying, sharpness over the
    truth's; all on validation people."""
    words, changes = SWITCHES[name]
    run = get_run("mini", dataset, seed=seed, **BEGAN | changes)
    data = run.data
    metrics = evaluate(run.model.E_a, data.val_query, data.val_gallery, run.config)["both"]
    swaps = true_swaps(run._replace(data=data._replace(gallery=data.val_gallery)))
    report, truth = swap_report(run.model.generate, swaps), swaps.truth / 255
    drawn = generate_all(run.model.generate, swaps.x_i, swaps.x_j)
    sharp = sharpness(drawn, swaps.person) / sharpness(truth, swaps.person)
    return {"switch": name, "changed": words, "seed": seed, "mAP": 100 * metrics.mAP, "R@1": 100 * metrics.rank1,
            "swap / copy": report.ratio.value, "low": report.ratio.low, "high": report.ratio.high,
            "self / copy": float(report.own.person.mean() / report.copy.person.mean()), "sharpness": float(sharp),
            "minutes": run.provenance["seconds"] / 60, "device": device_name(default_device()),
            "date": time.strftime("%Y-%m-%d")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=FIGURES / "switches.csv")
    parser.add_argument("--list", action="store_true")
    a = parser.parse_args()
    if a.list: return print(*(f"{k:14s} {words}" for k, (words, _) in SWITCHES.items()), sep="\n")
    torch.set_num_threads(1)
    keep_freed_memory()
    a.out.parent.mkdir(parents=True, exist_ok=True)   # before the hours, not after
    for seed in a.seeds:
        for name in a.only:
            row, new = run_switch(name, seed), not a.out.exists()
            with a.out.open("a", newline="", encoding="utf-8") as f:
                out = csv.DictWriter(f, COLUMNS, lineterminator="\n")
                if new: out.writeheader()
                out.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__": main()
