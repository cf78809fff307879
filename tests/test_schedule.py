"""Loss weights and learning rates at the paper's iterations, and at the same fractions of shorter runs."""
import pytest

AT = (0, 30_000, 31_000, 32_000, 34_000, 60_000, 90_000)


@pytest.fixture(scope="module")
def at_paper_size():
    from dgnet.config import make_config
    from dgnet.schedule import loss_weights
    def weights(key, **changes):
        return [loss_weights(it, make_config("paper", **changes))[key] for it in AT]
    return weights


@pytest.mark.parametrize("key, expected", [
    ("prim", [0, 0, 0.5, 1, 2, 2, 2]),
    ("fine", [0, 0, 0.1, 0.2, 0.4, 0.4, 0.4]),
    ("id_s_fine", [0, 0, 0.1, 0.2, 0.4, 0.4, 0.4]),
    ("cyc", [0, 0, 0.5, 1, 2, 2, 2]),
    ("code1", [0, 0, 0.5, 1, 1, 1, 1]),
    ("code2", [0, 0, 0.5, 1, 1, 1, 1]),
    ("img1", [5] * 7), ("img2", [5] * 7), ("id_s", [1] * 7), ("id_c", [0.5] * 7), ("adv", [1] * 7)])
def test_weights_of_the_official_recipe(at_paper_size, key, expected):
    assert at_paper_size(key) == pytest.approx(expected)


@pytest.mark.parametrize("key, expected", [
    ("prim", [0, 0, 0.5, 1, 2, 2, 2]), ("fine", [0, 0, 0.1, 0.2, 0.4, 0.4, 0.4]), ("id_s_fine", [1] * 7),
    ("cyc", [0] * 7), ("code1", [1] * 7), ("code2", [1] * 7)])
def test_weights_of_the_recipe_paper(at_paper_size, key, expected):
    assert at_paper_size(key, recipe="paper") == pytest.approx(expected)


def test_alpha_is_the_ratio_of_fine_and_prim(at_paper_size):
    for alpha in (0.0, 0.2, 0.8):
        assert at_paper_size("fine", alpha=alpha) == pytest.approx([alpha * v for v in at_paper_size("prim")])


def test_without_feed_the_teacher_says_nothing(at_paper_size):
    assert at_paper_size("prim", feed=False) == at_paper_size("fine", feed=False) == [0] * 7


def test_learning_rates_fall_twice():
    from dgnet.config import make_config
    from dgnet.schedule import lr_scale
    cfg = make_config("paper")
    scales = [lr_scale(it, cfg) for it in (*AT, 59_999, 89_999, 99_999)]
    assert scales == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.01, 1, 0.1, 0.01])


@pytest.mark.parametrize("tier", ["mini", "full"])
def test_shorter_runs_have_the_same_shape(tier):
    "At a fraction of its length, whatever the length, a run has the weights that its own fractions say."
    from dgnet.config import make_config
    from dgnet.schedule import loss_weights, lr_scale
    for n_iter in (make_config(tier).n_iter, 1_000):
        cfg = make_config(tier, n_iter=n_iter)
        def at(fraction, cfg=cfg): return loss_weights(round(fraction * cfg.n_iter), cfg)
        assert at(0)["prim"] == at(cfg.warm_up)["prim"] == 0 < cfg.lam_prim
        for share in (0.25, 0.5, 1.0):
            w = at(cfg.warm_up + share * cfg.ramp)
            assert w["prim"] == pytest.approx(cfg.lam_prim * share)
            assert w["fine"] == pytest.approx(cfg.alpha * cfg.lam_prim * share)
            assert w["cyc"] == pytest.approx(cfg.lam_cyc * share)
        assert at(cfg.warm_up + cfg.code_ramp)["code2"] == pytest.approx(cfg.lam_code2)
        first, second = cfg.decay_at
        assert [lr_scale(round(f * n_iter), cfg) for f in (0, first, second)] == pytest.approx([1, 0.1, 0.01])


def test_the_schedule_of_a_short_run_is_the_papers_in_fractions():
    from dgnet.config import make_config
    from dgnet.schedule import loss_weights
    paper, short = make_config("paper"), make_config("paper", n_iter=500)
    for it in AT:
        assert loss_weights(it // 200, short) == pytest.approx(loss_weights(it, paper))


def test_nothing_is_remembered():
    "Asking in any order gives the same answer: a resumed run cannot restart its warm-up (D27)."
    from dgnet.config import make_config
    from dgnet.schedule import loss_weights
    cfg = make_config("paper")
    forward = [loss_weights(it, cfg) for it in AT]
    assert [loss_weights(it, cfg) for it in reversed(AT)] == forward[::-1]


def test_a_ramp_of_no_length_is_a_step():
    from dgnet.schedule import linear_ramp
    assert [linear_ramp(it, 10.0, 0.0) for it in (9, 10, 11)] == [0, 0, 1]
