"""Equations 1 to 9 against loops written from the paper: plain Python and `math`, one number at a time."""
import math

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def losses():
    from dgnet import losses
    return losses


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(ours, slow):
    assert ours.shape == () and abs(ours.item() - slow) < 1e-5 * max(1, abs(slow)), (ours.item(), slow)


def slow_l1(u, v):
    "The mean of |u - v| over everything."
    u, v = np.asarray(u).ravel(), np.asarray(v).ravel()
    total = 0.0
    for k in range(len(u)):
        total += abs(float(u[k]) - float(v[k]))
    return total / len(u)


def slow_softmax(row):
    e = [math.exp(float(v)) for v in row]
    return [v / sum(e) for v in e]


def slow_id(logits, y):
    "E[-log p(y|x)]."
    return sum(-math.log(slow_softmax(row)[int(k)]) for row, k in zip(logits, y)) / len(y)


def slow_mean(maps, f):
    "f of every value of a map, averaged; summed over scales."
    return sum(sum(f(float(v)) for v in m.flatten()) / m.numel() for m in maps)


def sigmoid(v): return 1 / (1 + math.exp(-v))


@pytest.mark.parametrize("shape", [(1, 3, 4, 2), (5, 3, 8, 4)])
def test_eqs_1_and_2(losses, shape):
    x, x_hat = numbers(*shape), numbers(*shape, seed=1)
    close(losses.l_img(x, x_hat), slow_l1(x, x_hat))
    assert losses.l_img(x, x) == 0


@pytest.mark.parametrize("b, k", [(1, 2), (6, 11)])
def test_eqs_3_6_and_9(losses, b, k):
    logits, y = numbers(b, k) * 3, torch.arange(b) * 5 % k
    close(losses.l_id(logits, y), slow_id(logits, y))


@pytest.mark.parametrize("shape", [(3, 16, 4), (2, 8, 6, 3)])
def test_eqs_4_and_5(losses, shape):
    code, again = numbers(*shape).requires_grad_(), numbers(*shape, seed=1).requires_grad_()
    value = losses.l_code(code, again)
    close(value, slow_l1(code.detach(), again.detach()))
    value.backward()
    assert code.grad is None, "the target is a constant"
    torch.testing.assert_close(again.grad, (again - code).detach().sign() / code.numel())


def maps(seed): return [numbers(2, 1, 8 >> s, 4 >> s, seed=seed + s) for s in range(3)]


def test_eq_7_least_squares(losses):
    real, fake = maps(0), maps(10)
    close(losses.l_adv_d(real, fake), slow_mean(fake, lambda v: v ** 2) + slow_mean(real, lambda v: (v - 1) ** 2))
    close(losses.l_adv_g(fake), slow_mean(fake, lambda v: 2 * (v - 1) ** 2))


def test_eq_7_as_printed(losses):
    real, fake = maps(0), maps(10)
    printed = slow_mean(real, lambda v: math.log(sigmoid(v))) + slow_mean(fake, lambda v: math.log(1 - sigmoid(v)))
    close(losses.l_adv_d(real, fake, "log"), -printed)   # D maximises what is printed
    close(losses.l_adv_g(fake, "log"), slow_mean(fake, lambda v: -math.log(sigmoid(v))))


def test_a_scale_counts_as_a_whole_whatever_its_size(losses):
    fake = maps(10)
    close(losses.l_adv_g(fake), sum(losses.l_adv_g([m]).item() for m in fake))


def test_eq_8(losses):
    q, logits = numbers(4, 7).softmax(1), numbers(4, 7, seed=1) * 2
    total = 0.0
    for row, scores in zip(q, logits):
        for q_k, p_k in zip(row, slow_softmax(scores)):
            total -= float(q_k) * math.log(p_k / float(q_k))
    close(losses.l_prim(q, logits), total / len(q))


def test_eq_8_has_limits(losses):
    sure = torch.eye(3)
    assert losses.l_prim(sure, 60 * sure).abs() < 1e-5, "a one-hot q: the terms with q = 0 count nothing"
    close(losses.l_prim(sure, torch.zeros(3, 3)), math.log(3))
    q = torch.full((2, 5), 0.2, requires_grad=True)
    losses.l_prim(q, numbers(2, 5).requires_grad_()).backward()
    assert q.grad is None, "the teacher does not learn"


def test_half_precision_scores_are_summed_in_float32(losses):
    logits, y = numbers(4, 700).bfloat16(), torch.arange(4)
    assert losses.l_id(logits, y).dtype == losses.l_prim(torch.full((4, 700), 1 / 700), logits).dtype == torch.float32
    close(losses.l_id(logits, y), slow_id(logits.float(), y))


def test_the_r1_penalty_of_a_linear_d_is_the_square_of_its_weights():
    from dgnet.discriminator import r1_penalty
    x, w = numbers(2, 3, 4, 2).requires_grad_(), numbers(3, 4, 2, seed=1)
    scores = (x * w).sum((1, 2, 3)).view(2, 1, 1, 1)
    close(r1_penalty([scores], x), sum(float(v) ** 2 for v in w.flatten()))
