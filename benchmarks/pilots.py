"""Pilots: what makes swaps sharper, and what does not. E_s, G and D are trained from nothing for equal processor time,
beside a frozen E_a, and judged on people they have never seen.

    python benchmarks/pilots.py --list
    python benchmarks/pilots.py --only base image20 --minutes 4

The second adds rows to figures/pilots.csv, which the notebook study_pilots reads.
"""
import argparse
import csv
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from dgnet.config import make_config
from dgnet.core import FIGURES, device_name, keep_freed_memory
from dgnet.datasets import relabel
from dgnet.quality import generate_all, sharpness, swap_report
from dgnet.runs import get_run, load_split
from dgnet.samples import true_swaps
from dgnet.schedule import loss_weights
from dgnet.train import TrainState, batch_to, code_losses, d_losses, decode_batch, draw_batch, image_losses, update

OLD = dict(lam_img=5.0, lam_code1=5.0, grey_mix=0.0, batch=8)   # mini before the pilots, but for its widths
PILOTS = {   # name: (tier, what is changed from the tier as it is now, in words, fields)
    "base": ("mini", "λ_img 5, λ_code1 5, plain grey, 8 + 8 photos", OLD),
    "code1": ("mini", "λ_code1 1", OLD | dict(lam_code1=1.0)),
    "code20": ("mini", "λ_code1 20", OLD | dict(lam_code1=20.0)),
    "no_code2": ("mini", "without L^code2", OLD | dict(lam_code2=0.0)),
    "slow": ("mini", "half the learning rate", OLD | dict(lr_gen=5e-4)),
    "fast": ("mini", "four times the learning rate", OLD | dict(lr_gen=4e-3)),
    "mix1": ("mini", "grey_mix 1", OLD | dict(grey_mix=1.0)),
    "mix2": ("mini", "grey_mix 2", OLD | dict(grey_mix=2.0)),
    "only_img": ("mini", "image losses alone", OLD | dict(lam_id=0.0, lam_adv=0.0, lam_code1=0.0, lam_code2=0.0)),
    "img20": ("mini", "λ_img 20", OLD | dict(lam_img=20.0)),
    "img20_b4": ("mini", "λ_img 20, 4 + 4 photos", OLD | dict(lam_img=20.0, batch=4)),
    "img20_b4_mix2": ("mini", "λ_img 20, 4 + 4 photos, grey_mix 2", OLD | dict(lam_img=20.0, batch=4, grey_mix=2.0)),
    "img20_b4_mix2_code1": ("mini", "λ_img 20, 4 + 4 photos, grey_mix 2, λ_code1 1",
                            OLD | dict(lam_img=20.0, batch=4, grey_mix=2.0, lam_code1=1.0)),
    "img50_b4_mix2": ("mini", "λ_img 50, 4 + 4 photos, grey_mix 2", OLD | dict(lam_img=50.0, batch=4, grey_mix=2.0)),
    "large_1": ("midi", "128 × 64, one halving", dict(n_down=1)),
    "large_2": ("midi", "128 × 64, two halvings", dict(n_down=2)),
    "large_2_wide": ("midi", "128 × 64, two halvings, twice as wide", dict(n_down=2, es_width=16)),
}
# photos cost nothing here: whatever is to draw unseen people should see many
CROWD = dict(people=1200, shots=4, cameras=2)
COLUMNS = ("pilot", "tier", "changed", "minutes", "iterations", "weights", "swap / copy", "brightness", "colour", "own",
           "image", "sharpness", "seed", "device", "date")


def frozen_encoder(tier: str, seed: int):
    "A run without generated images on the crowd: its E_a tells the people apart, and stays as it is."
    return get_run(tier, "market", generate=False, n_iter=800, g_init="random", seed=seed, **CROWD)


def pilot_step(state: TrainState, images, labels, w: dict[str, float]) -> None:
    "D's step, then that of E_s and G, as in `train.train_step`, but E_a learns nothing."
    cfg, model, opt = state.cfg, state.model, state.optimisers
    batch = batch_to(draw_batch(images, labels, state.sampler, state.rng, cfg), state.device)
    again = bool(torch.rand((), generator=state.rng) < cfg.encoder_again)
    with torch.autocast("cpu", torch.bfloat16) if cfg.precision == "bfloat16" else nullcontext():
        decoded = decode_batch(model, batch, cfg)
        update(d_losses(model, batch, decoded, cfg), None, opt.dis)
        losses, swap_codes = image_losses(model, batch, decoded, cfg)
        losses |= code_losses(model, batch, decoded, swap_codes, again, cfg)
        update(losses, w, opt.gen)
    state.it += 1


class Average:
    "An exponential average of E_s and G: what is judged beside the weights themselves."
    def __init__(self, model, half_life: int = 70):
        self.half_life, self.n = half_life, 0
        self.weights = {k: v.clone() for k, v in model.generator_state().items()}

    def update(self, model) -> None:
        self.n += 1
        d = 0.5 ** (1 / min(self.half_life, max(1, self.n / 4)))
        for k, v in model.generator_state().items(): self.weights[k].lerp_(v, 1 - d)


def judge(model, swaps) -> dict:
    "The metrics of a generator on unseen pairs."
    report, truth = swap_report(model.generate, swaps), swaps.truth / 255
    drawn = generate_all(model.generate, swaps.x_i, swaps.x_j)
    def part(name): return float(getattr(report.swap, name).mean() / getattr(report.copy, name).mean())
    return {"swap / copy": report.ratio.value, "brightness": part("grey"), "colour": part("hue"),
            "own": float(report.own.person.mean()), "image": float(report.swap.image.mean()),
            "sharpness": sharpness(drawn, swaps.person) / sharpness(truth, swaps.person)}


def run_pilot(name: str, minutes: float, seed: int) -> list[dict]:
    "Train for so many minutes of processor time, and judge: the weights, and their average."
    tier, words, changes = PILOTS[name]
    known = frozen_encoder(tier, seed)
    cfg = make_config(tier, "market", **{**CROWD, "ea_init": "random", "g_init": "random", "seed": seed, **changes})
    train = known.data.train
    images, labels = load_split(train, cfg), torch.from_numpy(relabel(train.ids))
    state = TrainState(cfg, known.data.n_ids, labels)
    state.model.E_a.load_state_dict(known.model.E_a.state_dict())
    state.model.E_a.eval()
    average = Average(state.model)
    w, swaps = loss_weights(0, cfg), true_swaps(known)
    began, budget = time.process_time(), 60 * minutes
    while (used := (time.process_time() - began) / budget) < 1:
        factor = next(f for share, f in ((0.8, 1.0), (0.95, 0.1), (1.0, 0.03)) if used < share)
        for optimiser in state.optimisers[1:]:
            for group in optimiser.param_groups:
                group["lr"] = cfg.lr_gen * factor
        pilot_step(state, images, labels, w)
        average.update(state.model)
    facts = {"pilot": name, "tier": tier, "changed": words, "minutes": minutes, "iterations": state.it, "seed": seed,
             "device": device_name(state.device), "date": time.strftime("%Y-%m-%d")}
    rows = [facts | {"weights": "as they are"} | judge(state.model, swaps)]
    state.model.load_generator(average.weights)
    return [*rows, facts | {"weights": "averaged"} | judge(state.model, swaps)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PILOTS, default=list(PILOTS))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FIGURES / "pilots.csv")
    parser.add_argument("--list", action="store_true")
    a = parser.parse_args()
    if a.list:
        return print(*(f"{k:22s} {tier:5s} {words}" for k, (tier, words, _) in PILOTS.items()), sep="\n")
    torch.set_num_threads(1)
    keep_freed_memory()
    a.out.parent.mkdir(parents=True, exist_ok=True)   # before the hours, not after
    for name in a.only:
        rows, new = run_pilot(name, a.minutes, a.seed), not a.out.exists()
        with a.out.open("a", newline="", encoding="utf-8") as f:
            out = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            if new: out.writeheader()
            out.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in rows)
        print(name, {k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)


if __name__ == "__main__": main()
