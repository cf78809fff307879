"""A training step as one would write it down first, for `steps.py` to compare the package's with: float32, maps in the usual order of numbers, every norm, activation,
doubling and padding an operation of its own, and an encoder that must not learn as a deep copy that takes gradients nobody reads;
on a CPU freed memory goes back to the system, as it does unless asked (`core.keep_freed_memory`). Losses and gradients are the same.

It follows what is known of the official code's habits, but it is this package's own: how fast the official code is, only the official code can say."""
import copy
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn


def finish(self, x, style=None):
    "`ConvBlock.finish` in plain operations."
    b, c, h, w = x.shape
    if self.kind == "instance":
        x = F.instance_norm(x)
    if self.kind == "adain":
        x = F.batch_norm(x.reshape(1, b * c, h, w), None, None, style.weight.flatten(), style.bias.flatten(),
                         True).view(b, c, h, w)
    if self.kind == "layer":
        mean, std = (v.view(b, 1, 1, 1) for v in (x.reshape(b, -1).mean(1), x.reshape(b, -1).std(1)))
        x = (x - mean) / (std + self.norm.eps) * self.norm.gamma.view(-1, 1, 1) + self.norm.beta.view(-1, 1, 1)
    return F.leaky_relu(x, 0.2, inplace=True) if self.act else x


@contextmanager
def copied(frozen, net: nn.Module, dropout: bool = False):
    """`frozen` by a deep copy: its weights and statistics stand in for the network's own for as long as it is passed
    through, and take gradients like any others."""
    from dgnet.discriminator import Discriminator
    # the teacher   # the teacher   # the teacher   # the teacher
    if dropout:   # the teacher   # the teacher   # the teacher   # the teacher
        with frozen(net, dropout):
            yield net
        return
    # its gradients are thrown away before its next step
    if isinstance(net, Discriminator):
        yield net
        return
    pairs, drops = list(zip(net.modules(), copy.deepcopy(net).modules())), [m for m in net.modules()
                                                                            if isinstance(m, nn.Dropout) and m.training]
    def exchange():
        for m, twin in pairs:
            for of in ("_parameters", "_buffers"):
                m.__dict__[of], twin.__dict__[of] = twin.__dict__[of], m.__dict__[of]
    exchange()
    for m in drops:
        m.training = False
    try:
        yield net
    finally:
        exchange()
        for m in drops:
            m.training = True


@contextmanager
def plain():
    "Inside, the package's step is the plain one. Networks are then best in `torch.contiguous_format`."
    import dgnet.train as train
    from dgnet.kernels import UpBlock
    from dgnet.layers import ConvBlock
    moved = train.batch_to
    def batch_to(batch, device): return train.Batch(*(v.contiguous() for v in moved(batch, device)))
    with ExitStack() as s:
        for what, name, by in ((ConvBlock, "finish", finish), (UpBlock, "forward", nn.Sequential.forward),
                               (train, "frozen", partial(copied, train.frozen)), (train, "batch_to", batch_to)):
            s.enter_context(patch.object(what, name, by))
        yield
