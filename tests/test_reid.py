"""The evaluator against slow loops written from the definitions."""
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dgnet.appearance import AppearanceEncoder, BaselineNet
from dgnet.datasets import Split
from dgnet.large_galleries import re_rank_in_chunks
from dgnet.reid import (
    Embeddings, average_precision, by_person, camera_rule, count_above, embed, identity_columns, match_ranks,
    multi_query, paired_bootstrap, rank_metrics, ranked_list, re_rank, show_ranked_list, similarity,
)


def random_set(n, n_ids, n_cams, seed, low=1, d=8):
    "Features around one centre per person, so that rankings are neither perfect nor blind."
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((2, n_ids + 2, d))
    ids, cams = rng.integers(low, n_ids + 1, n), rng.integers(1, n_cams + 1, n)
    f = centres[:, ids] + 1.2 * rng.standard_normal((2, n, d))
    prim, fine = F.normalize(torch.from_numpy(f).float(), dim=2)
    return Embeddings(prim, fine, torch.from_numpy(ids), torch.from_numpy(cams))


def slow_ranking(q, g, beta):
    "Per query: the list without junk as 1/0 for right/wrong, by plain loops."
    lists = []
    for k in range(len(q.ids)):
        scored = []
        for m in range(len(g.ids)):
            if g.ids[m] == -1 or (g.ids[m] == q.ids[k] and g.cams[m] == q.cams[k]): continue
            score = float(q.prim[k].double() @ g.prim[m].double() + beta * (q.fine[k].double() @ g.fine[m].double()))
            scored.append((-score, int(g.ids[m] == q.ids[k])))
        lists.append([right for _, right in sorted(scored)])
    return lists


def slow_ap(right):
    "Area under the precision-recall polygon, and the mean precision at the matches, walking down the list."
    n = sum(right)
    if n == 0: return 0.0, 0.0
    area, total, hits, recall, precision = 0.0, 0.0, 0, 0.0, 1.0
    for length, r in enumerate(right, start=1):
        hits += r
        now_recall, now_precision = hits / n, hits / length
        area += (now_recall - recall) * (now_precision + precision) / 2
        total += r * now_precision
        recall, precision = now_recall, now_precision
    return area, total / n


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.3])
def test_against_brute_force(seed, beta):
    q, g = random_set(25, 9, 4, seed), random_set(140, 9, 4, seed + 100, low=-1)
    lists = slow_ranking(q, g, beta)
    aps = np.array([slow_ap(right) for right in lists])
    r = rank_metrics(q, g, beta, chunk=7)
    np.testing.assert_allclose(r.ap, aps[:, 0], atol=1e-9)
    np.testing.assert_allclose(r.ap_standard, aps[:, 1], atol=1e-9)
    assert r.mAP == pytest.approx(aps[:, 0].mean()) and r.mAP_standard == pytest.approx(aps[:, 1].mean())
    for k, rate in ((1, r.rank1), (5, r.rank5), (10, r.rank10)):
        assert rate == pytest.approx(np.mean([any(right[:k]) for right in lists]))
    assert r.hit.mean() == pytest.approx(r.rank1) and r.protocol == "cross-camera"


def test_gallery_order_and_chunks_do_not_matter():
    q, g = random_set(30, 8, 3, 1), random_set(200, 8, 3, 2, low=-1)
    mixed = g.take(torch.randperm(200, generator=torch.Generator().manual_seed(0)))
    a = rank_metrics(q, g)
    for b in (rank_metrics(q, mixed), rank_metrics(q, g, chunk=4)):
        np.testing.assert_allclose(a.ap, b.ap, atol=1e-6)


def labels(ids, cams):
    one = torch.ones(len(ids), 1)
    return Embeddings(one, one, torch.tensor(ids), torch.tensor(cams))


def test_ties_count_against_us():
    "A network that says the same of everybody must not look perfect, in whatever order the gallery comes."
    q = labels([1], [1])
    for order in ([1, 2, 3], [3, 2, 1]):
        r = rank_metrics(q, labels(order, [2, 2, 2]))
        assert r.rank1 == 0 and r.first[0] == 2


def many_ties(n, seed):
    """Features of few values, so that scores are exact and often equal; people 0 to 6, of whom 0 is asked for too, and
    junk."""
    rng = np.random.default_rng(seed)
    f = torch.from_numpy(rng.integers(-1, 2, (2, n, 3))).float()
    return Embeddings(f[0], f[1], torch.from_numpy(rng.integers(-1, 7, n)), torch.from_numpy(rng.integers(1, 4, n)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("head", ["both", "prim", "fine"])
@pytest.mark.filterwarnings("ignore:.*have no true match")
def test_the_board_and_the_masks_agree(seed, head):
    # a gallery that fills whole lines of the board, and not
    q, g = many_ties(23, seed), many_ties([15, 16, 17, 160][seed % 4], seed + 50)
    scores = similarity(q, g, 0.5, head)
    ranks = match_ranks(scores, camera_rule(q, g))
    truth = average_precision(ranks)
    for r in (rank_metrics(q, g, head=head), rank_metrics(q, g, head=head, chunk=5), rank_metrics(q, g, scores=scores,
                                                                                                  chunk=23),
              rank_metrics(q, g, scores=scores.double())):
        np.testing.assert_array_equal(r.first, ranks[:, 0].numpy())
        np.testing.assert_allclose(r.ap, truth.trapezoid.numpy(), atol=1e-12)
        np.testing.assert_allclose(r.ap_standard, truth.standard.numpy(), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_own_photos_are_the_camera_rule(seed):
    q, g = many_ties(31, seed), many_ties(90, seed + 9)
    order = by_person(g)
    photos, masks = identity_columns(q, g.take(order)), camera_rule(q, g)
    assert sorted(order.tolist()) == torch.nonzero(g.ids != -1)[:, 0].tolist()
    for k in range(31):
        columns = photos.column[k][photos.column[k] < len(order)]
        assert sorted(order[columns].tolist()) == torch.nonzero((g.ids == q.ids[k]) & (g.ids != -1))[:, 0].tolist()
        assert sorted(order[photos.column[k][photos.match[k]]].tolist()) == torch.nonzero(masks.match[k])[:, 0].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_count_above_counts(seed):
    rng = np.random.default_rng(seed)
    wrong, right = (torch.from_numpy(rng.integers(-5, 5, shape)).float() for shape in ((9, 70), (9, 4)))
    wrong[rng.random((9, 70)) < 0.2] = -torch.inf
    right[0] = right[1, 2:] = -torch.inf   # none at all; two of four
    right = right.sort(1, descending=True).values
    is_match = right > -torch.inf
    assert torch.equal(count_above(wrong, right)[is_match], (wrong[:, None] >= right[..., None]).sum(2)[is_match])


def test_neither_features_nor_scores_are_changed():
    q, g = random_set(20, 5, 3, 1), random_set(60, 5, 3, 2, low=-1)
    scores = similarity(q, g)
    before = [v.clone() for v in (*q, *g, scores)]
    rank_metrics(q, g), rank_metrics(q, g, scores=scores), match_ranks(scores, camera_rule(q, g))
    assert all(map(torch.equal, before, (*q, *g, scores)))


def test_nan_is_not_a_perfect_network():
    "Every comparison with NaN is false, so nothing would stand above a match."
    q, g = random_set(20, 5, 3, 1), random_set(60, 5, 3, 2)
    spoilt = q._replace(fine=q.fine.clone())
    spoilt.fine[3:6, 1] = torch.nan
    with pytest.raises(ValueError, match="the query's f_fine is not finite in 3 of 20 photos"):
        rank_metrics(spoilt, g)
    with pytest.raises(ValueError, match="the gallery's f_prim is not finite in 60 of 60 photos"):
        rank_metrics(q, g._replace(prim=g.prim * torch.inf))
    assert rank_metrics(spoilt, g, head="prim").mAP == rank_metrics(q, g,
                                                                    head="prim").mAP, ("a head that is not asked does "
                                                                                       "not matter")
    with pytest.raises(ValueError, match="scores hold NaN"):
        rank_metrics(q, g, scores=similarity(spoilt, g))
    with pytest.raises(ValueError, match="scores hold NaN"):
        match_ranks(similarity(spoilt, g), camera_rule(q, g))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_features_of_another_type(dtype):
    "Compared in float32: half precision would make ties, and ties count against us."
    q, g = (e._replace(prim=e.prim.to(dtype), fine=e.fine.to(dtype)) for e in (random_set(20, 5, 3, 1),
                                                                               random_set(60, 5, 3, 2)))
    single = [e._replace(prim=e.prim.float(), fine=e.fine.float()) for e in (q, g)]
    np.testing.assert_array_equal(rank_metrics(q, g).ap, rank_metrics(*single).ap)


def test_camera_and_junk_rules():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    g = labels([7, -1, 0, 7, 3], [1, 2, 2, 2, 2])   # same camera; junk; distractor; the match; another person
    r = rank_metrics(labels([7], [1]), g, scores=scores)
    assert r.first[0] == 1, "only the distractor stands above the match"
    assert r.ap[0] == pytest.approx((0 + 1 / 2) / 2) and r.ap_standard[0] == pytest.approx(1 / 2)


def test_an_id_of_zero_may_be_a_person():
    assert rank_metrics(labels([0], [1]), labels([0], [2])).rank1 == 1


def test_ap_at_the_limits():
    inf = torch.inf
    best = average_precision(torch.tensor([[0.0, 1.0, inf]]).double())
    none = average_precision(torch.tensor([[inf, inf]]).double())
    assert best.trapezoid == 1 and best.standard == 1 and none.trapezoid == 0 and none.standard == 0


def test_missing_cameras_are_said():
    q, g = labels([1, 2], [-1, -1]), labels([1, 2, 2], [-1, -1, -1])
    with pytest.warns(UserWarning, match="no camera labels"):
        r = rank_metrics(q, g)
    assert r.protocol == "no cameras" and r.rank10 == 1
    with pytest.raises(ValueError, match="3 of 5 photos have no camera label"):
        rank_metrics(labels([1, 2], [1, 2]), g)


def test_queries_without_a_match_are_said():
    g = labels([1, 2], [2, 1])
    with pytest.warns(UserWarning, match=r"1 of 2 queries have no true match and count as 0 \(persons: 2\)"):
        r = rank_metrics(labels([1, 2], [1, 1]), g, scores=torch.eye(2))
    assert r.ap.tolist() == [1, 0] and r.mAP == 0.5 and r.first[1] == np.inf
    with pytest.raises(ValueError, match="none of the 1 queries has a true match"):
        rank_metrics(labels([5], [1]), g)


def test_nothing_to_rank_is_said():
    q = labels([1], [1])
    with pytest.raises(ValueError, match="the gallery is empty"):
        rank_metrics(q, q.take(slice(0, 0)))
    with pytest.raises(ValueError, match="the query is empty"):
        rank_metrics(q.take(slice(0, 0)), q)
    nobody = Split([], np.array([], dtype=np.int64), np.array([], dtype=np.int64), "gallery")
    with pytest.raises(ValueError, match="'gallery' holds no photo"):
        embed(encoder(), torch.empty(0, 3, 32, 16, dtype=torch.uint8), nobody)


def test_multi_query_is_a_plain_mean():
    q, more = random_set(12, 4, 2, 3), random_set(80, 4, 2, 4)
    out = multi_query(q, more)
    for k in range(12):
        rows = (more.ids == q.ids[k]) & (more.cams == q.cams[k])
        torch.testing.assert_close(out.prim[k], more.prim[rows].mean(0))
        torch.testing.assert_close(out.fine[k], more.fine[rows].mean(0))
    with pytest.raises(ValueError, match="have no photo of their person at their camera"):
        multi_query(q, more.take(slice(0, 3)))


def test_beta_weighs_the_query_only():
    q, g = random_set(5, 4, 2, 5), random_set(9, 4, 2, 6)
    official = torch.cat([q.prim, 0.5 * q.fine], 1) @ torch.cat([g.prim, g.fine], 1).T
    concatenated = torch.cat([q.prim, 0.5 * q.fine], 1) @ torch.cat([g.prim, 0.5 * g.fine], 1).T
    torch.testing.assert_close(similarity(q, g, 0.5), official)
    torch.testing.assert_close(similarity(q, g, 0.5, beta_on="both"), concatenated)
    torch.testing.assert_close(similarity(q._replace(fine=None), g._replace(fine=None)), q.prim @ g.prim.T)


@pytest.mark.parametrize("recipe, side", [("official", 1.0), ("paper", 0.5)])
def test_each_recipe_weighs_its_side(monkeypatch, recipe, side):
    "D10: what `runs.evaluate` makes of a network's features, against the concatenation that the recipe stands for."
    from dgnet import runs
    from dgnet.config import make_config
    q, g, cfg = random_set(12, 4, 2, 5), random_set(40, 4, 2, 6), make_config("paper", recipe=recipe)
    flips, query = [], photos(12)[1]
    monkeypatch.setattr(runs, "load_split", lambda split, cfg: None)
    monkeypatch.setattr(runs, "embed", lambda net, images, split, flip: flips.append(flip)
                        or (q if split is query else g))
    scores = torch.cat([q.prim, cfg.beta * q.fine], 1) @ torch.cat([g.prim, side * g.fine], 1).T
    np.testing.assert_allclose(runs.evaluate(encoder(), query, photos(40)[1], cfg)["both"].ap,
                               rank_metrics(q, g, scores=scores).ap, atol=1e-9)
    assert flips == [recipe == "official"] * 2


def encoder():
    torch.manual_seed(0)
    return AppearanceEncoder(5, "basic", (1, 1, 1, 1), 8, embed_dim=16)


def photos(n):
    x = torch.randint(0, 256, (n, 3, 32, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return x, Split([Path(f"{n}-{k}.jpg") for k in range(n)], np.arange(1, n + 1), np.ones(n, np.int64), "query")


def test_embed():
    x, split = photos(7)
    net = encoder().train()
    net.head_fine.eval()
    e = embed(net, x, split, batch=3)
    assert net.training and not net.head_fine.training, "every module's mode is put back"
    for f in (e.prim, e.fine): torch.testing.assert_close(f.norm(dim=1), torch.ones(7))
    mirrored = embed(net, x.flip(-1), split, batch=7)
    torch.testing.assert_close(e.fine, mirrored.fine, atol=1e-5, rtol=0)
    plain = embed(net, x, split, flip=False)
    summed = F.normalize(plain.prim + embed(net, x.flip(-1), split, flip=False).prim, dim=1)
    torch.testing.assert_close(e.prim, summed, atol=1e-5, rtol=0)
    assert e.ids.tolist() == list(range(1, 8))


def test_embed_one_head():
    x, split = photos(3)
    net = BaselineNet(5, "basic", (1, 1, 1, 1), 8, embed_dim=16)
    assert embed(net, x, split).fine is None
    with pytest.raises(ValueError, match="3 images for the 2 labels"):
        embed(net, x, split.take(slice(0, 2)))


def slow_re_rank(f, n_query, k1, k2, lam):
    "Zhong et al. 2017 with sets and loops: Eqs 2, 4, 7, 10, 12."
    n = len(f)
    d = np.array([[((f[i] - f[j]) ** 2).sum() for j in range(n)] for i in range(n)])
    d /= d.max(1, keepdims=True)
    order = np.argsort(d, 1, kind="stable")
    def mutual(i, k): return {j for j in order[i, :k + 1] if i in order[j, :k + 1]}
    v = np.zeros((n, n))
    for i in range(n):
        base = mutual(i, k1)
        full = set(base)
        for j in base:
            half = mutual(j, round(k1 / 2))
            if len(base & half) > 2 / 3 * len(half):
                full |= half
        for j in full:
            v[i, j] = np.exp(-d[i, j])
        v[i] /= v[i].sum()
    v = np.array([v[order[i, :k2]].mean(0) for i in range(n)])
    out = np.zeros((n_query, n - n_query))
    for i in range(n_query):
        for j in range(n_query, n):
            jaccard = 1 - np.minimum(v[i], v[j]).sum() / np.maximum(v[i], v[j]).sum()
            out[i, j - n_query] = (1 - lam) * jaccard + lam * d[i, j]
    return out


@pytest.mark.parametrize("k1, k2", [(20, 6), (8, 3), (5, 1)])
def test_re_ranking_against_loops(k1, k2):
    q, g = random_set(12, 6, 3, 7), random_set(50, 6, 3, 8)
    both = [torch.cat([e.prim, 0.5**0.5 * e.fine], 1).double().numpy() for e in (q, g)]
    np.testing.assert_allclose(-re_rank(q, g, 0.5, k1, k2).numpy(), slow_re_rank(np.concatenate(both), 12, k1, k2, 0.3),
                               atol=1e-5)


def test_re_ranking_helps_on_clusters():
    q, g = random_set(40, 8, 4, 9), random_set(200, 8, 4, 10)
    assert rank_metrics(q, g, scores=re_rank(q, g)).mAP > rank_metrics(q, g).mAP


def test_paired_bootstrap():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(40), 5)
    person = rng.normal(0.02, 0.1, 40)[ids]
    b = rng.random(200)
    a = b + person
    assert paired_bootstrap(b, b, ids) == (0, 0, 0)
    np.testing.assert_allclose(paired_bootstrap(b + 0.1, b, ids), 0.1)
    grouped, alone = paired_bootstrap(a, b, ids), paired_bootstrap(a, b, np.arange(200))
    assert grouped.mean == pytest.approx(np.mean(a - b)) and grouped.low < grouped.mean < grouped.high
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low), "five photos of one person are not five people"
    assert paired_bootstrap(a, b, ids, seed=3) == paired_bootstrap(a, b, ids, seed=3)


def test_ranked_list_leaves_junk_out():
    q, g = random_set(6, 5, 3, 11), random_set(30, 5, 3, 12, low=-1)
    r = ranked_list(q, g, k=30)
    s = similarity(q, g)
    for k in range(6):
        rows = r.index[k][r.index[k] >= 0]
        assert (g.ids[rows] != -1).all() and (s[k, rows].diff() <= 0).all()
        assert not ((g.ids[rows] == q.ids[k]) & (g.cams[rows] == q.cams[k])).any()
        assert torch.equal(r.match[k][r.index[k] >= 0], g.ids[rows] == q.ids[k])
    pictures = torch.zeros(30, 3, 8, 4, dtype=torch.uint8)
    assert len(show_ranked_list(pictures[:6], pictures, ranked_list(q, g, k=4), [0, 3]).axes) == 10


def test_no_warning_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_metrics(random_set(20, 4, 3, 13), random_set(90, 4, 3, 14))


def few(ids, cam=1):
    n = len(ids)
    return Embeddings(torch.eye(8)[:n], torch.eye(8)[:n], torch.tensor(ids), torch.full((n,), cam))


@pytest.mark.parametrize("scores, standard", [
    ([[1.0, -np.inf, 0.5, 2.0], [0.1, 0.2, 0.9, 0.3]], (1 / 1 + 2 / 4) / 2),   # matches at ranks 1 and 4
    ([[1.0, np.inf, 0.5, 2.0], [0.1, 0.2, 0.9, 0.3]], 1.0),
    ([[-np.inf, -np.inf, 0.5, -np.inf], [0.1, 0.2, 0.9, 0.3]], (1 / 3 + 2 / 4) / 2),   # a tie counts against us
])
def test_infinities_rank_as_what_they_are(scores, standard):
    result = rank_metrics(few([7, 2]), few([1, 7, 2, 7], 2), scores=scores)
    assert result.ap_standard[0] == pytest.approx(standard)
    masks = camera_rule(few([7, 2]), few([1, 7, 2, 7], 2))
    assert np.isfinite(match_ranks(scores, masks)[0].numpy()).sum() == 2, "no match vanishes"


def test_numbers_of_every_kind_give_the_same():
    q, g = random_set(20, 5, 3, 1), random_set(60, 5, 3, 2)
    scores = similarity(q, g)
    expected = rank_metrics(q, g, scores=scores)
    arrays = [Embeddings(*(v.numpy() for v in e)) for e in (q, g)]
    lists = [Embeddings(*(v.tolist() for v in e)) for e in (q, g)]
    for queries, gallery in ((q, g), arrays, lists):
        for values in (scores, scores.numpy(), scores.double().numpy()[::-1][::-1], scores.tolist(), None):
            assert rank_metrics(queries, gallery, scores=values).mAP == pytest.approx(expected.mAP, abs=1e-7)
    whole = (scores * 1000).round()
    by_integers = rank_metrics(q, g, scores=whole.long().numpy())
    assert by_integers.mAP == rank_metrics(q, g, scores=whole).mAP


def test_double_scores_are_not_rounded_to_ties():
    q, g = few([7]), few([7, 2], 2)
    scores = np.array([[1.0 + 1e-12, 1.0]])
    assert rank_metrics(q, g, scores=scores).rank1 == 1, "in float32 the two would tie, and a tie counts against us"


@pytest.mark.parametrize("scores, words", [
    (torch.rand(3, 4), r"of shape \(3, 4\); 2 queries and 4 gallery photos need \(2, 4\)"),
    (torch.rand(4), r"of shape \(4,\)"), ([[1, 2], [3]], "no table of numbers"), ("high", "the scores"),
    ([["a"] * 4] * 2, "no table of numbers"), (np.full((2, 4), np.nan), "NaN in 8 places"),
    (np.ones((2, 4), "c8"), "real"),
    ([[None] * 4] * 2, "no table of numbers")])
def test_scores_that_cannot_be_ranked_are_refused_by_name(scores, words):
    with pytest.raises(ValueError, match=words):
        rank_metrics(few([7, 2]), few([1, 7, 2, 7], 2), scores=scores)


@pytest.mark.parametrize("change, words", [
    ({"ids": [7]}, r"the query's prim is of shape \(2, 8\), its ids \(1,\)"),
    ({"cams": [1, 1, 1]}, r"the query's cams is of shape \(3,\), its ids \(2,\)"),
    ({"ids": ["anna", "ben"]}, "the query's ids: no table of numbers"),
    ({"ids": [7.5, 2]}, "the query's ids: no whole"),
    ({"ids": [float("nan"), 2]}, "the query's ids: no whole"),
    ({"prim": torch.eye(2)}, r"the query's f_prim is of shape \(2, 2\), the gallery's \(4, 8\)"),
    ({"fine": None}, r"f_fine is of shape None, the gallery's \(4, 8\)"),
    ({"prim": torch.eye(8)[0]}, r"the query's prim: float32 of shape \(8,\)"),
])
@pytest.mark.parametrize("rank", [rank_metrics, re_rank], ids=lambda f: f.__name__)
def test_tables_that_do_not_fit_say_both_shapes(change, words, rank):
    with pytest.raises(ValueError, match=words): rank(few([7, 2])._replace(**change), few([1, 7, 2, 7], 2))


def test_an_unknown_head_is_refused():
    for head in ("fused", "f_prim"):
        with pytest.raises(ValueError, match="prim, fine and both"):
            rank_metrics(few([7]), few([7], 2), head=head)
    with pytest.raises(ValueError, match="no f_fine"):
        rank_metrics(few([7])._replace(fine=None), few([7], 2)._replace(fine=None), head="fine")


def test_two_methods_are_compared_query_by_query():
    with pytest.raises(ValueError, match=r"a is of shape \(3,\), b \(1,\)"):
        paired_bootstrap(np.ones(3), np.ones(1), np.arange(3))
    with pytest.raises(ValueError, match="not finite"):
        paired_bootstrap(np.array([1.0, np.nan]), np.ones(2), np.arange(2))


def test_re_ranking_says_how_much_memory_it_needs_before_it_asks(monkeypatch):
    q, g = random_set(20, 5, 3, 1), random_set(60, 5, 3, 2)
    monkeypatch.setattr("dgnet.reid.neighbours", lambda *_: pytest.fail("asked for"))
    monkeypatch.setattr("dgnet.reid.free_memory", lambda device: 80**2 * 16 - 1)
    with pytest.raises(MemoryError, match="re-ranking 80 photos at once needs 0.0 GiB.*re_rank_in_chunks"):
        re_rank(q, g)


@pytest.mark.parametrize("chunk", [1, 7, 200])
@pytest.mark.parametrize("k1, k2, heads", [(20, 6, 2), (5, 1, 2), (3, 9, 1), (500, 6, 1)])
def test_re_ranking_in_chunks_gives_the_same_scores(chunk, k1, k2, heads):
    q, g = random_set(20, 5, 3, 1), random_set(60, 5, 3, 2)
    if heads == 1: q, g = q._replace(fine=None), g._replace(fine=None)
    at_once, in_chunks = re_rank(q, g, 0.5, k1, k2), re_rank_in_chunks(q, g, 0.5, k1, k2, chunk=chunk)
    np.testing.assert_allclose(in_chunks, at_once, atol=2e-6)
