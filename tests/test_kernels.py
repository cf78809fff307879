"""What a CPU computes in another order than the formula says: norms image by image, doubling and 5x5 convolution from
the small map. `reference` turns it off, and is the plain form that all of it is compared with."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgnet.decoder import Decoder, UpBlock, up_conv
from dgnet.kernels import FusedInstanceNorm, FusedLayerNorm, UpConv, fast_form_serves, fold_kernels, reference
from dgnet.layers import ConvBlock, DecoderNorm, Style, adain, layer_norm

# the last two: more than 8,192 numbers an image
SHAPES = [(1, 1, 1, 2), (2, 3, 4, 2), (3, 8, 16, 8), (2, 16, 40, 20), (1, 16, 40, 20)]


def with_gradients(f, *leaves):
    leaves = [v.detach().clone().requires_grad_() for v in leaves]
    y = f(*leaves)
    torch.manual_seed(1)
    return [y, *torch.autograd.grad(y, leaves, torch.randn(y.shape, dtype=y.dtype))]


def same(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a.float() - b.float()).abs().max() <= tolerance * max(1.0, b.float().abs().max().item())


# the plain forms of `layers` compute in single precision whatever they are given
def plain_norm(x, weight, bias, eps, slope):
    var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    y = weight[:, :, None, None] * (x - mean) / (var + eps).sqrt() + bias[:, :, None, None]
    return F.leaky_relu(y, slope) if slope else y


def plain_map(x, gamma, beta, eps, slope):
    std, mean = torch.std_mean(x, (1, 2, 3), keepdim=True)
    y = gamma[:, None, None] * (x - mean) / (std + eps) + beta[:, None, None]
    return F.leaky_relu(y, slope) if slope else y


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_in_double_precision(shape, slope, layout):
    torch.manual_seed(0)
    x = (3 * torch.randn(shape, dtype=torch.double) + 1).contiguous(memory_format=layout)
    w, b = torch.randn(2, *shape[:2], dtype=torch.double)
    same(with_gradients(lambda *v: FusedInstanceNorm.apply(*v, 1e-5, slope), x, w, b),
         with_gradients(lambda *v: plain_norm(*v, 1e-5, slope), x, w, b), 1e-9)
    same(with_gradients(lambda *v: FusedLayerNorm.apply(*v, 1e-5, slope), x, w[0], b[0]),
         with_gradients(lambda *v: plain_map(*v, 1e-5, slope), x, w[0], b[0]), 1e-9)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_norms_in_bfloat16_are_as_good_as_the_formula(shape):
    torch.manual_seed(0)
    x = (torch.randn(shape) + 1).bfloat16().to(memory_format=torch.channels_last)
    w, b = torch.randn(2, *shape[:2])
    norm = DecoderNorm(shape[1])
    fast = with_gradients(adain, x, w, b), [norm(x)]
    with reference():
        plain = with_gradients(adain, x, w, b), [norm(x)]
    same(fast[0], plain[0], 0.02)
    same(fast[1], plain[1], 0.02)


def test_a_style_in_bfloat16_gets_its_gradient_in_bfloat16():
    x, w, b = torch.randn(2, 3, 8, 4).bfloat16(), torch.ones(2, 3).bfloat16(), torch.zeros(2, 3).bfloat16()
    kinds = {v.dtype for v in with_gradients(lambda *v: FusedInstanceNorm.apply(*v, 1e-5, 0.2), x, w, b)}
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize("norm", ["instance", "adain", "layer"])
def test_a_block_is_what_its_formula_says(norm):
    torch.manual_seed(0)
    block, x = ConvBlock(3, 4, 3, norm=norm), torch.randn(2, 3, 10, 6)
    style = Style(torch.randn(2, 4), torch.randn(2, 4)) if norm == "adain" else None
    y = block.conv(x)
    formula = {"instance": F.instance_norm, "adain": lambda v: adain(v, *(style or ())), "layer": block.norm}[norm]
    with reference():
        plain, whole = F.leaky_relu(formula(y), 0.2), block(x, style)
    assert torch.allclose(block(x, style), plain, atol=1e-5) and torch.allclose(whole, plain, atol=1e-5)


@pytest.mark.parametrize("size", [(2, 2), (2, 5), (3, 2), (8, 4), (7, 9)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("b", [1, 3])
def test_doubling_in_one_is_doubling_first(size, layout, b):
    torch.manual_seed(0)
    double = UpBlock(5, 3).double()
    x = torch.randn(b, 5, *size, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    leaves = [x, double[1].conv.weight, double[1].conv.bias]
    ways = [up_conv(x, double[1].conv), up_conv.plain(x, double[1].conv)]
    g = torch.randn(ways[0].shape, dtype=torch.double)
    same([ways[0], *torch.autograd.grad(ways[0], leaves, g)], [ways[1], *torch.autograd.grad(ways[1], leaves, g)], 1e-9)
    leaves, ways = [x, *double.parameters()], [double(x), nn.Sequential.forward(double, x)]
    with reference():   # here the norm, too, is the plain one, which computes in single precision
        ways.append(double(x))
    block, stepwise, plain = ([y, *torch.autograd.grad(y, leaves, g)] for y in ways)
    same(block, stepwise, 1e-9)
    same(block, plain, 1e-5)


def test_doubling_leaves_the_gradient_it_is_given_alone():
    double, x = UpBlock(4, 2), torch.randn(1, 4, 4, 3).requires_grad_()
    y = UpConv.apply(x, *fold_kernels(double[1].conv.weight, double[1].conv.bias))
    g = torch.ones_like(y, memory_format=torch.channels_last)
    y.backward(g)
    assert (g == 1).all() and x.grad.isfinite().all()


def test_doubling_under_autocast():
    torch.manual_seed(0)
    double, x = UpBlock(8, 4), torch.randn(2, 8, 8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        quick = double(x)
        with reference():
            plain = double(x)
    assert quick.dtype == plain.dtype == torch.bfloat16
    exact = double(x)
    quick_error, plain_error = ((y.float() - exact).abs().mean() for y in (quick, plain))
    assert (quick - plain).abs().max() < 0.1 and quick_error <= 1.2 * plain_error
    with torch.autocast("cpu", torch.bfloat16):
        double(x.requires_grad_()).float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in double.parameters())


def test_no_second_derivative_is_said():
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    y = FusedInstanceNorm.apply(x, torch.ones(1, 2), torch.zeros(1, 2), 1e-5, 0.2)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_the_reference_is_the_plain_form_and_ends_with_its_block():
    torch.manual_seed(0)
    x, w, b, conv = torch.randn(2, 3, 8, 4), torch.randn(2, 3), torch.randn(2, 3), UpBlock(3, 2)[1].conv
    calls = [(adain, (x, w, b)), (layer_norm, (x, w[0], b[0])), (up_conv, (x, conv))]
    with reference():
        with reference():
            pass
        assert not fast_form_serves(x), "a block within a block does not switch back"
        assert all(torch.equal(f(*v), f.plain(*v)) for f, v in calls)
    with pytest.raises(KeyError):
        with reference():
            raise KeyError
    assert fast_form_serves(x) and not fast_form_serves(torch.empty(1, device="meta"))
    assert all(torch.allclose(f(*v), f.plain(*v), atol=1e-5) for f, v in calls)


def test_a_whole_step_of_the_decoder_by_the_reference():
    torch.manual_seed(0)
    G, a, s = Decoder(32, 4, 8, 1, 2, 8), torch.randn(2, 32, 4), torch.randn(2, 8, 8, 4)
    def step():
        G.zero_grad()
        y = G(a, s)
        y.square().mean().backward()
        return [y.detach(), *(p.grad.clone() for p in G.parameters())]
    fast = step()
    with reference():
        plain = step()
    same(fast, plain, 1e-4)


def test_checkpointing_changes_no_number():
    torch.manual_seed(0)
    G, a, s = Decoder(32, 4, 8, 1, 2, 8), torch.randn(2, 32, 4), torch.randn(2, 8, 8, 4)
    steps = []
    for G.checkpointing in (False, True):
        G.zero_grad()
        y = G(a, s)
        y.square().mean().backward()
        steps.append([y.detach(), *(p.grad for p in G.parameters())])
    assert all(torch.equal(p, q) for p, q in zip(*steps, strict=True))
