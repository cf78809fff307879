"""Properties that hold for any input: file names, CSV files, the evaluator against its definition, the sampler of
pairs."""

import csv
import io
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dgnet.datasets import is_photo, load_dataset, make_split, name_rule, parse_name, read_csv
from dgnet.photos import PositiveSampler, TripletSampler, reshuffle_clashes
from dgnet.reid import Embeddings, rank_metrics


def often(n: int): return settings(max_examples=n, deadline=None, derandomize=True, database=None)

PEOPLE, CAMERAS, COUNTS = st.integers(0, 10**6), st.integers(0, 999), st.integers(0, 10**7)
SCHEMES = {
    "market": lambda i, c, k, n: f"{i:04d}_c{c}s{k % 7}_{k:06d}_{n % 100:02d}.jpg",
    "market, twice": lambda i, c, k, n: f"{i:04d}_c{c}s{k % 7}_{k:06d}_{n % 100:02d}.jpg.jpg",
    "duke": lambda i, c, k, n: f"{i:04d}_c{c}_f{k:07d}.jpg",
    "cuhk03": lambda i, c, k, n: f"{i:04d}_c{c}_{k}.png",
    "msmt17": lambda i, c, k, n: f"{i:04d}_{n:03d}_{c:02d}_0303morning_{k:04d}_{n % 3}.jpg",
    "msmt17, second": lambda i, c, k, n: f"{i:04d}_{n:03d}_{c:02d}_0303noon_{k:04d}_{n % 3}_ex.jpg",
}


@pytest.mark.parametrize("scheme", SCHEMES)
@often(60)
@given(PEOPLE, CAMERAS, COUNTS, st.integers(0, 999))
def test_a_name_gives_back_what_it_was_made_of(scheme, i, c, k, n):
    name = SCHEMES[scheme](i, c, k, n)
    assert parse_name(name) == (i, c) and is_photo(name)


@often(60)
@given(CAMERAS, COUNTS)
def test_junk_keeps_its_sign(c, k):
    assert parse_name(f"-1_c{c}s1_{k:06d}_00.jpg") == (-1, c)


@often(60)
@given(PEOPLE, st.none() | CAMERAS, st.text("abc _.", max_size=8))
def test_names_by_a_pattern(i, c, ahead):
    rule, name = name_rule(r"(?P<id>\d+)-cam(?P<cam>\d*)"), f"{ahead}{i}-cam{'' if c is None else c}.jpg"
    assert parse_name(name, rule) == (i, -1 if c is None else c)


DIGITS = st.integers(-10, 10**25).map(str)


@often(150)
@given(st.text(max_size=40) | st.tuples(DIGITS, st.sampled_from(["_c", "_0_", "__", "c"]), DIGITS,
                                        st.sampled_from(["_", "s1", ""])).map("".join))
def test_no_name_does_harm(name):
    label = parse_name(name)
    if label is not None:
        assert make_split([Path("x")], [label], "train").ids.tolist() == [label.id]
    assert is_photo(name) in (True, False)


@often(200)
@given(st.text(max_size=30) | st.text(r"()[]\dP<>idcam?+*{}|", max_size=30))
def test_a_pattern_works_or_is_refused(pattern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # of Python's own compiler
        try:
            assert {"id", "cam"} <= set(name_rule(pattern).groupindex)
        except ValueError as e:
            assert str(e).startswith("pattern ") and "Write it like" in str(e)

NAME = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1,
               max_size=20).map(str.strip).filter(lambda s: s and s not in (".", "..") and len(s.encode()) < 200)
SPLITS = ("train", "query", "gallery", "multi_query", "val_query", "val_gallery")


def rows(ids):
    return st.lists(st.tuples(NAME, ids, st.integers(-1, 400), st.sampled_from(SPLITS)), min_size=1, max_size=12,
                    unique_by=lambda r: r[0])


def written(folder: Path, table: list, order: tuple, bom: bool, end: str, quoting: int) -> Path:
    for r in table: (folder / r[0]).touch()
    out = io.StringIO(newline="")
    w = csv.writer(out, lineterminator=end, quoting=quoting)
    w.writerow([("path", "ID", " camera", "split", "remarks")[k] for k in order])
    w.writerows([(*r, "x")[k] for k in order] for r in table)
    (folder / "list.csv").write_bytes(out.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    return folder / "list.csv"

FORM = (st.permutations(range(5)), st.booleans(), st.sampled_from(["\n", "\r\n"]),
        st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))


@often(60)
@given(rows(st.integers(1, 10**9)), *FORM)
def test_a_table_gives_back_what_was_written(table, order, bom, end, quoting):
    assume(any(r[3] == "train" for r in table))
    with tempfile.TemporaryDirectory() as folder:
        assume(not any(r[0].lower() == "list.csv" for r in table))
        data = load_dataset(None, written(Path(folder), table, tuple(order), bom, end, quoting))
    read = {(p.name, int(i), int(c), s.name) for s in data.splits for p, i, c in zip(s.paths, s.ids, s.cams)}
    assert read == set(table) and data.name == "csv" and all(s.paths == sorted(s.paths) for s in data.splits)


@often(40)
@given(rows(st.sampled_from(["Ada", "Grace", "Jo, an", "山田", "Łukasz \"Lu\"", "7"])), *FORM)
def test_a_name_is_one_person_in_all_splits(table, order, bom, end, quoting):
    assume(any(r[3] == "train" for r in table) and any(r[1] != "7" for r in table)
           and not any(r[0].lower() == "list.csv" for r in table))
    with tempfile.TemporaryDirectory() as folder:
        data = read_csv(written(Path(folder), table, tuple(order), bom, end, quoting))
    number = {p.name: int(i) for s in data.splits for p, i in zip(s.paths, s.ids)}
    names = {r[1] for r in table}
    assert {(r[1], number[r[0]]) for r in table} == set(zip(sorted(names), range(1, len(names) + 1)))


@often(150)
@given(st.binary(max_size=120) | st.text("path,id\ncamera split\";\t12a-", max_size=120).map(str.encode))
def test_no_table_does_harm(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "any.csv"
        file.write_bytes(b"path,id\n" * (len(content) % 2) + content)
        try:
            read_csv(file)
        except (ValueError, FileNotFoundError) as e:
            assert str(e).startswith(str(file)) and "Traceback" not in str(e)


def by_definition(scores, ids, cams, q_id, q_cam):
    """One query's rank of the first match, and both average precisions, read off its list; a wrong photo with an equal
    score comes first."""
    kept = [g for g in range(len(ids)) if ids[g] != -1 and not (ids[g] == q_id and q_cam >= 0 and cams[g] == q_cam)]
    kept.sort(key=lambda g: (-scores[g], ids[g] == q_id))
    hits = [rank for rank, g in enumerate(kept) if ids[g] == q_id]
    if not hits: return np.inf, 0.0, 0.0
    trapezoid = standard = 0.0
    for k, rank in enumerate(hits):
        after = (k + 1) / (rank + 1)
        before = k / rank if rank else 1.0
        trapezoid += (before + after) / 2 / len(hits)
        standard += after / len(hits)
    return hits[0], trapezoid, standard


@often(250)
@given(st.data())
def test_the_evaluator_is_its_definition(data):
    n_q, n_g, cameras = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 14)), data.draw(st.booleans())
    def column(values, n):
        return np.array(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=np.int64)
    camera = st.integers(0, 3) if cameras else st.just(-1)
    q_ids, g_ids = column(st.integers(0, 4), n_q), column(st.integers(-1, 4), n_g)
    q_cams, g_cams = column(camera, n_q), column(camera, n_g)
    scores = column(st.integers(-3, 3), n_q * n_g).reshape(n_q, n_g).astype(np.float32)   # few values: many ties
    truth = [by_definition(scores[k], g_ids, g_cams, q_ids[k], q_cams[k]) for k in range(n_q)]
    first, trapezoid, standard = map(np.array, zip(*truth))
    q, g = (Embeddings(torch.zeros(len(i), 1), None, torch.from_numpy(i), torch.from_numpy(c))
            for i, c in ((q_ids, q_cams), (g_ids, g_cams)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if np.isinf(first).all():
            with pytest.raises(ValueError, match="none of the .* queries has a true match"):
                rank_metrics(q, g, scores=torch.from_numpy(scores))
            return
        r = rank_metrics(q, g, scores=torch.from_numpy(scores), chunk=data.draw(st.integers(1, 7)))
    assert r.protocol == ("cross-camera" if cameras else "no cameras") and np.array_equal(r.first, first)
    for k, rate in ((1, r.rank1), (5, r.rank5), (10, r.rank10)):
        assert abs(rate - (first < k).mean()) < 1e-12
    assert np.allclose(r.ap, trapezoid, atol=1e-12) and np.allclose(r.ap_standard, standard, atol=1e-12)
    assert abs(r.mAP - trapezoid.mean()) < 1e-12 and abs(r.mAP_standard - standard.mean()) < 1e-12

SEVERAL = st.lists(st.integers(1, 7), min_size=2, max_size=9)   # photos of each person


@st.composite
def people(draw):
    labels = np.repeat(np.arange(len(shots := draw(SEVERAL))), shots)
    return labels[draw(st.permutations(range(len(labels))))]


@often(100)
@given(people(), st.integers(0, 2**40))
def test_another_photo_of_the_same_person(labels, seed):
    y, rng = torch.from_numpy(labels), torch.Generator().manual_seed(seed)
    index = torch.arange(len(y)).repeat(3)
    t = PositiveSampler(y).another(index, rng)
    alone = torch.bincount(y)[y[index]] == 1
    assert torch.equal(y[t], y[index])
    assert torch.equal(t == index, alone), "another one wherever there is a choice, itself where there is none"


@often(60)
@given(people(), st.integers(0, 2**40), st.integers(1, 5), st.integers(1, 2), st.booleans())
def test_an_epoch_of_pairs(labels, seed, batch, world, distinct):
    assume(len(labels) >= batch * world and (not distinct or np.bincount(labels).max() <= len(labels) / 3))
    ranks = [TripletSampler(labels, batch, seed, distinct, rank=r, world=world) for r in range(world)]
    y, steps = ranks[0].labels, ranks[0].steps
    alone = torch.bincount(y)[y] == 1
    for _ in range(2):
        epoch = [next(s) for _ in range(steps) for s in ranks]
        for t in epoch:
            assert torch.equal(y[t.i], y[t.t_i]) and torch.equal(y[t.j], y[t.t_j])
            assert torch.equal(t.i == t.t_i, alone[t.i]) and torch.equal(t.j == t.t_j, alone[t.j])
            if distinct:
                assert (y[t.i] != y[t.j]).all()
        for role in ("i", "j"):
            drawn = torch.cat([getattr(t, role) for t in epoch])
            assert len(drawn) == steps * batch * world, "only the rest of a batch not at all"
            assert len(drawn.unique()) == len(drawn), "each photo at most once"
            if len(labels) == len(drawn):
                assert set(drawn.tolist()) == set(range(len(labels)))


@often(60)
@given(people(), st.integers(0, 2**40), st.integers(1, 4), st.integers(0, 40), st.booleans())
def test_a_sampler_goes_on_from_any_step(labels, seed, batch, stop, distinct):
    assume(len(labels) >= batch and (not distinct or np.bincount(labels).max() <= len(labels) / 3))
    a = TripletSampler(labels, batch, seed, distinct)
    for _ in range(stop): next(a)
    b = TripletSampler(labels, batch, seed, distinct)
    b.load_state_dict(dict(a.state_dict()))
    for _ in range(12):
        assert all(torch.equal(x, y) for x, y in zip(next(a), next(b)))


@often(60)
@given(people(), st.integers(0, 2**40))
def test_pairs_that_cannot_be_kept_apart_are_refused(labels, seed):
    y, rng = torch.from_numpy(labels), torch.Generator().manual_seed(seed)
    i, j = torch.randperm(len(y), generator=rng), torch.randperm(len(y), generator=rng)
    most = np.bincount(labels).max()
    try:
        apart = reshuffle_clashes(y[i], j, y, rng)
    except ValueError as e:
        assert re.match("distinct=True: one person holds so many", str(e)) and most > len(y) / 3
    else:
        assert (y[apart] != y[i]).all() and sorted(apart.tolist()) == list(range(len(y))) and most <= len(y) / 2
