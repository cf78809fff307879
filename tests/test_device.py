"""The training loop never makes the host wait for the device; and what a GPU computes is what a CPU computes."""
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

on_gpu = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2", "unique_dim", "masked_select",
         "unique_consecutive", "_to_cpu", "bincount"}


class Watched(TorchDispatchMode):
    """Follows whatever is computed from marked tensors (they stand for what lies on a GPU) and notes the operations
    that would make the host wait for it."""
    def __init__(self, *marked):
        super().__init__()
        self.waits = []
        for t in marked:
            t.on_device = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        name, on_device = func._overloadpacket.__name__, any(getattr(t, "on_device", False) for t in inputs)
        by_mask = name.startswith("index") and any(t.dtype == torch.bool for t in inputs[1:])
        if on_device and (name in WAITS or by_mask): self.waits.append(name)
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if on_device and isinstance(t, torch.Tensor):
                t.on_device = True
        return out


@pytest.fixture(scope="module")
def photos():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (48, 3, 64, 32), generator=g).to(torch.uint8), torch.arange(8).repeat_interleave(6)


def training(photos, device="cpu", **changes):
    "A state and a teacher."
    from dgnet.config import make_config
    from dgnet.teacher import make_teacher
    from dgnet.train import TrainState
    cfg = make_config("smoke", **{"ea_init": "random", "n_iter": 10, "warm_up": 0.2, **changes})
    torch.manual_seed(7)
    teacher = make_teacher(cfg, 8).to(device, memory_format=torch.channels_last).train(cfg.teacher_train)
    return TrainState(cfg, 8, photos[1], device=torch.device(device)), teacher


def tensors(state, teacher):
    return [*state.model.parameters(), *state.model.buffers(), *teacher.parameters(), *teacher.buffers()]


KINDS = [{}, {"recipe": "paper"}, {"generate": False}, {"precision": "bfloat16"}, {"soft_label": "lsro"}]
# on a CPU alone F.one_hot looks at what it is given
LABELS = [{"soft_label": s} for s in ("two_label", "pseudo", "conditional")]


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_nothing_in_a_step_asks_the_device_for_a_number(photos, changes):
    "Simulated on the CPU: what the networks and photos turn into is never read by the host."
    from dgnet.train import train_step
    state, teacher = training(photos, **changes)
    images, labels = (v.clone() for v in photos)
    with Watched(images, labels, *tensors(state, teacher)) as watched:
        for _ in range(6):   # before and after the warm-up, both sides of the coin
            losses = train_step(state, teacher, images, labels)
        assert watched.waits == [] and all(v.on_device for v in losses.values())
        losses["id_s"].item()
        assert watched.waits == ["_local_scalar_dense"], "and such a question would be noticed"


def test_nothing_in_a_teachers_or_rivals_step_does_either(photos):
    from dgnet.config import make_config
    from dgnet.other_gans import GanState, gan_step
    from dgnet.teacher import TeacherState, teacher_step
    cfg, cpu = make_config("smoke", ea_init="random"), torch.device("cpu")
    images, labels = (v.clone() for v in photos)
    state, gan = TeacherState(cfg, 8, cpu), GanState("lsgan", labels, cfg, cpu)
    with Watched(images, labels, *state.net.parameters(), *state.net.buffers(), *gan.net.parameters(),
                 *gan.critic.parameters(), *gan.net.buffers()) as watched:
        for _ in range(2):
            loss, losses = teacher_step(state, images, labels), gan_step(gan, images, None)
    assert watched.waits == [] and loss.on_device and all(v.on_device for v in losses.values())


def test_the_loop_waits_once_for_a_row_of_the_log(photos, tmp_path):
    from dgnet.train import fit
    state, teacher = training(photos, bn_on_real=False)
    with Watched(*tensors(state, teacher)) as watched:
        fit(state, teacher, *photos, None, report=lambda *a: None, every=5)
    assert watched.waits == [], "tolist of one tensor, and nothing else: no question per loss"


def test_batch_norm_is_refreshed_without_a_question_and_to_the_plain_average(photos):
    from dgnet.core import from_uint8
    from dgnet.photos import augment
    from dgnet.loop import refresh_batch_norm
    state, teacher = training(photos)
    net, cfg = state.model.E_a, state.cfg
    with Watched(*tensors(state, teacher)) as watched:
        refresh_batch_norm(net, photos[0], cfg, batch=20)
    assert watched.waits == []
    rng, means = torch.Generator().manual_seed(cfg.seed), []
    for rows in torch.randperm(48, generator=rng).split(20):
        x = from_uint8(augment(photos[0][rows], rng, cfg.pad, cfg.flip))
        means.append(net.backbone.conv1(x).mean((0, 2, 3)))
    assert torch.allclose(net.backbone.bn1.running_mean, torch.stack(means).mean(0), atol=1e-5)


def test_augmentation_is_what_it_was_written_down_as(photos):
    """Same generator, same crops and holes: a loop over photos, drawn in the order in which the generator was always
    asked."""
    from dgnet.core import from_uint8
    from dgnet.photos import _rectangles, augment, random_erasing
    x, (h, w), pad = photos[0][:6], (64, 32), 5
    rng, again = (torch.Generator().manual_seed(4) for _ in range(2))
    ours, shift = augment(x, rng, pad, 0.5), torch.randint(-pad, pad + 1, (2, 6), generator=again)
    flip = torch.rand(6, generator=again) < 0.5
    for k in range(6):
        rows, cols = ((int(s) + torch.arange(n)).clamp(0, n - 1) for s, n in ((shift[0, k], h), (shift[1, k], w)))
        if flip[k]:
            cols = cols.flip(0)
        assert torch.equal(ours[k], x[k][:, rows][:, :, cols])
    floats = from_uint8(x)
    ours, hit = random_erasing(floats, rng, 0.7), torch.rand(6, generator=again) < 0.7
    boxes = _rectangles(6, h, w, again, (0.02, 0.4), 0.3).long()
    for k, (top, bottom, left, right) in enumerate(boxes.T.tolist()):
        one = floats[k].clone()
        if hit[k]:
            one[:, top:bottom, left:right] = 0
        assert torch.equal(ours[k], one)
    assert rng.get_state().equal(again.get_state()) and hit.any() and flip.any()


def test_a_training_that_is_told_to_stop_ends_as_if_it_had_not(photos, tmp_path):
    "SIGTERM: the state is stored at once, and the next call goes on from there; for the teacher and other GANs too."
    from dgnet.config import make_config
    from dgnet.loop import Stopped, stopping_on_sigterm
    from dgnet.other_gans import train_gan
    from dgnet.teacher import train_teacher
    from dgnet.train import fit
    cfg = make_config("smoke", ea_init="random")
    def dgnet(folder):
        state, teacher = training(photos)
        return fit(state, teacher, *photos, folder).model
    trainings = {"dgnet": dgnet, "teacher": lambda folder: train_teacher(*photos, cfg, folder),
                 "gan": lambda folder: train_gan("lsgan", *photos, None, cfg, folder)}
    for name, train in trainings.items():
        folder = tmp_path / name
        folder.mkdir()
        for it in (1, 2):
            with stopping_on_sigterm(), pytest.raises(Stopped):
                signal.raise_signal(signal.SIGTERM)
                train(folder)
            checkpoint = torch.load(folder / "state.pt", weights_only=True)
            assert checkpoint["it"] == it, "one iteration a call, since it was told before"
        whole, parts = train(None).state_dict(), train(folder).state_dict()
        assert all(torch.equal(a, b) for a, b in zip(whole.values(), parts.values())), name


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def gpu(f):
    for mark in on_gpu:
        f = mark(f)
    return f


@gpu
@pytest.mark.parametrize("fits", [True, False], ids=["photos on the device", "photos on the host"])
@pytest.mark.parametrize("changes", KINDS + LABELS, ids=str)
def test_torch_sees_no_wait_in_a_step(photos, changes, fits):
    from dgnet.photos import cache_on_device
    from dgnet.train import train_step
    state, teacher = training(photos, "cuda", **changes)
    images, labels = cache_on_device(photos[0], state.device, 1.0 if fits else 0.0), photos[1].to(state.device)
    assert images.is_cuda == fits
    for _ in range(3): train_step(state, teacher, images, labels)   # first calls may set things up
    was = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(4):
            losses = train_step(state, teacher, images, labels)
    finally:
        torch.cuda.set_sync_debug_mode(was)
    assert all(v.isfinite() for v in losses.values())


@gpu
def test_torch_sees_no_wait_in_a_teachers_or_rivals_step(photos):
    from dgnet.config import make_config
    from dgnet.other_gans import GanState, gan_step
    from dgnet.teacher import TeacherState, teacher_step
    cfg, device = make_config("smoke", ea_init="random"), torch.device("cuda")
    state, gan = TeacherState(cfg, 8, device), GanState("lsgan", photos[1], cfg, device)
    images, labels = (v.to(device) for v in photos)
    def both():
        teacher_step(state, images, labels)
        gan_step(gan, images, None)
    for _ in range(3): both()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3): both()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_the_same_batch_on_both(photos):
    "Bytes and holes are the same to the bit; floats differ by the rounding of one division."
    from dgnet.photos import TripletSampler
    from dgnet.train import draw_batch
    cfg = training(photos)[0].cfg
    def draw(images, labels, device):
        return draw_batch(images, labels, TripletSampler(photos[1], 4, 0), torch.Generator().manual_seed(0), cfg,
                          device)
    cuda = torch.device("cuda")
    one, whole, rows = draw(*photos, None), draw(photos[0].to(cuda), photos[1].to(cuda), cuda), draw(*photos, cuda)
    for a, b, c in zip(one, whole, rows):
        assert b.is_cuda and torch.equal(b, c) and torch.allclose(a.float(), b.cpu().float(), atol=1e-6)
        assert torch.equal(a == 0, b.cpu() == 0)


def compare(photos, size, **changes):
    "Losses of one step in float32 on both devices, all on, from the same weights."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.schedule import loss_weights
    from dgnet.teacher import make_teacher
    from dgnet.train import Batch, d_losses, decode_batch, g_losses
    cfg = make_config("paper" if size == "paper" else "smoke", ea_init="random", precision="float32", drop_prim=0.0,
                      drop_fine=0.0, **changes)
    torch.manual_seed(0)
    model, teacher = DGNet(cfg, 8).train(), make_teacher(cfg, 8).eval()
    model.D.load_state_dict({k: 4 * v for k, v in model.D.state_dict().items()})   # an untrained D says 0 everywhere
    x = torch.rand(4, 4, 3, cfg.height, cfg.width) * 4 - 2
    batch, results = Batch(*x, torch.tensor([0, 1, 2, 3])), []
    for device in ("cpu", "cuda"):
        model.to(device)
        teacher.to(device)
        b = Batch(*(v.to(device) for v in batch))
        decoded, w = decode_batch(model, b, cfg), loss_weights(cfg.n_iter - 1, cfg)
        losses = d_losses(model, b, decoded, cfg) | g_losses(model, teacher, b, decoded, w, False, cfg)
        results.append({"losses": {k: v.item() for k, v in losses.items()}, "x_ij": decoded.x_swap.detach().cpu()})
    return results


def compiled(device, steps, backend, **changes):
    "Losses without torch.compile, and with it."
    script = Path(__file__).with_name("compiled.py")
    process = subprocess.run([sys.executable, script, device, str(steps), backend, json.dumps(changes)],
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_a_step_runs_compiled():
    """What torch.compile must be able to trace, by a backend that needs no compiler: frozen passes, heads, the coin;
    and D's double backward, which it cannot and need not."""
    for plain, other in zip(*compiled("cpu", 2, "aot_eager", compile=True)):
        assert other == pytest.approx(plain, rel=2e-3, abs=1e-3)


@gpu
@pytest.mark.parametrize("size", ["smoke", "paper"])
def test_cpu_and_gpu_agree(photos, size):
    "Outputs and every loss, in float32 without the reduced precision that convolutions may use."
    was = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        one, other = compare(photos, size)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = was
    assert (one["x_ij"] - other["x_ij"]).norm() < 1e-3 * one["x_ij"].norm()
    for k, v in one["losses"].items():
        assert other["losses"][k] == pytest.approx(v, rel=2e-3, abs=1e-5), k


@gpu
@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"precision": "bfloat16", "compile": True}], ids=str)
def test_bfloat16_and_compiled_training_follow_float32(changes):
    "Thirty steps: not the same numbers, but the same course; and finite."
    plain, other = (torch.tensor([v["img1"] for v in rows]) for rows in compiled("cuda", 30, "inductor", **changes))
    assert other.isfinite().all() and (other[:3] - plain[:3]).abs().max() < 0.1 * plain[0]
    assert other[-5:].mean() < other[:5].mean() and (other[-5:].mean() - plain[-5:].mean()).abs() < 0.25 * plain[0]


@gpu
def test_a_gpu_run_resumes_exactly_where_the_kernels_are_deterministic(photos, tmp_path):
    "The checkpoint holds everything, the device's generator too."
    from dgnet.train import fit
    def run(folder, stop_at=None):
        state, teacher = training(photos, "cuda")
        return fit(state, teacher, *photos, folder, stop_at=stop_at)
    half = run(tmp_path, 5)
    torch.cuda.manual_seed(99)
    state, teacher = training(photos, "cuda")
    resumed = fit(state, teacher, *photos, tmp_path, stop_at=5)
    assert all(torch.equal(a, b) for a, b in zip(half.model.state_dict().values(), resumed.model.state_dict().values()))
    assert torch.equal(torch.cuda.get_rng_state(), torch.load(tmp_path / "state.pt", weights_only=True)["cuda_rng"])
