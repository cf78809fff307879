"""Put finished runs into the package: float16 weights, log and facts in dgnet/weights, and the model card beside them.

    python benchmarks/ship.py mini:strangers midi:strangers midi:market midi:duke
"""
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dgnet.config import make_config, recipe_words, run_key
from dgnet.core import LOCAL, WEIGHTS
from dgnet.model import DGNet, config_from_dict, load_weights, save_weights
from dgnet.runs import teacher_folder
from dgnet.stored import read_done, write_done
from dgnet.teacher import make_teacher

CARD = """# Models that come with dgnet

Each folder is a run, found by its key before anything is trained: `model.safetensors` (E_a with its heads, E_s, G \
and D; float16, configuration, class names and metrics in the header), `log.csv`, `done.json`, in `…-teacher-…` the \
teacher of a run, and in `bound.safetensors` its bound.
`DGNet.from_pretrained("midi-market")` loads one by name. `dgnet_reproduce --tier TIER --fresh` trains them anew; \
`benchmarks/ship.py` put them here.

| name | trained on | for | on | iterations | recipe | starts from | MB |
|---|---|---|---|---|---|---|---|
{rows}

**What they can do.** Swap the clothes of two *rendered* people, and tell such people apart. **What they cannot \
do.** They have never seen a photograph: of one they make little, and nobody should be searched for with them. A model \
for photographs is trained with `dgnet_train FOLDER`.
**Who is in them.** Nobody: all people were drawn by `dgnet.pedestrians` and `dgnet.renderer`. \
**Licence.** Apache-2.0, like the package.
"""


def note(source: Path, target: Path, *files: str) -> None:
    "What is known of a run, with the hashes of the files as they are shipped."
    facts = {name: value for name, value in read_done(source).items() if name not in ("files", "sha256")}
    write_done(target, facts, *files)


def copy_teacher(folder: Path, cfg, n_ids: int) -> None:
    "The teacher of a run, float16, and what is known of it."
    net, target = make_teacher(cfg, n_ids), WEIGHTS / folder.name
    if folder == target: return   # shipped before, for a run that has learnt from it too
    load_weights(net, folder / "teacher.safetensors")
    target.mkdir(parents=True, exist_ok=True)
    save_weights(net, target / "teacher.safetensors", torch.float16)
    note(folder, target, "teacher.safetensors")


def copy_bound(cfg) -> None:
    "The bound of a run, float16, where there is one."
    name = run_key(replace(cfg, method="bound"))
    source, target = LOCAL / "runs" / name, WEIGHTS / name
    if not read_done(source): return
    target.mkdir(parents=True, exist_ok=True)
    model = DGNet.load(source / "bound.safetensors")
    model.save(target / "bound.safetensors", torch.float16, **model.metadata)
    note(source, target, "bound.safetensors")


def ship(tier: str, dataset: str) -> Path:
    """Copy one finished run of today's configuration, with its teacher and its bound. Raises FileNotFoundError when
    there is none."""
    cfg = make_config(tier, dataset)
    source, target = LOCAL / "runs" / run_key(cfg), WEIGHTS / run_key(cfg)
    if not read_done(source):
        raise FileNotFoundError(f"{source.name}: not trained yet. Train it first: get_run({tier!r}, {dataset!r})")
    keep = {teacher_folder(cfg).name} if dataset != "strangers" else set()
    for old in WEIGHTS.glob(f"{dataset}-{tier}-*"):
        if old.name not in keep: shutil.rmtree(old)
    target.mkdir(parents=True)
    model = DGNet.load(source / "model.safetensors")
    model.save(target / "model.safetensors", torch.float16, **model.metadata)
    shutil.copy(source / "log.csv", target)
    note(source, target, "model.safetensors", "log.csv")
    if dataset != "strangers":
        copy_teacher(teacher_folder(cfg), cfg, model.n_ids)
        copy_bound(cfg)
    return target


def row(folder: Path) -> str:
    "A line of the card."
    facts, size = read_done(folder), sum(f.stat().st_size for f in folder.iterdir()) / 1e6
    cfg = config_from_dict(facts["config"])
    hours = (facts["seconds"] + facts["teacher_seconds"]) / 3600
    people = f"{cfg.people:,} rendered people, {cfg.shots} photos of each, {cfg.height} × {cfg.width}"
    start = "rendered strangers" if cfg.g_init == "rendered" else "random weights"
    return (f"| {cfg.tier}-{cfg.dataset} | {people} | {hours:.1f} h | {facts['device']} | {cfg.n_iter:,} | "
            f"{recipe_words(cfg)} | {start} | {size:.1f} |")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        target = ship(*name.split(":"))
        print(target.name, *(f"{f.name} {f.stat().st_size / 1e6:.1f} MB" for f in sorted(target.iterdir())))
    runs = [f for f in sorted(WEIGHTS.iterdir()) if (f / "model.safetensors").exists()]
    (WEIGHTS / "README.md").write_text(CARD.format(rows="\n".join(map(row, runs))), encoding="utf-8")
    print(f"together {sum(f.stat().st_size for f in WEIGHTS.rglob('*') if f.is_file()) / 1e6:.1f} MB")
