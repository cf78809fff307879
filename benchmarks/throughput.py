"""Images per second: rendering, reading JPEGs, drawing batches, features, generation; each at several sizes, and how
its time grows with its work.

Photos are rendered; JPEGs lie in a temporary folder, read from the disk cache; networks have random weights."""
import argparse
import sys
import tempfile
from pathlib import Path

from common import benchmark, counting, growth, growth_table, memory, options, positive, statistics, timed

NETWORKS = {"smoke": "smoke", "mini": "mini", "paper": "paper"}


def photos(n: int, height: int, width: int):
    "n rendered photos as bytes."
    from dgnet.core import to_uint8
    return to_uint8(render(n, height, width, "cpu"))


def render(n: int, height: int, width: int, device: str):
    "n rendered photos."
    import torch

    from dgnet.pedestrians import rows_to_device, sample_people, sample_shots
    from dgnet.renderer import render as draw
    people = sample_people("market", 16, 0)
    a, s = sample_shots(people, torch.arange(n) % 16, torch.arange(n) % 6, 0)
    return draw(rows_to_device(a, device), rows_to_device(s, device), height, width).image


def network(name: str, case: dict):
    "A DG-Net of random weights, in eval mode."
    import torch

    from dgnet.config import make_config
    from dgnet.model import DGNet
    torch.manual_seed(0)
    cfg = make_config(name, ea_init="random", precision=case["precision"])
    return DGNet(cfg, 751, start=False).to(case["device"], memory_format=torch.channels_last).eval()


def renderer(case: dict) -> tuple:
    n, (h, w) = case["n"], case["image"]
    return lambda k: render(n, h, w, case["device"]), n, 0.0


def loader(case: dict) -> tuple:
    "Reading a folder of JPEGs, names and pixels; the folder goes when the process ends."
    from PIL import Image

    from dgnet.datasets import read_folder
    from dgnet.photos import load_images
    n, (h, w) = case["n"], case["image"]
    case["folder"] = tempfile.TemporaryDirectory()   # kept until the case is done with it
    folder = Path(case["folder"].name)
    few = photos(min(n, 64), h, w).permute(0, 2, 3, 1).numpy()
    for k in range(n):
        Image.fromarray(few[k % len(few)]).save(folder / f"{k // 8 + 1:04d}_c{k % 6 + 1}s1_{k:06d}_00.jpg", quality=95)
    return lambda i: load_images(read_folder(folder, "train"), h, w, case["threads"]), n, 0.0


def sampler(case: dict) -> tuple:
    "Sampler, flip, crop, erasing and the move to the device, for `steps` batches; n is the size of the training set."
    import torch

    from dgnet.config import make_config
    from dgnet.photos import TripletSampler, cache_on_device
    from dgnet.train import batch_to, draw_batch
    n, (h, w) = case["n"], case["image"]
    cfg = make_config("paper", height=h, width=w, batch=case["batch"], ea_init="random")
    images = torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8)
    labels = torch.arange(n) // 8
    draw, rng = TripletSampler(labels, cfg.batch, 0), torch.Generator().manual_seed(0)
    device = torch.device(case["device"])
    images, labels = cache_on_device(images, device), labels.to(device)   # as `fit` does
    def many(k):
        for _ in range(case["steps"]):
            batch_to(draw_batch(images, labels, draw, rng, cfg, device), device)
    return many, 4 * cfg.batch * case["steps"], 0.0   # x_i, x_j and a positive for each


def features(case: dict) -> tuple:
    "E_a on photos and their mirror images, as in the evaluation."
    import numpy as np
    import torch

    from dgnet.datasets import Split
    from dgnet.reid import embed
    m, n = network(case["network"], case), case["n"]
    images = torch.randint(0, 256, (n, 3, m.cfg.height, m.cfg.width), dtype=torch.uint8)
    split = Split([""] * n, np.arange(n), np.ones(n, int), "query")
    with torch.no_grad(), counting() as c:
        m.E_a(torch.zeros(1, 3, m.cfg.height, m.cfg.width, device=case["device"]))
    def f(k):
        with torch.autocast(case["device"], torch.bfloat16, enabled=case["precision"] == "bfloat16"):
            embed(m.E_a, images, split, flip=True, batch=case["batch"])
    return f, n, 2 * c.flop


def generation(case: dict) -> tuple:
    "G(E_a(x_i), E_s(x_j)), pair by pair."
    import torch

    from dgnet.quality import generate_all
    m, n = network(case["network"], case), case["n"]
    images = torch.randint(0, 256, (n, 3, m.cfg.height, m.cfg.width), dtype=torch.uint8)
    x = torch.zeros(1, 3, m.cfg.height, m.cfg.width, device=case["device"])
    with torch.no_grad(), counting() as c:
        m(x, x)
    def f(k):
        with torch.autocast(case["device"], torch.bfloat16, enabled=case["precision"] == "bfloat16"):
            generate_all(m.generate, images, images.flip(0), case["batch"], torch.device(case["device"]))
    return f, n, c.flop


WORK = {"renderer": renderer, "loader": loader, "sampler": sampler, "features": features, "generation": generation}


def measure(case: dict) -> dict:
    "Images per second of one kind of work at one size."
    before = memory(case["device"])["now"]
    f, n, flop = WORK[case["work"]](case)
    for k in range(case["warm_up"]): f(k)
    t = statistics(timed(f, case["repeat"], case["device"]))
    size = case.get("image") or network_size(case["network"])
    return {"work": case["work"], "network": case.get("network"), "precision": case.get("precision") or "float32",
            "image": f"{size[0]}x{size[1]}", "items": case["n"], "batch": case.get("batch"), **t, "images": n,
            "images_s": n / t["median_ms"] * 1e3, "us_per_image": t["median_ms"] / n * 1e3,
            "gflop_per_image": flop / 1e9 or None, "gflop_s": flop * n / t["median_ms"] / 1e6 if flop else None,
            "peak_mib": memory(case["device"])["peak"], "before_mib": before}


def network_size(name: str) -> tuple:
    from dgnet.config import make_config
    cfg = make_config(name)
    return cfg.height, cfg.width


SMALL, MIDDLE, LARGE = (64, 32), (128, 64), (256, 128)
MARKET = 12_936   # training photos of Market-1501
TINY = {"renderer": [(SMALL, 4), (SMALL, 8)], "loader": [(SMALL, 16)], "sampler": [(SMALL, 64)],
        "features": [("smoke", 8)], "generation": [("smoke", 8)]}


def all_sizes(gpu: bool) -> dict[str, list]:
    "Image size or network, and number of items, of each kind of work."
    few = 256 if gpu else 16
    return {"renderer": [(SMALL, 64), (MIDDLE, 64), (LARGE, 16), (LARGE, 64)],
            "loader": [(SMALL, 256), (SMALL, 1024), (LARGE, 256), (LARGE, 1024)],
            "sampler": [(SMALL, 1200), (SMALL, MARKET), (LARGE, 1200), (LARGE, MARKET)],
            "features": [("mini", 128), ("mini", 1024), ("paper", few), ("paper", 4 * few)],
            "generation": [("mini", 128), ("mini", 1024), ("paper", few), ("paper", 2 * few)]}


def cases(a: argparse.Namespace, device: str) -> list:
    "Two to four sizes of each kind of work."
    gpu, every = device == "cuda", []
    sizes = TINY if a.quick else all_sizes(gpu)
    precisions = ["float32"] if a.quick else ["float32", "bfloat16"]
    for work in a.work or WORK:
        for size, n in sizes[work]:
            case = dict(work=work, n=n, warm_up=1, repeat=a.repeat or (2 if a.quick else 3))
            if work in ("features", "generation"):
                small_batch = 16 if size == "paper" else 64
                batch = a.batch or (256 if gpu else small_batch)
                every += [case | dict(network=size, precision=p, batch=batch) for p in precisions]
            elif work == "sampler":
                every.append(case | dict(image=size, batch=a.batch or 8, steps=2 if a.quick else 50))
            else:
                every.append(case | dict(image=size))
    return every


def finish(rows: list, peak: dict) -> dict:
    "Share of the peak, and the growth of the time with the work: 1 is in proportion."
    for r in rows:
        r["of_peak"] = r["gflop_s"] and r["gflop_s"] / r["peak_gflop_s"]
    grown = growth(rows, "items", ("work", "network", "precision", "image"))
    keys = ("work", "network", "items", "batch")
    plain = [r for r in rows if r["precision"] == "float32"]
    faster = [{"work": r["work"], "network": r["network"], "items": r["items"], "ratio": "bfloat16 / float32",
               "of": "images_s", "value": r["images_s"] / p["images_s"]}
              for r in rows for p in plain if r["precision"] == "bfloat16" and all(r[k] == p[k] for k in keys)]
    title = ("growth: time ~ items ^ exponent (sampler: items are the photos of the training set, and 0 is constant "
             "time)")
    note = "of peak: the networks' counted arithmetic over the whole time, reading and converting images included"
    return {"growth": grown, "tables": growth_table(grown, title), "ratios": faster, "notes": [note]}


COLUMNS = {"work": "work", "network": "network", "precision": "precision", "image": "image", "items": "items",
           "batch": "batch", "median_ms": "ms", "spread": "spread", "images_s": "images/s", "us_per_image": "us/image",
           "gflop_per_image": "GFLOP/image", "gflop_s": "GFLOP/s", "of_peak": "of peak", "peak_mib": "peak MiB"}


def main() -> int:
    p = options("throughput", __doc__.partition("\n\n")[0].replace("\n", " "))
    p.add_argument("--work", nargs="+", choices=WORK, help="default: all")
    p.add_argument("--batch", type=positive, help="images at a time; pairs in a batch of the sampler")
    return benchmark("throughput", __file__, p, cases, measure, finish, COLUMNS)


if __name__ == "__main__": sys.exit(main())
