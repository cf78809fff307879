"""Evaluation at Market-1501's and MSMT17's size, CMC and both APs from both heads, against a loop over the queries.

Features are random: a centre for each person, the same at every camera, and noise; persons, cameras and distractors are
as many as in the real sets. The loop is the textbook's: for each query all scores, a full argsort, index sets of good
and of junk photos, and the trapezoid rule in Python. At MSMT17's size it runs on some of the queries and its time is
scaled up. Both must find the same APs."""
import argparse
import sys
import time

from common import benchmark, growth, growth_table, memory, options, positive, usage

SIZES = {   # queries, gallery, people among them, distractors in the gallery, cameras
    "tiny": (40, 300, 20, 60, 4), "small": (800, 4_000, 180, 700, 6),
    "market": (3_368, 15_913, 750, 2_798, 6), "msmt17": (11_659, 82_161, 3_060, 0, 15),
}
D = 512        # numbers in a head's feature
LIMIT_GIB = 6  # MSMT17's evaluation must fit in here


def embeddings(n: int, ids, n_cams: int, centres, rng):
    "Photos of these people by random cameras."
    import torch
    import torch.nn.functional as F

    from dgnet.reid import Embeddings
    def features(c):
        return F.normalize(c[ids] + 3.0 * torch.randn(n, D, generator=rng) / D**0.5, dim=1)
    prim, fine = features(centres[0]), features(centres[1])
    return Embeddings(prim, fine, ids, torch.randint(1, n_cams + 1, (n,), generator=rng))


def two_sides(size: str):
    "Query and gallery."
    import torch
    import torch.nn.functional as F
    n_query, n_gallery, people, distractors, n_cams = SIZES[size]
    rng = torch.Generator().manual_seed(0)
    centres = [F.normalize(torch.randn(people + 1, D, generator=rng), dim=1) for _ in range(2)]
    known = torch.arange(n_gallery - distractors) % people + 1
    ids = torch.cat([known, torch.zeros(distractors, dtype=torch.long)])
    gallery = embeddings(n_gallery, ids[torch.randperm(n_gallery, generator=rng)], n_cams, centres, rng)
    return embeddings(n_query, torch.arange(n_query) % people + 1, n_cams, centres, rng), gallery


def by_loop(query, gallery, rows: list, beta: float) -> list:
    "AP (trapezoid) and first rank of some queries, one at a time, from the definition."
    import numpy as np
    import torch
    features = torch.cat([gallery.prim, gallery.fine], 1)
    wanted = torch.cat([query.prim, beta * query.fine], 1)
    gallery_ids, gallery_cams, ids, cams = (v.numpy() for v in (gallery.ids, gallery.cams, query.ids, query.cams))
    results = []
    for k in rows:
        score = torch.mm(features, wanted[k].view(-1, 1)).squeeze(1).numpy()
        order = np.argsort(score)[::-1]
        same_person, same_camera = np.argwhere(gallery_ids == ids[k]), np.argwhere(gallery_cams == cams[k])
        good = np.setdiff1d(same_person, same_camera)
        junk = np.append(np.argwhere(gallery_ids == -1), np.intersect1d(same_person, same_camera))
        order = order[np.isin(order, junk, invert=True)]
        ranks = np.argwhere(np.isin(order, good)).flatten()
        cmc = np.zeros(len(order), dtype=int)
        if not len(good):
            results.append((0.0, np.inf))
            continue
        cmc[ranks[0]:] = 1
        ap = 0.0
        for i, r in enumerate(ranks):
            before = i / r if r else 1.0
            ap += (before + (i + 1) / (r + 1)) / 2 / len(good)
        results.append((ap, int(ranks[0])))
    return results


def measure(case: dict) -> dict:
    "One evaluation, whole; then, in the process of the loop, the loop."
    import warnings

    import numpy as np

    from dgnet.reid import rank_metrics
    warnings.simplefilter("ignore")   # a few random queries have no match at another camera
    query, gallery = two_sides(case["size"])
    n_query, n_gallery = len(query.ids), len(gallery.ids)
    before, rows = memory()["now"], np.random.default_rng(0).permutation(n_query)[:case["queries"]].tolist()
    row = {"size": case["size"], "queries": n_query, "gallery": n_gallery, "method": case["method"],
           "features_mib": 8 * D * (n_query + n_gallery) / 2**20}
    if case["method"] == "loop":
        began, used = time.perf_counter(), usage()["cpu"]
        results = by_loop(query, gallery, rows, 0.5)
        seconds, used = time.perf_counter() - began, usage()["cpu"] - used
        ap = np.array([ap for ap, _ in results])
        return row | {"measured": len(rows), "median_ms": 1e3 * seconds * n_query / len(rows),
                      "cpu_ms": 1e3 * used * n_query / len(rows), "ms_per_query": 1e3 * seconds / len(rows),
                      "mAP": float(ap.mean()), "ap": ap.tolist(), "peak_mib": memory()["peak"],
                      "above_mib": memory()["peak"] - before, "gflop_s": 4e-9 * D * len(rows) * n_gallery / seconds}
    sides = [e._replace(**{k: v.to(case["device"]) for k, v in e._asdict().items()}) for e in (query, gallery)]
    rank_metrics(sides[0].take(slice(0, 64)), sides[1])   # warm-up
    times, used = [], usage()["cpu"]
    for _ in range(case["repeat"]):
        began = time.perf_counter()
        r = rank_metrics(*sides)
        times.append(time.perf_counter() - began)   # it ends with numbers on the CPU
    ms, used = 1e3 * float(np.median(times)), (usage()["cpu"] - used) / len(times)
    if case["device"] == "cuda":
        before = 0.0
    peak = memory(case["device"])["peak"]
    return row | {"measured": n_query, "median_ms": ms, "min_ms": 1e3 * min(times), "cpu_ms": 1e3 * used,
                  "ms_per_query": ms / n_query, "mAP": r.mAP, "rank1": r.rank1, "ap": r.ap[rows].tolist(),
                  "peak_mib": peak, "above_mib": peak - before, "gflop_s": 4e-6 * D * n_query * n_gallery / ms}


def cases(a: argparse.Namespace, device: str) -> list:
    sizes = a.sizes or (["tiny"] if a.quick else ["small", "market", "msmt17"])
    def part(size):
        return min(SIZES[size][0], a.queries or (200 if size == "msmt17" else SIZES[size][0]))
    return [dict(size=s, method=m, queries=part(s), repeat=a.repeat or (1 if s == "msmt17" else 3))
            for s in sizes for m in ("package", "loop")]


def finish(rows: list, peak: dict) -> dict:
    "How many times faster, and whether both found the same."
    speed_ups, notes = [], []
    for ours, loop in zip(rows[::2], rows[1::2]):
        pairs = list(zip(ours.pop("ap"), loop.pop("ap"), strict=True))
        worst, mean = max(abs(x - y) for x, y in pairs), abs(sum(x - y for x, y in pairs)) / len(pairs)
        for key, of in (("median_ms", "whole time"), ("cpu_ms", "processor time")):
            speed_ups.append({"size": ours["size"], "ratio": "loop / package", "of": of,
                              "value": loop[key] / ours[key]})
        ours["largest_difference"] = worst
        scaled = "" if loop["measured"] == loop["queries"] else ", its time is scaled up"
        notes.append(f"{ours['size']}: the loop ran on {loop['measured']:,} of {loop['queries']:,} queries{scaled}; "
                     f"largest difference of an AP {worst:.1e}")
        if mean > 1e-4:
            raise ValueError(f"at size {ours['size']} the package and the loop disagree on mAP by {mean:.3g}, more "
                             "than near-ties explain: one of them is wrong")
        if ours["size"] == "msmt17":
            notes.append(f"msmt17: {ours['peak_mib'] / 1024:.2f} GiB at most, features included; the limit is "
                         f"{LIMIT_GIB} GiB: {'kept' if ours['peak_mib'] <= 1024 * LIMIT_GIB else 'NOT KEPT'}")
    for r in rows:
        r["pairs"] = r["queries"] * r["gallery"]
        r["seconds"], r["cpu_s"] = r["median_ms"] / 1e3, r["cpu_ms"] / 1e3
        r["of_peak"] = r["gflop_s"] and r["gflop_s"] / r["peak_gflop_s"]
    grown = growth(rows, "pairs", ("method",))
    return {"ratios": speed_ups, "growth": grown,
            "tables": growth_table(grown, "growth: time ~ (queries x gallery) ^ exponent"),
            "notes": notes + ["of peak: the scores' matrix products alone, over the whole time"]}


COLUMNS = {"size": "size", "queries": "queries", "gallery": "gallery", "method": "method", "measured": "measured",
           "seconds": "seconds", "cpu_s": "CPU s", "ms_per_query": "ms/query", "mAP": "mAP",
           "features_mib": "features MiB", "peak_mib": "peak MiB", "above_mib": "above features", "of_peak": "of peak"}


def main() -> int:
    p = options("evaluation", __doc__.partition("\n\n")[0].replace("\n", " "))
    p.add_argument("--sizes", nargs="+", choices=SIZES, help="default: small, market and msmt17")
    p.add_argument("--queries", type=positive, help="queries that the loop runs on; default: all, at MSMT17's size 200")
    return benchmark("evaluation", __file__, p, cases, measure, finish, COLUMNS)


if __name__ == "__main__": sys.exit(main())
