"""For every loss, exactly which networks receive gradient: both recipes, both sides of the coin."""
import pytest
import torch

HEADS = {"prim", "fine"}
MAKER = {"E_s", "G", "MLP"}          # the generator, first pass: structure encoder, decoder, and the MLPs of its styles
NOBODY = set()

OFFICIAL = {   # key: (x_ij still attached, coin says "again": x_ij detached, second-pass encoders learn)
    "img1": (MAKER, MAKER), "img2": (MAKER, MAKER), "adv": (MAKER, MAKER), "id_c": (MAKER, MAKER),   # D1
    "cyc": (MAKER, MAKER),   # D3
    "id_s": ({"E_a", "prim"},) * 2, "id_s_fine": ({"E_a", "fine"},) * 2,
    "code1": (NOBODY, NOBODY),   # D2
    "code2": (MAKER, {"E_s"}),
    "prim": ({"E_a", "prim"},) * 2, "fine": ({"E_a", "fine"},) * 2,
    "d": ({"D"}, {"D"}), "d_penalty": ({"D"}, {"D"}),
}
FIRST = {"E_a", *MAKER}
PAPER = {
    "img1": (FIRST, FIRST), "img2": (FIRST, FIRST), "adv": (FIRST, FIRST), "id_c": (FIRST, FIRST),
    "id_s": ({"E_a", "prim"},) * 2, "id_s_fine": ({"E_a", "fine"},) * 2,
    "code1": (FIRST, {"E_a"}), "code2": (FIRST, {"E_s"}),
    "prim": ({"E_a", "prim"},) * 2, "fine": ({"E_a", "fine"},) * 2,
    "d": ({"D"}, {"D"}), "d_penalty": ({"D"}, {"D"}),
}


def groups(model):
    "Every parameter of the model, by who it belongs to."
    styles = {id(p) for p in model.G.styles.parameters()}
    owned = {"E_a": model.E_a.backbone.parameters(), "prim": model.E_a.head_prim.parameters(),
             "fine": model.E_a.head_fine.parameters(), "E_s": model.E_s.parameters(),
             "G": [p for p in model.G.parameters() if id(p) not in styles], "MLP": model.G.styles.parameters(),
             "D": model.D.parameters()}
    owned = {k: list(v) for k, v in owned.items()}
    assert sum(map(len, owned.values())) == len(list(model.parameters())), "every parameter belongs to one group"
    return owned


def step_losses(recipe, again, **changes):
    "The losses of one training step, all weights on, and the model they belong to."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.teacher import make_teacher
    from dgnet.train import Batch, d_losses, decode_batch, g_losses
    torch.manual_seed(0)
    cfg = make_config("smoke", recipe=recipe, **changes)
    model, teacher = DGNet(cfg, 5).train(), make_teacher(cfg, 5).train()
    batch = Batch(*(torch.randn(4, 3, cfg.height, cfg.width) for _ in range(4)), torch.arange(4))
    w = dict.fromkeys(("img1", "img2", "id_s", "id_s_fine", "code1", "code2", "id_c", "adv", "prim", "fine", "cyc"),
                      1.0)
    decoded = decode_batch(model, batch, cfg)
    losses = d_losses(model, batch, decoded, cfg) | g_losses(model, teacher, batch, decoded, w, again, cfg)
    return model, teacher, losses


def receivers(model, loss):
    "The groups with a gradient that is there and not all zero."
    if not loss.requires_grad: return set()
    owned = groups(model)
    flat = [p for params in owned.values() for p in params]
    grads = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
    moved = {id(p) for p, g in zip(flat, grads) if g is not None and g.abs().sum() > 0}
    return {k for k, params in owned.items() if any(id(p) in moved for p in params)}


@pytest.mark.parametrize("again", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("recipe, table", [("official", OFFICIAL), ("paper", PAPER)], ids=["official", "paper"])
def test_who_receives_gradient(recipe, table, again):
    model, _, losses = step_losses(recipe, again)
    assert set(losses) == set(table), "these losses and no others (D3: no cycle in the recipe paper)"
    got = {k: receivers(model, v) for k, v in losses.items()}
    assert got == {k: expected[again] for k, expected in table.items()}


@pytest.mark.parametrize("merge", [False, True])
def test_one_pass_or_several_teach_the_same_networks(merge):
    model, _, losses = step_losses("official", False, merge_passes=merge)
    assert {k: receivers(model, v) for k, v in losses.items()} == {k: v[0] for k, v in OFFICIAL.items()}


@pytest.mark.parametrize("again", [False, True], ids=["before", "after"])
def test_code1_alive_teaches_the_maker_alone(again):
    "D2 set right, D1 not: G learns through a frozen E_a, whose own code stays a constant."
    model, _, losses = step_losses("official", again, code1_live=True)
    expected = {k: v[again] for k, v in OFFICIAL.items()} | {"code1": MAKER}
    assert {k: receivers(model, v) for k, v in losses.items()} == expected


def test_the_teacher_never_learns():
    for recipe in ("official", "paper"):
        _, teacher, losses = step_losses(recipe, False)
        sum(v for v in losses.values()).backward()
        assert all(p.grad is None for p in teacher.parameters())


def test_both_heads_of_the_recipe_paper_read_the_code():
    "D5: there the gradient of L^s_id reaches the backbone through the stripes."
    model, _, _ = step_losses("paper", False)
    assert model.E_a.head_prim.embed.in_features == model.E_a.code_dim * model.E_a.n_parts


def test_frozen_leaves_everything_as_it_was():
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.train import frozen
    cfg = make_config("smoke")
    E_a = DGNet(cfg, 5).train().E_a
    E_a.head_fine.classifier.bias.requires_grad_(False)
    before = {k: v.clone() for k, v in E_a.state_dict().items()}
    modes = [(m.training, getattr(m, "track_running_stats", None)) for m in E_a.modules()]
    wants = [p.requires_grad for p in E_a.parameters()]
    x = torch.randn(4, 3, cfg.height, cfg.width, requires_grad=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        with frozen(E_a):
            E_a(x).a.sum().backward()
            raise RuntimeError("on purpose")
    assert x.grad.abs().sum() > 0, "gradient to the input"
    assert all(p.grad is None for p in E_a.parameters()), "and none to the weights"
    assert all(torch.equal(before[k], v) for k, v in E_a.state_dict().items()), "running statistics too"
    assert modes == [(m.training, getattr(m, "track_running_stats", None)) for m in E_a.modules()]
    assert wants == [p.requires_grad for p in E_a.parameters()]


def test_frozen_reads_without_dropout_but_with_batch_statistics():
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.train import frozen
    torch.manual_seed(0)
    cfg = make_config("smoke")
    E_a, x = DGNet(cfg, 5).train().E_a, torch.randn(4, 3, cfg.height, cfg.width)
    with torch.no_grad():
        with frozen(E_a):
            first, second, part = E_a(x).logits_prim, E_a(x).logits_prim, E_a(x[:2]).logits_prim
        assert torch.equal(first, second), "no dropout"
        assert not torch.allclose(first[:2], part), "a row's answer depends on the rows beside it"
        assert not torch.equal(E_a(x).logits_prim, E_a(x).logits_prim), "outside, dropout is back"
