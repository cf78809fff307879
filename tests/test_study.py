"""The study's sentences are computed from its rows, and the README says the same."""
import json
import re
from pathlib import Path

import numpy as np
import pytest

from dgnet import study

ROOT = Path(__file__).resolve().parent.parent
CELL = study.ONE_CAMERA["duke"]


def row(cell: tuple, arm: str, label: str, seed: int, ap: list) -> dict:
    trial = study.Trial(*cell, arm, label, seed)
    return {str(trial): trial._asdict() | {"key": str(trial), "mAP": float(np.mean(ap)) / 10, "ap": ap}}


def rows(lift: float, worlds=study.WORLDS_ASKED, seeds=(0, 1, 2), people: int = 40) -> dict:
    "Controls and DG-Net with a gain of `lift` points for each person, seeds 0.3 points apart."
    rng, made = np.random.default_rng(0), {}
    for world in worlds:
        for seed in seeds:
            control = (600 + 3 * seed + rng.normal(0, 40, people)).round()
            better = (control + 10 * lift + rng.normal(0, 5, people)).round()
            cell = study.ONE_CAMERA[world]
            made |= row(cell, "control", "", seed, control.astype(int).tolist())
            made |= row(cell, "DG-Net", study.RIGHT, seed, better.astype(int).tolist())
    return made


def test_gain_is_the_mean_over_people_of_the_seeds_that_have_both():
    made = rows(2.0)
    gain = study.gain_of(made, CELL, ("DG-Net", study.RIGHT))
    control = np.mean([r["ap"] for r in made.values() if r["world"] == "duke" and r["arm"] == "control"])
    ours = np.mean([r["ap"] for r in made.values() if r["world"] == "duke" and r["arm"] == "DG-Net"])
    assert gain.value == pytest.approx((ours - control) / 10) and gain.low < gain.value < gain.high
    one = {k: r for k, r in made.items() if r["seed"] == 0}
    assert study.gain_of(one, CELL, ("DG-Net", study.RIGHT)) is None, "one seed is no finding"


def test_noise_is_the_pooled_standard_deviation_over_seeds():
    made = row(CELL, "control", "", 0, [500] * 4) | row(CELL, "control", "", 1, [520] * 4)
    made |= row(CELL, "DG-Net", "teacher", 0, [500] * 4) | row(CELL, "DG-Net", "teacher", 1, [540] * 4)
    sd, freedom = study.seed_noise(made)
    assert freedom == 2 and sd == pytest.approx(np.sqrt((2 * 1.0**2 + 2 * 2.0**2) / 2))


@pytest.mark.parametrize("lift, worlds, words", [
    (2.0, ("duke", "market"), "Yes, where photos are few and of one camera"), (2.0, ("duke",), "On one domain"),
    (0.0, ("duke", "market"), "No difference can be seen"), (-2.0, ("duke", "market"), "No, it harms")])
def test_the_answer_follows_the_intervals(lift, worlds, words):
    first, *_ = study.findings(rows(lift, worlds))
    assert words in first
    assert first.count("not measured yet") == 2 - len(worlds)


def test_sentences_say_what_was_not_measured():
    assert all("ot measured yet" in sentence for sentence in study.findings({}))


def test_readme_says_what_the_rows_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- study -->\n(.*?)\n<!-- /study -->", text, re.S)[1]
    wanted = "\n".join(f"{n}. {s}" for n, s in enumerate(study.findings(study.read_trials()), start=1))
    assert block == wanted, f"put this between the two marks of README.md:\n{wanted}"


def test_stored_rows_are_of_this_code():
    planned = {study.trial_key(t) for block in study.STUDY_BLOCKS for t in block.trials}
    stored = study.read_trials()
    assert stored and set(stored) <= planned, "rows that no block asks for"
    for r in stored.values():
        assert r["mAP"] == pytest.approx(np.mean(r["ap"]) / 10, abs=0.5), "people count equally in `ap`"
        assert json.dumps(r) and 0 < r["mAP"] <= 100
