"""Training in float32, and with changes such as torch.compile, for test_device.py: `python compiled.py DEVICE STEPS
BACKEND CHANGES`; prints the losses of both as JSON. In a process of its own, since the checks of shapes and types that
tests run under cannot be traced."""
import json
import sys

import torch

from dgnet.config import make_config
from dgnet.teacher import make_teacher
from dgnet.train import TrainState, train_step


def course(device: str, steps: int, **changes) -> list:
    "Losses of some steps on random photos of eight people."
    cfg = make_config("smoke", **{"ea_init": "random", "n_iter": 40, "warm_up": 0.0, "ramp": 0.0, "code_ramp": 0.0,
                                  "drop_prim": 0.0, "drop_fine": 0.0, **changes})
    images = torch.randint(0, 256, (48, 3, 64, 32), generator=torch.Generator().manual_seed(0)).to(device, torch.uint8)
    labels = torch.arange(8).repeat_interleave(6)
    torch.manual_seed(7)
    teacher = make_teacher(cfg, 8).to(device, memory_format=torch.channels_last).train(cfg.teacher_train)
    state = TrainState(cfg, 8, labels, device=torch.device(device))
    return [{k: v.item() for k, v in train_step(state, teacher, images, labels.to(device)).items()}
            for _ in range(steps)]


if __name__ == "__main__":
    device, steps, backend, changes = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    if backend != "inductor":   # one that needs no compiler, and knows no modes
        def compile(net, mode=None, **options):
            net._compiled_call_impl = torch.compile(net._call_impl, backend=backend, **options)
        torch.nn.Module.compile = compile
    print(json.dumps([course(device, steps), course(device, steps, **changes)]))
