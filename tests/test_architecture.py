"""Tables 6, 7 and 8 row by row, weights to the last one, and the small sizes that the small tiers use."""

import pytest
import torch

from dgnet.appearance import AppearanceEncoder, Backbone, BaselineNet
from dgnet.config import make_config
from dgnet.decoder import Decoder
from dgnet.discriminator import Discriminator, r1_penalty
from dgnet.layers import ConvBlock, adain
from dgnet.model import DGNet
from dgnet.structure import StructureEncoder, grey

# module: (convolutions as (kernel, channels, stride), output C, H, W)
TABLE_6 = {
    "conv1": ([(3, 16, 2)], (16, 128, 64)), "conv2": ([(3, 32, 1)], (32, 128, 64)),
    "conv3": ([(3, 32, 1)], (32, 128, 64)), "conv4": ([(3, 64, 2)], (64, 64, 32)),
    "resblocks": ([(3, 64, 1)] * 8, (64, 64, 32)),
    "aspp": ([(1, 32, 1)] + [(1, 32, 1), (3, 32, 1)] * 3, (128, 64, 32)), "conv5": ([(1, 128, 1)], (128, 64, 32)),
}
TABLE_7 = {
    "resblocks.3": ([(3, 128, 1)] * 2, (128, 64, 32)), "ups.0": ([(5, 64, 1)], (64, 128, 64)),
    "ups.1": ([(5, 32, 1)], (32, 256, 128)), "conv3": ([(3, 32, 1)], (32, 256, 128)),
    "conv4": ([(3, 32, 1)], (32, 256, 128)), "conv5": ([(1, 3, 1)], (3, 256, 128)),
}
TABLE_8 = {
    "conv1": ([(1, 32, 1)], (32, 256, 128)), "conv2": ([(3, 32, 1)], (32, 256, 128)),
    "conv3": ([(3, 32, 2)], (32, 128, 64)), "conv4": ([(3, 32, 1)], (32, 128, 64)),
    "conv5": ([(3, 64, 2)], (64, 64, 32)), "resblocks": ([(3, 64, 1)] * 8, (64, 64, 32)),
    "conv6": ([(1, 1, 1)], (1, 64, 32)),
}
CALLS = {
    "Table 6": (StructureEncoder, TABLE_6, lambda net: net(torch.zeros(1, 1, 256, 128))),
    "Table 7": (Decoder, TABLE_7, lambda net: net(torch.zeros(1, 2048, 4), torch.zeros(1, 128, 64, 32))),
    "Table 8": (lambda: Discriminator().nets[0], TABLE_8, lambda net: net(torch.zeros(1, 3, 256, 128))),
}


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("table", CALLS)
def test_table(table):
    build, rows, call = CALLS[table]
    net, sizes = build().eval(), {}
    def note(name):
        def hook(module, args, out): sizes[name] = tuple(out.shape[1:])
        return hook
    for name in rows: net.get_submodule(name).register_forward_hook(note(name))
    with torch.no_grad():
        call(net)
    for name, (convolutions, size) in rows.items():
        layers = [m for m in net.get_submodule(name).modules() if isinstance(m, torch.nn.Conv2d)]
        assert [(c.kernel_size[0], c.out_channels, c.stride[0]) for c in layers] == convolutions, name
        assert sizes[name] == size, name
        assert all(c.bias is not None for c in layers), name


def test_four_adain_blocks():
    G = Decoder()
    assert len(G.resblocks) == len(G.styles.mlp_w) == len(G.styles.mlp_b) == 4
    assert all(b.conv1.kind == b.conv2.kind == "adain" for b in G.resblocks)


def test_dilations():
    assert [b[1].conv.dilation[0] for b in StructureEncoder().aspp.dilated] == [3, 6, 9]


def test_norms():
    E_s, G, D = StructureEncoder(), Decoder(), Discriminator()
    assert {m.kind for m in E_s.modules() if isinstance(m, ConvBlock)} == {"instance"}
    assert {m.kind for m in D.modules() if isinstance(m, ConvBlock)} == {"none"}
    assert [up[1].kind for up in G.ups] == ["layer"] * 2 and {G.conv3.kind, G.conv4.kind, G.conv5.kind} == {"none"}
    assert not any(m.act for m in (E_s.conv5, E_s.aspp.point, G.conv5, D.nets[0].conv6, G.resblocks[0].conv2))


def test_weights():
    G, E_a = Decoder(), AppearanceEncoder(751)
    assert count(StructureEncoder()) == 380_544                      # 0.381 million
    assert count(G) - count(G.styles) == 1_455_555                   # 1.456
    assert count(G.styles) == 11_544_576                             # 11.545
    assert count(Discriminator()) == 1_025_571                       # 1.026
    assert count(E_a.head_prim) == count(E_a.head_fine) == 1_435_375     # 2 x 1.435
    assert count(E_a) + 2048 * 1000 + 1000 == 28_427_782             # 28.43, of which 2.05 an unused classifier


def test_backbone_is_resnet50():
    import torchvision
    reference, ours = torchvision.models.resnet50(weights=None), Backbone(last_stride=2)
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    reference.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x).mean((2, 3)), reference.eval()(x), atol=1e-5, rtol=1e-4)
    assert Backbone(last_stride=1).load_state_dict(state) and Backbone(last_stride=1).eval()(x).shape[-2:] == (4, 2)


def test_imagenet_is_never_silently_absent(tmp_path, monkeypatch):
    monkeypatch.delenv("DGNET_IMAGENET", raising=False)
    with pytest.raises(FileNotFoundError, match="resnet50"):
        AppearanceEncoder(5, weights=str(tmp_path / "absent.pth"))
    assert AppearanceEncoder(5, "basic", (1, 1, 1, 1), 8).init == "random, from scratch"
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="broken.pth"):
        AppearanceEncoder(5, weights=str(tmp_path / "broken.pth"))


@pytest.mark.parametrize("tier", ["smoke", "mini"])
def test_small_tiers(tier):
    cfg = make_config(tier, ea_init="random")
    m, x = DGNet(cfg, 7), torch.randn(3, 3, cfg.height, cfg.width)
    out, s = m.E_a(x), m.encode_structure(x)
    assert (out.a.shape == (3, m.E_a.code_dim, cfg.n_parts) and out.f_prim.shape == (3, cfg.embed_dim)
            and out.logits_fine.shape == (3, 7))
    assert s.shape == (3, 8 * cfg.es_width, cfg.height >> cfg.n_down, cfg.width >> cfg.n_down)
    assert m.G(out.a, s).shape == x.shape
    assert [tuple(d.shape[1:]) for d in m.D(x)] == [(1, cfg.height >> k + 2, cfg.width >> k + 2)
                                                    for k in range(cfg.d_scales)]
    teacher = BaselineNet(7, cfg.ea_block, cfg.ea_blocks, cfg.ea_width, cfg.ea_pool, cfg.embed_dim)
    assert teacher(x).logits.shape == (3, 7)


def test_channels_last_agrees():
    cfg = make_config("mini", ea_init="random")
    m, x = DGNet(cfg, 7).eval(), torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        plain = m(x, x.flip(0))
        again = m.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last),
                                                        x.flip(0).to(memory_format=torch.channels_last))
    torch.testing.assert_close(again, plain, atol=1e-4, rtol=1e-4)


def test_too_small_is_said():
    with pytest.raises(ValueError, match="cannot be reflected by 9"):
        StructureEncoder()(torch.randn(1, 1, 64, 32))
    with pytest.raises(ValueError, match="fewer halvings"):
        Discriminator(4, 3, 1)(torch.randn(1, 3, 32, 16))
    with pytest.raises(ValueError, match="once or twice"):
        StructureEncoder(n_down=3)


def test_code_heads_read_the_code():
    E_a = AppearanceEncoder(5, "basic", (1, 1, 1, 1), 8, n_parts=4, embed_dim=16, code_heads=True).eval()
    x = torch.randn(2, 3, 64, 32)
    out = E_a(x)
    torch.testing.assert_close(E_a.head_prim(out.a.flatten(1)).f, out.f_prim)


def test_code_is_not_detached_inside():
    E_a = AppearanceEncoder(5, "basic", (1, 1, 1, 1), 8, embed_dim=16)
    assert E_a(torch.randn(2, 3, 64, 32)).a.requires_grad and E_a.encode(torch.randn(2, 3, 64, 32)).requires_grad


def test_rows_do_not_talk():
    torch.manual_seed(0)
    G, D = Decoder(16, 4, 32, 1, 2, 16).eval(), Discriminator(4, 2, 1)
    a, s = torch.randn(3, 16, 4), torch.randn(2, 32, 32, 16)
    grid = G.grid(a, s)
    assert grid.shape == (3, 2, 3, 64, 32)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(grid[i, j], G(a[i:i + 1], s[j:j + 1])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(D(grid[0])[0][1:], D(grid[0, 1:])[0], atol=1e-6, rtol=1e-4)


def test_blind_to_exposure_and_hue():
    E_s, x = StructureEncoder(4, 1, 2, (1, 3, 5)).eval(), torch.randn(2, 3, 64, 32)
    hue = torch.tensor([1.0, 0.5, -1.5]).view(3, 1, 1)
    with torch.no_grad():
        s, other = E_s(grey(x)), E_s(grey(3 * x + hue) + 2)
    assert (s - other).norm() < 1e-2 * s.norm()


def test_adain_against_a_loop():
    x, w, b = torch.randn(2, 3, 5, 4), torch.randn(2, 3), torch.randn(2, 3)
    y = adain(x, w, b)
    for n in range(2):
        for c in range(3):
            m, v = x[n, c].mean(), x[n, c].var(correction=0)
            torch.testing.assert_close(y[n, c], w[n, c] * (x[n, c] - m) / (v + 1e-5).sqrt() + b[n, c], atol=1e-5,
                                       rtol=1e-5)


def test_the_r1_penalty_against_finite_differences():
    torch.manual_seed(0)
    D = Discriminator(4, 2, 1).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    maps = D(x)
    wanted = sum(torch.autograd.grad(m.sum(), x, retain_graph=True)[0].square().sum() / 2 for m in maps)
    penalty = r1_penalty(maps, x)
    torch.testing.assert_close(penalty, wanted)
    weight = D.nets[0].conv2.conv.weight
    (g,) = torch.autograd.grad(penalty, weight)
    step = torch.zeros_like(weight)
    step[0, 1, 2, 1] = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step)
        values.append(r1_penalty(D(x), x).item())
        with torch.no_grad():
            weight.sub_(sign * step)
    assert abs((values[0] - values[1]) / 2e-6 - g[0, 1, 2, 1].item()) < 1e-4 * max(1, abs(g[0, 1, 2, 1].item()))


def test_save_and_load(tmp_path):
    m = DGNet(make_config("smoke", ea_init="random"), 7).eval()
    x = torch.randn(2, 3, 64, 32)
    m.classes, m.metrics = [2, 7, 11, 22, 27, 30, 1501], {"both": {"rank1": 0.5, "mAP": 0.25}}
    file = m.save(tmp_path / "sub" / "m.safetensors", iteration=3, note="é")
    again = DGNet.load(file)
    assert again.classes == m.classes and again.metrics == m.metrics
    assert again.metadata == {"iteration": 3, "note": "é"} and again.cfg == m.cfg
    assert again.n_ids == 7 and not again.training
    assert torch.equal(m.generate(x, x.flip(0)), again.generate(x, x.flip(0)))
    assert [p.name for p in file.parent.iterdir()] == ["m.safetensors"]
    good = file.read_bytes()
    for content in (good[:-1], good[:50], b"", good[:-9] + bytes([good[-9] ^ 4]) + good[-8:]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="m.safetensors"):
            DGNet.load(file)
    with pytest.raises(FileNotFoundError, match="absent"):
        DGNet.load(tmp_path / "absent.safetensors")


def test_generate_leaves_modes_alone():
    m = DGNet(make_config("smoke", ea_init="random"), 7).train()
    m.E_a.backbone.bn1.eval()
    before, mean = [k.training for k in m.modules()], m.E_a.backbone.bn1.running_mean.clone()
    x = torch.randn(2, 3, 64, 32)
    assert not m.generate(x, x).requires_grad and m(x, x).requires_grad
    assert [k.training for k in m.modules()] == before and torch.equal(mean, m.E_a.backbone.bn1.running_mean)
