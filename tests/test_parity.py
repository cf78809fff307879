"""The official DG-Net's numbers: same weights, same inputs, full size, float32; outputs, every loss, gradients, evaluator.

Reads every `golden_*`, `train_*` and `reid_*` in the folder that the environment variable DGNET_GOLDEN names, else those in tests/data."""

import json
import os
import zlib
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from dgnet import train
from dgnet.config import make_config
from dgnet.model import DGNet
from dgnet.official import official_name
from dgnet.reid import Embeddings, multi_query, rank_metrics
from dgnet.schedule import loss_weights
from dgnet.teacher import make_teacher, soft_label

DATA = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("DGNET_GOLDEN") or DATA)
KEYS = json.loads((DATA / "official_keys.json").read_text())
FILES = ("gen", "id", "dis")
CFG = make_config("paper", ea_init="random", erasing=0.0, merge_passes=False, drop_prim=0.0, drop_fine=0.0)

SUMS = {   # our loss, both directions summed: the official losses that it is the sum of
    "img1": ("loss_gen_recon_x_a", "loss_gen_recon_x_b"), "img2": ("loss_gen_recon_xp_a", "loss_gen_recon_xp_b"),
    "code1": ("loss_gen_recon_f_a", "loss_gen_recon_f_b"), "code2": ("loss_gen_recon_s_a", "loss_gen_recon_s_b"),
    "cyc": ("loss_gen_cycrecon_x_a", "loss_gen_cycrecon_x_b"), "adv": ("loss_gen_adv_a", "loss_gen_adv_b"),
    "id_c": ("loss_gen_recon_id",), "prim": ("prim",), "fine": ("fine",), "id_s + fine head's share": ("loss_id", "loss_pid"),
    "d + d_penalty": ("dis_a", "dis_b"), "d_penalty": ("dis_reg_a", "dis_reg_b"), "prim + alpha fine": ("loss_teacher",),
    "total": ("loss_gen_total",),
}


def files(kind):
    return sorted(FOLDER.glob(f"{kind}_*.json"))


def each(kind):
    # one step of the networks serves all its tests
    # one step of the networks serves all its tests
    # one step of the networks serves all its tests
    # one step of the networks serves all its tests
    return pytest.fixture(scope="module", params=files(kind), ids=lambda p: p.stem)


def test_there_is_something_to_compare_with():
    assert any(map(files, ("golden", "train", "reid"))), f"no golden_*, train_* or reid_* file in {FOLDER}"


def fill(key, shape, salt):
    "The weight that the golden numbers were computed with."
    z = np.random.RandomState((zlib.crc32(key.encode()) + salt) % 2**32).standard_normal(shape)
    if key.endswith("num_batches_tracked"): return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_mean"):
        z = 0.1 * z
    elif key.endswith("running_var"):
        z = np.exp(0.1 * z)
    elif len(shape) >= 2:
        z = z * np.sqrt(1 / np.prod(shape[1:]))
    elif key.endswith(("weight", "gamma")):
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return torch.tensor(z, dtype=torch.float32)


def filled(file, n_ids, salt):
    "The weights of an official file, under our names; the key list is that of 751 people."
    found = {}
    for key, shape in KEYS[file].items():
        if ".classifier.0." in key:
            shape = [n_ids, *shape[1:]]
        if name := official_name(key):
            found[name] = fill(key, shape, salt)
    return found


def networks(n_ids, salt):
    "The official networks and their teacher, in eval mode."
    model, teacher = DGNet(CFG, n_ids), make_teacher(CFG, n_ids)
    model.load_state_dict({k: v for file in FILES for k, v in filled(file, n_ids, salt).items()})      # strict
    teacher.load_state_dict({k.removeprefix("E_a."): v for k, v in filled("teacher", n_ids, salt + 1000).items()})
    return model.eval(), teacher.eval()


def inputs(about):
    "The batch: x_a above x_b, and so for their positives and labels."
    rng, n = np.random.RandomState(about["salt"]), about["batch"]
    x_a, x_b, t_a, t_b = (torch.tensor(np.clip(rng.standard_normal((n, 3, 256, 128)), -2, 2), dtype=torch.float32)
                          for _ in range(4))
    y = torch.tensor(np.concatenate([rng.randint(0, about["n_ids"], n) for _ in range(2)]))
    x, t = torch.cat([x_a, x_b]), torch.cat([t_a, t_b])
    return train.Batch(x, t, x, t, y)


def in_halves(name, seen):
    """The loss function `name` of the training module, that also notes what it is on each half of the rows: the two
    directions."""
    loss = getattr(train, name)
    def half(v, k):
        if isinstance(v, list): return [m.chunk(2)[k] for m in v]
        return v if isinstance(v, str) else v.chunk(2)[k]
    def spy(*args):
        seen.setdefault(name, []).append([loss(*(half(v, k) for v in args)).item() for k in (0, 1)])
        return loss(*args)
    return patch.object(train, name, spy)


def punishment_in_halves(seen):
    "The same for the gradient punishment, which needs all rows of its image: those of the other half count nothing."
    punishment = train.gradient_punishment
    def spy(maps, x):
        keep = torch.arange(len(x)).view(-1, 1, 1, 1) < len(x) // 2
        # 2: it divides by all rows
        seen["gradient_punishment"] = [[2 * punishment([m * half for m in maps], x).item() for half in (keep, ~keep)]]
        return punishment(maps, x)
    return patch.object(train, "gradient_punishment", spy)


def directions(seen):
    "What the spies saw, under official names: `_a` is what is built from the appearance or the image a."
    (recon, recon_p, cyc), (code1, code2), (adv,), (d,), (penalty,) = (
        seen[k] for k in ("l_img", "l_code", "l_adv_g", "l_adv_d", "gradient_punishment"))
    penalty = [CFG.penalty * v for v in penalty]
    pairs = {"loss_gen_recon_x": recon, "loss_gen_recon_xp": recon_p, "loss_gen_cycrecon_x": cyc, "loss_gen_adv": adv,
             # row k of the swaps carries its partner's structure
             "loss_gen_recon_f": code1, "loss_gen_recon_s": code2[::-1],
             "dis": [v + p for v, p in zip(d, penalty)], "dis_reg": penalty}
    return {f"{name}_{side}": v for name, both in pairs.items() for side, v in zip("ab", both)}


def losses_of_a_step(model, teacher, batch, learn):
    """The training step's own losses with all weights at the end of their ramps: our keys, and the official ones by
    direction."""
    w, seen = loss_weights(CFG.n_iter, CFG), {}
    with ExitStack() as stack, torch.set_grad_enabled(learn):
        for name in ("l_img", "l_code", "l_adv_g", "l_adv_d", "l_id"):
            stack.enter_context(in_halves(name, seen))
        stack.enter_context(punishment_in_halves(seen))
        made = train.decode_batch(model, batch, CFG)
        with torch.enable_grad():
            d = {k: v.item() for k, v in train.d_losses(model, batch, made, CFG).items()}
        losses = train.g_losses(model, teacher, batch, made, w, True, CFG)
        total = sum(w[k] * v for k, v in losses.items())
    if learn: total.backward()
    ours = {k: v.item() for k, v in losses.items()} | d
    ours |= {"total": total.item(), "d + d_penalty": ours["d"] + ours["d_penalty"], "prim + alpha fine": ours["prim"]
             + CFG.alpha * ours["fine"], "id_s + fine head's share": ours["id_s"] + w["id_s_fine"] * ours["id_s_fine"]}
    loss_pid = sum(seen["l_id"][1])   # l_id's calls: photo, positive, photo by the fine head, id_c, fine
    single = {names[0]: ours[k] for k, names in SUMS.items() if len(names) == 1}
    return made, ours, directions(seen) | single | {"loss_id": ours["id_s + fine head's share"] - loss_pid,
                                                    "loss_pid": loss_pid}


def outputs(model, teacher, batch, made):
    "The arrays of a golden file, from our networks."
    b = len(batch.x) // 2
    x_a, x_ba = batch.x[:b], made.x_swap[:b]
    with torch.no_grad():
        o, maps = model.E_a(x_a), model.D(x_a)
        arrays = {"s_a": made.s[:b, :, ::8, ::8], "f_a": made.a[:b].flatten(1), "f_prim_x_a": o.f_prim,
                  "f_fine_x_a": o.f_fine, "logits_prim_a": o.logits_prim, "logits_fine_a": o.logits_fine,
                  **{f"D{k}_x_a": m for k, m in enumerate(maps)}, "teacher_logits_x_a": teacher(x_a).logits,
                  "teacher_soft_label_x_ba": soft_label(teacher, x_ba, CFG)}
    images = {"x_ba": x_ba, "x_ab": made.x_swap[b:], "x_a_recon": made.x_self[:b], "x_a_recon_p": made.x_pos[:b]}
    arrays |= {k: v[..., ::4, ::4] for k, v in images.items()} | {"y_a": batch.y[:b], "y_b": batch.y[b:]}
    return {k: v.detach().numpy() for k, v in arrays.items()}


def norm(*nets):
    return sum(p.grad.double().square().sum() for net in nets for p in net.parameters()
               if p.grad is not None).sqrt().item()


def golden_step(path):
    "One step in eval mode: what ours gives, beside what the official code gave."
    about = json.loads(path.read_text())
    batch = inputs(about)
    model, teacher = networks(about["n_ids"], about["salt"])
    made, ours, official = losses_of_a_step(model, teacher, batch, learn=True)
    official |= {"grad_norm_gen": norm(model.E_s, model.G), "grad_norm_id": norm(model.E_a)}
    return SimpleNamespace(gold=about["scalars"], arrays=np.load(path.with_suffix(".npz")), ours=ours,
                           official=official, outputs=outputs(model, teacher, batch, made))


def training_step(path):
    "The same in training mode: batch norm on batch statistics, each official pass on its own batch; no dropout."
    about = json.loads(path.read_text())
    batch = inputs(about)
    model, teacher = networks(about["n_ids"], about["salt"])
    for m in teacher.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    _, ours, official = losses_of_a_step(model.train(), teacher.train(), batch, learn=False)
    return SimpleNamespace(gold=about["scalars"], ours=ours, official=official)


@each("golden")
def golden(request):
    return golden_step(request.param)


@each("train")
def trained(request):
    return training_step(request.param)


def array_errors(found):
    "Per array of the golden file, the relative error in the 2-norm."
    return {k: np.linalg.norm(found.outputs[k] - gold) / max(np.linalg.norm(gold), 1e-30) for k,
            gold in found.arrays.items()}


def sum_errors(found):
    "Per loss of ours, the relative error against the sum of the official ones, where the file has them all."
    gold = {k: sum(found.gold[n] for n in names) for k, names in SUMS.items() if set(names) <= set(found.gold)}
    return {k: abs(found.ours[k] - v) / abs(v) for k, v in gold.items()}


def scalar_errors(found):
    "Per scalar of the file, the relative error; a scalar that we have no counterpart of is a KeyError."
    return {k: abs(found.official[k] - v) / abs(v) for k, v in found.gold.items()}


def check(errors, limit):
    assert errors, "nothing was compared"
    wrong = {k: f"{e:.1e}" for k, e in errors.items() if not e <= limit}
    assert not wrong, f"relative errors above {limit:.0e}: {wrong}"


def test_every_official_key_has_a_place():
    names = [official_name(k) for file in FILES for k in KEYS[file]]
    used = [n for n in names if n]
    # dead AdaIN statistics, ImageNet's classifier
    assert len(used) == len(set(used)) and len(names) - len(used) == 16 + 2
    assert len({official_name(k) for k in KEYS["teacher"]}) == len(KEYS["teacher"])


def test_outputs(golden):
    check(array_errors(golden), 1e-4)


def test_losses_of_both_directions(golden):
    check(sum_errors(golden), 1e-4)


def test_losses_one_by_one(golden):
    check({k: e for k, e in scalar_errors(golden).items() if not k.startswith("grad_norm")}, 1e-4)


def test_gradient_norms(golden):
    check({k: e for k, e in scalar_errors(golden).items() if k.startswith("grad_norm")}, 1e-3)


def test_losses_of_both_directions_in_training_mode(trained):
    check(sum_errors(trained), 1e-2)


def test_losses_one_by_one_in_training_mode(trained):
    check(scalar_errors(trained), 1e-2)


def features(z, part):
    f = torch.from_numpy(z[f"{part}_f"].astype(np.float32))
    prim, fine = f.chunk(2, 1)
    return Embeddings(prim, fine, torch.from_numpy(z[f"{part}_id"]), torch.from_numpy(z[f"{part}_cam"]))


@pytest.mark.parametrize("row", ["prim", "fine", "both_beta_0.5", "multi_query_beta_0.5"])
@pytest.mark.parametrize("path", files("reid"), ids=lambda p: p.stem)
def test_evaluator(path, row):
    z, gold = np.load(path.with_suffix(".npz")), json.loads(path.read_text())[row]
    q, g = features(z, "query"), features(z, "gallery")
    if row.startswith("multi"):
        q = multi_query(q, features(z, "mquery"))
    r = rank_metrics(q, g, beta=0.5, head=row if row in ("prim", "fine") else "both")
    assert {k: f"{getattr(r, k):.4f}" for k in gold} == {k: f"{v:.4f}" for k, v in gold.items()}
