"""The official networks' outputs, from golden numbers: same weights, same inputs, full size, float32."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dgnet.config import make_config
from dgnet.model import DGNet, official_name

DATA = Path(__file__).parent / "data"
ABOUT = json.loads((DATA / "golden_1.json").read_text())
KEYS = json.loads((DATA / "official_keys.json").read_text())
FILES = ("gen", "id", "dis")


def fill(key, shape, salt):
    "The weight that the golden numbers were computed with."
    z = np.random.RandomState((zlib.crc32(key.encode()) + salt) % 2**32).standard_normal(shape)
    if key.endswith("num_batches_tracked"): return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_mean"): z = 0.1 * z
    elif key.endswith("running_var"): z = np.exp(0.1 * z)
    elif len(shape) >= 2: z = z * np.sqrt(1 / np.prod(shape[1:]))
    elif key.endswith(("weight", "gamma")): z = 1 + 0.1 * z
    else: z = 0.1 * z
    return torch.tensor(z, dtype=torch.float32)


@pytest.fixture(scope="module")
def model():
    net = DGNet(make_config("paper", ea_init="random"), ABOUT["n_ids"])
    state = {official_name(k): fill(k, shape, ABOUT["salt"]) for file in FILES for k, shape in KEYS[file].items() if official_name(k)}
    net.load_state_dict(state)      # strict: nothing missing, nothing left over
    return net.eval()


def inputs():
    rng = np.random.RandomState(ABOUT["salt"])
    draw = lambda: torch.tensor(np.clip(rng.standard_normal((ABOUT["batch"], 3, 256, 128)), -2, 2), dtype=torch.float32)
    return {name: draw() for name in ("x_a", "x_b", "xp_a", "xp_b")}


def test_every_official_key_has_a_place():
    names = [official_name(k) for file in FILES for k in KEYS[file]]
    used = [n for n in names if n]
    assert len(used) == len(set(used)) and len(names) - len(used) == 16 + 2     # dead AdaIN statistics, ImageNet's classifier


def test_outputs(model):
    x, gold = inputs(), np.load(DATA / "golden_1.npz")
    with torch.no_grad():
        seen = {k: model.E_a(x[k]) for k in ("x_a", "x_b", "xp_a")}
        s_a, s_b = model.encode_structure(x["x_a"]), model.encode_structure(x["x_b"])
        a_a, a_b, a_t = (seen[k].a for k in ("x_a", "x_b", "xp_a"))
        images = model.G(torch.cat([a_b, a_a, a_a, a_t]), torch.cat([s_a, s_b, s_a, s_a])).chunk(4)
        maps = model.D(x["x_a"])
    o = seen["x_a"]
    ours = {"s_a": s_a[..., ::8, ::8], "f_a": a_a.flatten(1), "f_prim_x_a": o.f_prim, "f_fine_x_a": o.f_fine, "logits_prim_a": o.logits_prim,
            "logits_fine_a": o.logits_fine, **{f"D{k}_x_a": m for k, m in enumerate(maps)},
            **{name: image[..., ::4, ::4] for name, image in zip(("x_ab", "x_ba", "x_a_recon", "x_a_recon_p"), images)}}
    for name, value in ours.items():
        error = np.linalg.norm(value.numpy() - gold[name]) / np.linalg.norm(gold[name])
        assert error < 1e-4, f"{name}: relative error {error:.1e}"
