"""What `test_parallel` lets one process do, by `everything`, and two, by `python together.py FOLDER` under a launcher,
which leaves FOLDER/results.pt."""
import os
import sys
from pathlib import Path

import torch

# rates at which rounding does not grow, a seed at which it switches no maximum
SMALL = dict(seed=3, ea_init="random", drop_prim=0.0, drop_fine=0.0, n_iter=8, warm_up=0.25, ramp=0.25, code_ramp=0.25,
             lr_gen=1e-5, lr_id=1e-4)


def photos():
    "Six photos of each of eight people: noise with one colour per person."
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(6)
    colour = torch.randint(40, 216, (8, 3, 1, 1), generator=g)[labels]
    return (colour + torch.randint(-40, 40, (48, 3, 64, 32), generator=g)).to(torch.uint8), labels


def begin(processes, **changes):
    "Configuration, teacher and state."
    from dgnet.config import make_config
    from dgnet.teacher import make_teacher
    from dgnet.train import TrainState
    cfg = make_config("smoke", **{**SMALL, **changes})
    torch.manual_seed(7)
    teacher = make_teacher(cfg, 8).train(cfg.teacher_train)
    state = TrainState(cfg, 8, photos()[1], processes=processes)
    # opinions, not indifference: an untrained head says 1/8 of everybody, an untrained D nothing at all
    with torch.no_grad():
        for head in (teacher.head, state.model.E_a.head_prim, state.model.E_a.head_fine):
            head.classifier.weight *= 60
        for w in state.model.D.parameters():
            w *= 8
    return cfg, teacher, state


def steps(processes, it, n, **changes):
    "Mean losses of `n` steps from iteration `it` on, the first step's gradients, and the state afterwards."
    from dgnet.train import train_step
    _, teacher, state = begin(processes, **changes)
    state.it, rows = it, []
    for k in range(n):
        rows.append({k: v.item() for k, v in processes.mean_losses(train_step(state, teacher, *photos())).items()})
        if k == 0:
            grads = {k: p.grad.clone() for k, p in state.model.named_parameters()}
    return rows, grads, state


def everybody(processes, state):
    "Each process's batch norm statistics: n × numbers."
    flat = torch.cat([v.flatten().float() for k, v in state.model.state_dict().items() if "running" in k])
    return processes.gather(flat) if processes.count > 1 else flat[None]


def numbers(processes):
    results = {}
    for merge in (False, True):
        for it in (0, 6):
            rows, grads, state = steps(processes, it, 2, merge_passes=merge)
            weights = {k: v.clone() for k, v in state.model.state_dict().items()}
            results[merge, it] = {"losses": rows, "grads": grads, "weights": weights,
                                  "norms": everybody(processes, state)}
    rows, _, _ = steps(processes, 6, 1, recipe="paper")
    return results | {"paper": rows}


def refusals(processes):
    try:
        begin(processes, batch=3)
    except ValueError as e:
        return str(e)


def resumed(processes, folder):
    "In one go, and in two parts; True if no tensor differs. The folder keeps the checkpoint of the two parts."
    from dgnet.train import fit
    def part(place, **options):
        _, teacher, state = begin(processes, n_iter=4)
        return fit(state, teacher, *photos(), place, every=1, **options)
    straight = part(folder / "straight")
    part(folder / "parts", stop_at=2)
    again = part(folder / "parts")
    pairs = zip(straight.model.state_dict().values(), again.model.state_dict().values())
    return again.it == 4 and all(torch.equal(a, b) for a, b in pairs)


def pictures(processes, folder):
    from dgnet.generate import load_generator
    from dgnet.generated_set import generate_set
    from dgnet.set_plan import open_source
    generator = load_generator(folder.parent / "model.safetensors")
    return generate_set(generator, open_source(folder.parent / "world"), folder / "set", 20, processes=processes).made


def abandoned(processes):
    "The last one leaves without a word; what the others are told."
    if processes.rank == processes.count - 1: os._exit(0)
    try:
        for _ in range(100): processes.sum(torch.ones(1))
    except RuntimeError:
        return "told"


def everything(folder, processes):
    results = {"count": processes.count, "refusal": refusals(processes), "numbers": numbers(processes),
               "resumed": resumed(processes, folder), "pictures": pictures(processes, folder)}
    if processes.count > 1:
        processes.batch_norm = "local"
        rows, _, state = steps(processes, 6, 1, merge_passes=True)
        results["local"] = rows, everybody(processes, state)
        results["abandoned"] = abandoned(processes)
    return results


if __name__ == "__main__":
    from dgnet.distributed import init_processes
    folder, processes = Path(sys.argv[1]), init_processes(timeout=60)
    results = everything(folder, processes)
    if processes.main: torch.save(results, folder / "results.pt")
    sys.stdout.flush()
    os._exit(0)   # the group is broken on purpose
