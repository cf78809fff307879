"""What a rebuilding must leave as it is, in one file.

Keys of runs, weights of smoke runs, rendered files, names in a state dict, the commands' help.

    python tests/gate.py gate.json            # everything, on one thread, in a folder of its own; two or three minutes
    python tests/gate.py gate.json --cheap    # without training and rendering: what tests/test_gate.py compares
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = {"dgnet_data": ["dgnet_data", "dgnet_data check", "dgnet_data card", "dgnet_data render"],
            "dgnet_generate": ["dgnet_generate", *(f"dgnet_generate {verb}" for verb in ("swap", "grid", "interpolate",
                                                                                         "set", "photos"))],
            "dgnet_rank": ["dgnet_rank"], "dgnet_train": ["dgnet_train"], "dgnet_reproduce": ["dgnet_reproduce"],
            "dgnet.parallel": ["dgnet.parallel", "dgnet.parallel run", "dgnet.parallel own", "dgnet.parallel set"]}


def digest(value) -> str:
    "SHA-256 of bytes, or of a value's canonical JSON."
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(raw).hexdigest()


def run_keys() -> dict:
    "The key of every run that a notebook asks for, at every tier, by both recipes, where bfloat16 is fast."
    from dgnet import config
    from dgnet.config import RECIPES, TIERS, make_config, run_key
    from dgnet.reproduce import NOTEBOOKS
    config.fast_bfloat16, keys = lambda device: True, {}   # "auto" means the same on every machine
    for plan in (plan for plan in NOTEBOOKS if not plan.extra):
        for tier in TIERS:
            for recipe in RECIPES:
                runs = [run_key(make_config(tier, dataset, recipe, **changes)) for dataset, changes in plan.runs]
                keys[f"{plan.stem} {tier} {recipe}"] = runs
    return keys


def state_names() -> dict:
    "Names and shapes of the whole network's weights, by tier and recipe."
    import torch
    from dgnet.config import RECIPES, TIERS, make_config
    from dgnet.model import DGNet
    shapes = {}
    for tier in TIERS:
        for recipe in RECIPES:
            with torch.device("meta"):
                model = DGNet(make_config(tier, "market", recipe), n_ids=5, start=False)
            state = {name: list(v.shape) for name, v in model.state_dict().items()}
            shapes[f"{tier} {recipe}"] = {"tensors": len(state), "sha256": digest(state)}
    return shapes


def configurations() -> dict:
    "Every field with its default, every tier's and recipe's changes, and what a teacher depends on."
    from dataclasses import asdict
    from dgnet.config import PER_DATASET, REAL, RECIPES, RUN_VERSION, TIERS, Config, make_config
    from dgnet.synthetic import RENDER_VERSION
    from dgnet.teacher import teacher_config
    from dgnet.loop import LOG_COLUMNS
    return {
        "defaults": asdict(Config()), "order": list(asdict(Config())), "tiers": TIERS, "recipes": RECIPES, "real": REAL,
        "per dataset": {" ".join(k): v for k, v in PER_DATASET.items()}, "versions": [RUN_VERSION, RENDER_VERSION],
        "teacher": {tier: teacher_config(make_config(tier)) for tier in TIERS}, "log": LOG_COLUMNS,
    }


def help_texts() -> dict:
    "What each command prints for --help."
    env, texts = os.environ | {"COLUMNS": "100"}, {}
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    scripts = dict(line.split("=") for line in settings["DEFAULT"]["console_scripts"].split())
    for command, calls in COMMANDS.items():
        for call in calls:
            words, start = call.split()[1:], ["-m", command]
            if command in scripts:
                module, function = scripts[command].split(":")
                start = ["-c", f"import sys; from {module} import {function} as command; sys.exit(command())"]
            program = [sys.executable, *start]
            done = subprocess.run([*program, *words, "--help"], capture_output=True, text=True, env=env)
            texts[call] = (done.stdout + done.stderr).splitlines()
    return texts


def folder_hash(root: Path) -> str:
    "SHA-256 over the names and bytes of all files below a folder."
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return digest([[p.relative_to(root).as_posix(), digest(p.read_bytes())] for p in files])


def weights_of(net) -> str:
    from dgnet.model import content_hash
    return content_hash(net.state_dict())


def log_of(run) -> str:
    "A run's log without its times."
    return digest(run.log.drop(columns="seconds").round(5).to_csv(index=False).encode())


def trained() -> dict:
    "Weights and logs of smoke runs of every kind, and the files of every rendered world."
    from dgnet.config import make_config
    from dgnet.core import arithmetic, default_device
    from dgnet.runs import get_bound, get_data, get_gan, get_run
    from dgnet.pedestrians import WORLDS
    made = {"arithmetic": arithmetic(default_device()), "worlds": {}, "weights": {}, "logs": {}}
    for world in WORLDS:
        data = get_data(make_config("smoke", world))
        made["worlds"][world] = {"sha256": folder_hash(data.root), "splits": {s.name: s.n for s in data.splits}}
    asked = {"official": {}, "paper": {"recipe": "paper"}, "offline": {"offline": True}, "control": {"generate": False},
             "official passes": {"merge_passes": False}, "bfloat16": {"precision": "bfloat16"},
             "losses apart": {"checkpointing": "losses"}, "checkpointed": {"checkpointing": True},
             "duke conditional": {"dataset": "duke", "soft_label": "conditional"}, "rendered": {"ea_init": "rendered",
                                                                                                "g_init": "rendered"}}
    for name, changes in asked.items():
        run = get_run("smoke", **changes)
        made["weights"][name], made["logs"][name] = weights_of(run.model), log_of(run)
        made["weights"][f"{name}, teacher"] = weights_of(run.teacher)
    for kind in ("lsgan", "pose"):
        made["weights"][kind] = weights_of(get_gan("smoke", "market", kind).net)
    made["weights"]["bound"] = weights_of(get_bound(get_run("smoke")).model)
    return made


def resumed() -> dict:
    "A run that was stopped half-way and taken up again by another state."
    import torch
    from dgnet.config import make_config
    from dgnet.datasets import relabel
    from dgnet.runs import get_data, get_teacher, load_split
    from dgnet.train import TrainState, fit
    cfg = make_config("smoke", seed=3)
    data = get_data(cfg)
    teacher = get_teacher(cfg, data).net
    images, labels = load_split(data.train, cfg), torch.from_numpy(relabel(data.train.ids))
    with tempfile.TemporaryDirectory() as folder:
        for stop_at in (4, None):
            state = TrainState(cfg, data.n_ids, labels, teacher.backbone)
            fit(state, teacher, images, labels, Path(folder), stop_at=stop_at)
        log = [line.split(",")[2:] for line in (Path(folder) / "log.csv").read_text().splitlines()]
    return {"weights": weights_of(state.model), "log": digest(log)}


def gate(cheap: bool) -> dict:
    "All of it."
    facts = {"keys": run_keys(), "configuration": configurations(), "state": state_names(), "help": help_texts()}
    return facts if cheap else facts | {"trained": trained(), "resumed": resumed()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cheap", action="store_true", help="without training and rendering")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as local:
        os.environ |= {"DGNET_ROOT": local, "DGNET_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        import torch
        torch.set_num_threads(1)
        text = json.dumps(gate(options.cheap), indent=1, sort_keys=True, default=str, ensure_ascii=False)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(f"{options.out}: {digest(text.encode())}")

if __name__ == "__main__":
    main()
