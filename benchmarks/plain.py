"""A training step as one would write it down first, for `steps.py` to compare the package's with: float32, maps in the
usual order of numbers, the reference of every fast kernel (`kernels.reference`: norm, activation, doubling and
convolution each an operation of its own), and an encoder that must not learn as a deep copy that takes gradients nobody
reads; on a CPU freed memory goes back to the system, as it does unless asked (`core.keep_freed_memory`). Losses and
gradients are the same.

It follows what is known of the official code's habits, but it is this package's own: how fast the official code is,
only the official code can say."""
import copy
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from torch import nn


@contextmanager
def copied(frozen, net: nn.Module, dropout: bool = False):
    """`frozen` by a deep copy: its weights and statistics stand in for the network's own for as long as it is passed
    through, and take gradients like any others."""
    from dgnet.discriminator import Discriminator
    if dropout:   # the teacher
        with frozen(net, dropout):
            yield net
        return
    if isinstance(net, Discriminator):   # its gradients are thrown away before its next step
        yield net
        return
    pairs = list(zip(net.modules(), copy.deepcopy(net).modules()))
    drops = [m for m in net.modules() if isinstance(m, nn.Dropout) and m.training]
    def exchange():
        for m, twin in pairs:
            for name in ("_parameters", "_buffers"):
                m.__dict__[name], twin.__dict__[name] = twin.__dict__[name], m.__dict__[name]
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
    from dgnet import kernels
    batch_to = train.batch_to
    def contiguous(batch, device): return train.Batch(*(v.contiguous() for v in batch_to(batch, device)))
    with (kernels.reference(), patch.object(train, "frozen", partial(copied, train.frozen)),
          patch.object(train, "batch_to", contiguous)):
        yield
