"""The other generators: shapes, joints, exact resume, a loss that falls, and clear refusals."""
from dataclasses import replace

import pytest
import torch

SIZE = dict(rival_iter=6, batch=2, d_width=4)


@pytest.fixture(scope="module")
def photos():
    "Six photos of each of eight people, one colour per person, with made-up joints."
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(6)
    colour = torch.randint(40, 216, (8, 3, 1, 1), generator=g)[labels]
    return ((colour + torch.randint(-40, 40, (48, 3, 64, 32), generator=g)).to(torch.uint8), labels,
            torch.rand(48, 14, 2, generator=g) * torch.tensor([32.0, 64.0]))


def config(**changes):
    from dgnet.config import make_config
    return make_config("smoke", **{**SIZE, **changes})


def same(one, two):
    return all(torch.equal(v, w) for v, w in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


both = pytest.mark.parametrize("kind", ["lsgan", "pose"])


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128)])
def test_pictures_have_the_size_of_the_photos(size):
    from dgnet.other_gans import Critic, make_gan
    cfg = config(height=size[0], width=size[1])
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3, 3, *size), generator=g).to(torch.uint8)
    joints = torch.rand(3, 14, 2, generator=g) * size[1]
    assert make_gan("lsgan", cfg).eval().generate(3).shape == (3, 3, *size)
    assert make_gan("pose", cfg).eval().generate(x, joints).shape == (3, 3, *size)
    assert Critic(*size, 4)(torch.randn(3, 3, *size))[0].shape == (3, 1, 1, 1)


@both
def test_a_stopped_rival_goes_on_bit_for_bit(kind, photos, tmp_path):
    from dgnet.other_gans import train_gan
    cfg = config()
    whole = train_gan(kind, *photos, cfg)
    stopped = train_gan(kind, *photos, cfg, tmp_path, stop_at=3)
    assert (tmp_path / "state.pt").exists() and not same(whole, stopped)
    torch.manual_seed(99)   # what happens between the two halves must not matter
    assert same(whole, train_gan(kind, *photos, cfg, tmp_path)) and not (tmp_path / "state.pt").exists()


@both
def test_the_seed_decides(kind, photos):
    from dgnet.other_gans import train_gan
    one, again, other = (train_gan(kind, *photos, config(seed=s)) for s in (0, 0, 1))
    assert same(one, again) and not same(one, other) and not one.training


def test_lsgan_does_not_look_at_labels_and_draws_the_same_for_one_seed(photos):
    from dgnet.other_gans import train_gan
    images, labels, joints = photos
    net = train_gan("lsgan", images, labels, None, config())
    assert same(net, train_gan("lsgan", images, labels.flip(0), joints, config()))
    two, again, three = (net.generate(5, seed=s) for s in (2, 2, 3))
    assert torch.equal(two, again) and not torch.equal(two, three)


def test_the_loss_of_pose_falls(photos):
    from dgnet.other_gans import train_gan
    rows = []
    def report(progress, losses): rows.append((progress, losses["rival"]))
    train_gan("pose", *photos, config(rival_iter=60), report=report, every=1)
    assert [p.it for p, _ in rows] == list(range(1, 61)) and rows[-1][0].n_iter == 60
    assert sum(v for _, v in rows[-10:]) < 0.8 * sum(v for _, v in rows[:10])


def test_each_optimiser_moves_its_own_network_only(photos, monkeypatch):
    from dgnet import other_gans
    state = other_gans.GanState("pose", photos[1], config(), torch.device("cpu"))
    moved, update, nets = [], other_gans.update, (state.net, state.critic)
    def watch(losses, w, *optimisers):
        before = [[p.clone() for p in net.parameters()] for net in nets]
        losses = update(losses, w, *optimisers)
        moved.append([any(not torch.equal(p, q) for p, q in zip(old, net.parameters()))
                      for old, net in zip(before, nets)])
        return losses
    monkeypatch.setattr(other_gans, "update", watch)
    other_gans.gan_step(state, photos[0], photos[2])
    assert moved == [[False, True], [True, False]], "first the critic alone, then the generator alone"


def test_joints_are_the_renderers(tmp_path):
    from dgnet.datasets import load_dataset
    from dgnet.other_gans import read_joints
    from dgnet.renderer import render
    from dgnet.synthetic import read_factors, write_domain
    root = write_domain("market", tmp_path, n_train_ids=3, n_test_ids=3, n_val_ids=2, images_per_id=4,
                        test_images_per_id=4)
    train = load_dataset("market", root).train
    joints = render(*read_factors(root).lookup(train.paths), 64, 32).joints
    larger = read_joints(root, train.paths, 128, 64)
    assert torch.allclose(read_joints(root, train.paths, 64, 32), joints, atol=1e-3)
    assert torch.allclose(larger, 2 * joints, atol=1e-3), "the same places in larger photos"


def test_refusals_name_the_remedy(photos, tmp_path):
    from dgnet.other_gans import make_gan, read_joints, train_gan
    images, labels, joints = photos
    with pytest.raises(ValueError, match="there are lsgan, pose"):
        make_gan("fd-gan", config())
    with pytest.raises(ValueError, match="do not halve down"):
        make_gan("lsgan", config(height=96, width=48))
    with pytest.raises(ValueError, match="come without joints.*kind='lsgan'"):
        read_joints(tmp_path, [], 64, 32)
    for wrong in (None, joints[:5]):
        with pytest.raises(ValueError, match="needs the joints of all 48 photos.*read_joints"):
            train_gan("pose", images, labels, wrong, config())


def test_a_checkpoint_of_something_else_is_refused(photos, tmp_path):
    from dgnet.other_gans import train_gan
    train_gan("lsgan", *photos, config(), tmp_path, stop_at=2)
    for kind, cfg in (("pose", config()), ("lsgan", replace(config(), seed=5))):
        with pytest.raises(ValueError, match="this checkpoint belongs to.*folder of its own, or delete"):
            train_gan(kind, *photos, cfg, tmp_path)
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.warns(UserWarning, match="state.pt: .*begun again from the start"):
        again = train_gan("lsgan", *photos, config(), tmp_path)
    assert same(again, train_gan("lsgan", *photos, config()))


def test_a_loss_that_is_no_number_stops_the_training(photos, monkeypatch):
    from dgnet import other_gans
    monkeypatch.setattr(other_gans, "l_img", lambda x, x_hat: (x_hat - x).abs().mean() * float("nan"))
    with pytest.raises(FloatingPointError, match="training stopped"):
        other_gans.train_gan("pose", *photos, config(), every=1)


def test_get_gan_trains_once_and_refuses_photographs(tmp_path, monkeypatch):
    import dgnet.runs as R
    from dgnet.config import make_config, run_key
    monkeypatch.setattr(R, "LOCAL", tmp_path)
    monkeypatch.setenv("DGNET_DEVICE", "cpu")
    R._PHOTOS.clear()
    R._loaded.cache_clear()
    first = R.get_gan("smoke", kind="pose")
    assert first.folder.name == run_key(make_config("smoke", method="pose"))
    assert {p.name for p in first.folder.iterdir()} == {"lock", "done.json", "rival.pt"}
    (first.folder / "rival.pt").write_bytes((first.folder / "rival.pt").read_bytes()[:-9])
    with pytest.warns(UserWarning, match="rival.pt: not as it was written; made again"):
        assert same(first.net, R.get_gan("smoke", kind="pose").net)
    monkeypatch.setattr(R, "train_gan", None)   # calling it would fail
    assert same(first.net, R.get_gan("smoke", kind="pose").net)
    world = first.data.root
    (world / "factors.csv").unlink()
    R._PHOTOS.clear()
    with pytest.raises(ValueError, match="come without joints"):
        R.get_gan("smoke", kind="pose", path=world)
    R._PHOTOS.clear()
    R._loaded.cache_clear()
