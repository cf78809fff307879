"""The official DG-Net's numbers: same weights, same inputs, full size, float32; outputs, every loss, gradients,
evaluator.

Reads every `golden_*`, `train_*` and `reid_*` in the folder that the environment variable DGNET_GOLDEN names, else
those in tests/data."""

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
    "id_c": ("loss_gen_recon_id",), "prim": ("prim",), "fine": ("fine",),
    "id_s + fine head's share": ("loss_id", "loss_pid"), "d + d_penalty": ("dis_a", "dis_b"),
    "d_penalty": ("dis_reg_a", "dis_reg_b"), "prim + alpha fine": ("loss_teacher",), "total": ("loss_gen_total",),
}


def files(kind):
    return sorted(FOLDER.glob(f"{kind}_*.json"))


def each(kind):
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
    weights = {}
    for key, shape in KEYS[file].items():
        if ".classifier.0." in key:
            shape = [n_ids, *shape[1:]]
        if name := official_name(key):
            weights[name] = fill(key, shape, salt)
    return weights


def networks(n_ids, salt):
    "The official networks and their teacher, in eval mode."
    model, teacher = DGNet(CFG, n_ids), make_teacher(CFG, n_ids)
    model.load_state_dict({k: v for file in FILES for k, v in filled(file, n_ids, salt).items()})      # strict
    teacher.load_state_dict({k.removeprefix("E_a."): v for k, v in filled("teacher", n_ids, salt + 1000).items()})
    return model.eval(), teacher.eval()


def inputs(sizes):
    "The batch: x_a above x_b, and so for their positives and labels."
    rng, n = np.random.RandomState(sizes["salt"]), sizes["batch"]
    x_a, x_b, t_a, t_b = (torch.tensor(np.clip(rng.standard_normal((n, 3, 256, 128)), -2, 2), dtype=torch.float32)
                          for _ in range(4))
    y = torch.tensor(np.concatenate([rng.randint(0, sizes["n_ids"], n) for _ in range(2)]))
    x, t = torch.cat([x_a, x_b]), torch.cat([t_a, t_b])
    return train.Batch(x, t, x, t, y)


def in_halves(name, calls):
    """The loss function `name` of the training module, that also notes what it is on each half of the rows: the two
    directions."""
    loss = getattr(train, name)
    def half(v, k):
        if isinstance(v, list): return [m.chunk(2)[k] for m in v]
        return v if isinstance(v, str) else v.chunk(2)[k]
    def spy(*args):
        calls.setdefault(name, []).append([loss(*(half(v, k) for v in args)).item() for k in (0, 1)])
        return loss(*args)
    return patch.object(train, name, spy)


def penalty_in_halves(calls):
    "The same for the R1 penalty, which needs all rows of its image: those of the other half count nothing."
    penalty = train.r1_penalty
    def spy(maps, x):
        keep = torch.arange(len(x)).view(-1, 1, 1, 1) < len(x) // 2
        # 2: it divides by all rows
        calls["r1_penalty"] = [[2 * penalty([m * half for m in maps], x).item() for half in (keep, ~keep)]]
        return penalty(maps, x)
    return patch.object(train, "r1_penalty", spy)


def directions(calls):
    "What the spies saw, under official names: `_a` is what is built from the appearance or the image a."
    (recon, recon_p, cyc), (code1, code2), (adv,), (d,), (penalty,) = (
        calls[k] for k in ("l_img", "l_code", "l_adv_g", "l_adv_d", "r1_penalty"))
    penalty = [CFG.penalty * v for v in penalty]
    pairs = {"loss_gen_recon_x": recon, "loss_gen_recon_xp": recon_p, "loss_gen_cycrecon_x": cyc, "loss_gen_adv": adv,
             # row k of the swaps carries its partner's structure
             "loss_gen_recon_f": code1, "loss_gen_recon_s": code2[::-1],
             "dis": [v + p for v, p in zip(d, penalty)], "dis_reg": penalty}
    return {f"{name}_{side}": v for name, both in pairs.items() for side, v in zip("ab", both)}


def losses_of_a_step(model, teacher, batch, learn):
    """The training step's own losses with all weights at the end of their ramps: our keys, and the official ones by
    direction."""
    w, calls = loss_weights(CFG.n_iter, CFG), {}
    with ExitStack() as stack, torch.set_grad_enabled(learn):
        for name in ("l_img", "l_code", "l_adv_g", "l_adv_d", "l_id"):
            stack.enter_context(in_halves(name, calls))
        stack.enter_context(penalty_in_halves(calls))
        images = train.decode_batch(model, batch, CFG)
        with torch.enable_grad():
            d = {k: v.item() for k, v in train.d_losses(model, batch, images, CFG).items()}
        losses = train.g_losses(model, teacher, batch, images, w, True, CFG)
        total = sum(w[k] * v for k, v in losses.items())
    if learn: total.backward()
    ours = {k: v.item() for k, v in losses.items()} | d
    ours |= {"total": total.item(), "d + d_penalty": ours["d"] + ours["d_penalty"], "prim + alpha fine": ours["prim"]
             + CFG.alpha * ours["fine"], "id_s + fine head's share": ours["id_s"] + w["id_s_fine"] * ours["id_s_fine"]}
    loss_pid = sum(calls["l_id"][1])   # l_id's calls: photo, positive, photo by the fine head, id_c, fine
    single = {names[0]: ours[k] for k, names in SUMS.items() if len(names) == 1}
    return images, ours, directions(calls) | single | {"loss_id": ours["id_s + fine head's share"] - loss_pid,
                                                    "loss_pid": loss_pid}


def outputs(model, teacher, batch, decoded):
    "The arrays of a golden file, from our networks."
    b = len(batch.x) // 2
    x_a, x_ba = batch.x[:b], decoded.x_swap[:b]
    with torch.no_grad():
        e, maps = model.E_a(x_a), model.D(x_a)
        arrays = {"s_a": decoded.s[:b, :, ::8, ::8], "f_a": decoded.a[:b].flatten(1), "f_prim_x_a": e.f_prim,
                  "f_fine_x_a": e.f_fine, "logits_prim_a": e.logits_prim, "logits_fine_a": e.logits_fine,
                  **{f"D{k}_x_a": m for k, m in enumerate(maps)}, "teacher_logits_x_a": teacher(x_a).logits,
                  "teacher_soft_label_x_ba": soft_label(teacher, x_ba, CFG)}
    images = {"x_ba": x_ba, "x_ab": decoded.x_swap[b:], "x_a_recon": decoded.x_self[:b],
              "x_a_recon_p": decoded.x_pos[:b]}
    arrays |= {k: v[..., ::4, ::4] for k, v in images.items()} | {"y_a": batch.y[:b], "y_b": batch.y[b:]}
    return {k: v.detach().numpy() for k, v in arrays.items()}


def norm(*nets):
    return sum(p.grad.double().square().sum() for net in nets for p in net.parameters()
               if p.grad is not None).sqrt().item()


def golden_step(path):
    "One step in eval mode: what ours gives, beside what the official code gave."
    golden = json.loads(path.read_text())
    batch = inputs(golden)
    model, teacher = networks(golden["n_ids"], golden["salt"])
    decoded, ours, official = losses_of_a_step(model, teacher, batch, learn=True)
    official |= {"grad_norm_gen": norm(model.E_s, model.G), "grad_norm_id": norm(model.E_a)}
    return SimpleNamespace(gold=golden["scalars"], arrays=np.load(path.with_suffix(".npz")), ours=ours,
                           official=official, outputs=outputs(model, teacher, batch, decoded))


def training_step(path):
    "The same in training mode: batch norm on batch statistics, each official pass on its own batch; no dropout."
    golden = json.loads(path.read_text())
    batch = inputs(golden)
    model, teacher = networks(golden["n_ids"], golden["salt"])
    for m in teacher.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    _, ours, official = losses_of_a_step(model.train(), teacher.train(), batch, learn=False)
    return SimpleNamespace(gold=golden["scalars"], ours=ours, official=official)


@each("golden")
def golden(request):
    return golden_step(request.param)


@each("train")
def trained(request):
    return training_step(request.param)


def array_errors(step):
    "Per array of the golden file, the relative error in the 2-norm."
    return {k: np.linalg.norm(step.outputs[k] - gold) / max(np.linalg.norm(gold), 1e-30)
            for k, gold in step.arrays.items()}


def sum_errors(step):
    "Per loss of ours, the relative error against the sum of the official ones, where the file has them all."
    gold = {k: sum(step.gold[n] for n in names) for k, names in SUMS.items() if set(names) <= set(step.gold)}
    return {k: abs(step.ours[k] - v) / abs(v) for k, v in gold.items()}


def scalar_errors(step):
    "Per scalar of the file, the relative error; a scalar that we have no counterpart of is a KeyError."
    return {k: abs(step.official[k] - v) / abs(v) for k, v in step.gold.items()}


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
