"""Training that can be stopped anywhere: exact resume, refusals, a loss that is no number, and the control."""
import csv

import pytest
import together
import torch

# the teacher enters at 2, rates fall at 5
SIZE = dict(n_iter=8, warm_up=0.25, ramp=0.25, code_ramp=0.25, decay_at=(0.6, 0.9))


@pytest.fixture(scope="module")
def photos():
    return together.photos()


def config(**changes):
    from dgnet.config import make_config
    return make_config("smoke", **{**SIZE, "ea_init": "random", **changes})


def a_teacher(cfg):
    from dgnet.teacher import make_teacher
    torch.manual_seed(7)
    return make_teacher(cfg, 8).train(cfg.teacher_train)


def start(cfg, photos):
    from dgnet.train import TrainState
    return TrainState(cfg, 8, photos[1])


def train(cfg, photos, folder=None, **options):
    "A new process in all but name: new networks, new teacher, then `fit`."
    from dgnet.train import fit
    teacher, state = a_teacher(cfg), start(cfg, photos)
    return fit(state, teacher, *photos, folder, **{"every": 1, **options})


def flat(value, name=""):
    "Every tensor and number of a nested state, by its path."
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)): return flat(dict(enumerate(value)), name)
    return {name: value}


def same(one, two, but=(".seconds",)):
    one, two = flat(one), flat(two)
    assert one.keys() == two.keys()
    def equal(a, b): return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [k for k in one if k not in but and not equal(one[k], two[k])]


def log_of(folder):
    with (folder / "log.csv").open(newline="") as f:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(f)]


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_train_2k_is_train_k_save_resume_train_k(photos, tmp_path, recipe):
    cfg = config(recipe=recipe)
    whole = train(cfg, photos, tmp_path / "whole")
    train(cfg, photos, tmp_path / "parts", stop_at=4)
    torch.manual_seed(123)
    torch.rand(5)   # whatever happened in between
    parts = train(cfg, photos, tmp_path / "parts")
    assert whole.it == parts.it == 8
    assert same(whole.state_dict(), parts.state_dict()) == [], "weights, momenta, samplers, generators: bit for bit"
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts") and len(log_of(tmp_path / "parts")) == 8


def test_a_kill_between_two_checkpoints_loses_nothing_but_time(photos, tmp_path):
    "The log is ahead of the checkpoint; its rows are forgotten and written again."
    cfg = config()
    whole = train(cfg, photos, tmp_path / "whole")
    train(cfg, photos, tmp_path / "killed", stop_at=3)
    checkpoint = (tmp_path / "killed" / "state.pt").read_bytes()
    train(cfg, photos, tmp_path / "killed", stop_at=6)
    (tmp_path / "killed" / "state.pt").write_bytes(checkpoint)
    again = train(cfg, photos, tmp_path / "killed")
    assert same(whole.state_dict(), again.state_dict()) == []
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")


def test_a_finished_run_does_nothing_more(photos, tmp_path):
    cfg = config(n_iter=2)
    first = train(cfg, photos, tmp_path)
    calls = []
    second = train(cfg, photos, tmp_path, report=lambda *a: calls.append(a))
    assert same(first.state_dict(), second.state_dict(), but=()) == [] and not calls


def test_the_seed_decides(photos):
    cfg, other = config(n_iter=1), config(n_iter=1, seed=1)
    one, again, two = (train(c, photos).model.state_dict() for c in (cfg, cfg, other))
    assert same(one, again) == [] and same(one, two)


def test_a_checkpoint_of_another_config_is_refused(photos, tmp_path):
    train(config(n_iter=2), photos, tmp_path, stop_at=1)
    with pytest.raises(ValueError, match="belongs to .*, not to") as e:
        train(config(n_iter=2, alpha=0.4), photos, tmp_path)
    assert "state.pt" in str(e.value), "the message names the file"


def test_half_a_file_of_a_killed_process_is_cleared_away(photos, tmp_path):
    (tmp_path / "state.pt.4711.tmp").write_bytes(b"half a file")
    train(config(n_iter=2, warm_up=0.5), photos, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"state.pt", "log.csv"}


def test_a_damaged_checkpoint_is_begun_again_with_one_line(photos, tmp_path):
    "With a bit flipped, which torch does not notice; and the training ends as one that was never stopped."
    cfg, path = config(n_iter=4, warm_up=0.5), tmp_path / "state.pt"
    whole = train(cfg, photos)
    train(cfg, photos, tmp_path, stop_at=2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 128
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="state.pt: .*not as they were written; begun again from the start"):
        again = train(cfg, photos, tmp_path)
    assert same(whole.state_dict(), again.state_dict()) == []
    assert [row["it"] for row in log_of(tmp_path)] == list("1234")


def poison(monkeypatch, it, key="adv"):
    "From the given iteration on, one loss is not a number."
    import dgnet.train as T
    image_losses, calls = T.image_losses, []
    def poisoned(*args):
        losses, codes = image_losses(*args)
        calls.append(1)
        if len(calls) >= it:
            losses[key] = losses[key] * float("nan")
        return losses, codes
    monkeypatch.setattr(T, "image_losses", poisoned)


@pytest.mark.parametrize("every", [1, 10])
def test_a_loss_that_is_no_number_stops_the_run(photos, tmp_path, monkeypatch, every):
    "With its name and iteration; the last good checkpoint stays, whatever the rhythm of log and checkpoints."
    cfg = config()
    poison(monkeypatch, 3)
    with pytest.raises(FloatingPointError, match="loss adv is nan at iteration 3"):
        train(cfg, photos, tmp_path, every=every, save_every=0.0)
    monkeypatch.undo()
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert kept["it"] == 2 and all(v.isfinite().all() for v in kept["model"].values())
    whole = train(cfg, photos)
    assert same(whole.state_dict(), train(cfg, photos, tmp_path).state_dict()) == [], "and training goes on from it"


def test_weights_that_are_no_numbers_are_not_saved(photos, tmp_path):
    "A finite loss may have an infinite gradient: the step after it ruins the weights before any loss shows it."
    from dgnet.train import fit
    cfg = config()
    train(cfg, photos, tmp_path, stop_at=2)
    state = start(cfg, photos)
    step = state.optimisers.gen.step
    def ruin(*a):
        step(*a)
        next(state.model.G.parameters()).data.fill_(float("nan"))
    state.optimisers.gen.step = ruin
    with pytest.raises(FloatingPointError, match="iteration 3"):
        fit(state, a_teacher(cfg), *photos, tmp_path, every=10, save_every=0.0)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["it"] == 2


def test_a_control_run_touches_no_generator(photos, tmp_path):
    cfg = config(generate=False)
    before = {k: v.clone() for k, v in start(cfg, photos).model.state_dict().items()}
    state = train(cfg, photos, tmp_path)
    after = state.model.state_dict()
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"E_a"}
    assert not state.optimisers.gen.state and not state.optimisers.dis.state
    rows = log_of(tmp_path)
    assert {k for row in rows for k, v in row.items() if v} == {"it", "id_s", "id_s_fine"}


def test_official_and_control_meet_the_same_photos(photos):
    "Same seed: the sampler's draws do not depend on what is done with them."
    draws = []
    for generate in (True, False):
        state = train(config(generate=generate, n_iter=2), photos)
        draws.append(state.sampler.state_dict())
    assert draws[0] == draws[1]


def test_learning_rates_follow_the_schedule(photos):
    from dgnet.train import make_optimisers, set_rates
    cfg = config(n_iter=100)
    opt = make_optimisers(start(cfg, photos).model, cfg)
    for it, scale in ((0, 1), (59, 1), (60, 0.1), (90, 0.01)):
        set_rates(opt, it, cfg)
        backbone, heads = (g["lr"] for g in opt.id.param_groups)
        assert backbone == pytest.approx(cfg.lr_id * scale) and heads == pytest.approx(cfg.lr_id * cfg.head_lr * scale)
        assert all(g["lr"] == pytest.approx(cfg.lr_gen * scale) for o in (opt.gen, opt.dis) for g in o.param_groups)


def test_every_parameter_has_exactly_one_optimiser(photos):
    from dgnet.train import make_optimisers
    cfg = config()
    model = start(cfg, photos).model
    owned = [id(p) for o in make_optimisers(model, cfg) for g in o.param_groups for p in g["params"]]
    assert len(owned) == len(set(owned)) and set(owned) == {id(p) for p in model.parameters()}


def test_a_step_of_both_directions_is_symmetric(photos):
    "swap is its own inverse and exchanges x_i and x_j."
    from dgnet.train import swap
    v = torch.arange(6)
    assert swap(v).tolist() == [3, 4, 5, 0, 1, 2] and torch.equal(swap(swap(v)), v)


def test_the_teacher_is_not_changed_by_teaching(photos):
    """Not even its running statistics, although it labels in training mode (D9): a second run in the same process
    starts as the first one did."""
    from dgnet.train import fit
    cfg = config(ea_init="teacher")
    teacher = a_teacher(cfg)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    def run():
        from dgnet.train import TrainState
        return fit(TrainState(cfg, 8, photos[1], teacher.backbone), teacher, *photos).state_dict()
    first, second = run(), run()
    assert same(before, dict(teacher.state_dict())) == [] and teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert same(first, second) == []


def test_erased_copies_only_where_the_config_says(photos):
    "D7: clean photos for the generator, erased ones for the identity loss; the recipe `paper` erases nothing."
    from dgnet.photos import TripletSampler
    from dgnet.train import draw_batch
    def draw(cfg):
        return draw_batch(*photos, TripletSampler(photos[1], 4, 0), torch.Generator().manual_seed(0), cfg)
    always, never = draw(config(erasing=1.0)), draw(config(recipe="paper"))
    assert torch.equal(never.x, never.x_erased) and torch.equal(never.t, never.t_erased)
    assert not torch.equal(always.x, always.x_erased) and len(always.x) == 8
    changed = always.x != always.x_erased
    assert (always.x_erased[changed] == 0).all(), "what is erased is the mean colour"


def test_teacher_resumes_exactly(photos, tmp_path):
    from dgnet.loop import load_state, save_state
    from dgnet.teacher import TeacherState, teacher_step
    cfg = config(teacher_iter=4)
    whole, part = TeacherState(cfg, 8, torch.device("cpu")), None
    for _ in range(4): teacher_step(whole, *photos)
    part = TeacherState(cfg, 8, torch.device("cpu"))
    for _ in range(2): teacher_step(part, *photos)
    save_state(part, tmp_path / "state.pt")
    resumed = TeacherState(cfg, 8, torch.device("cpu"))
    assert load_state(resumed, tmp_path / "state.pt")
    for _ in range(2): teacher_step(resumed, *photos)
    assert same(whole.state_dict(), resumed.state_dict()) == []


def test_an_empty_or_torn_log_is_repaired(tmp_path):
    from dgnet.loop import trim_log, write_log
    path = tmp_path / "log.csv"
    path.write_text("")
    trim_log(path, 3)
    write_log(path, {"it": 1, "img1": 0.5})
    assert log_of(tmp_path)[0]["img1"] == "0.5", "the header is there"
    write_log(path, {"it": 2})
    path.write_text(path.read_text() + "x")
    trim_log(path, 1)
    assert [row["it"] for row in log_of(tmp_path)] == ["1"]


@pytest.mark.parametrize("mode", ["losses", True])
@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_groups_of_losses_give_the_gradients_of_their_sum(photos, recipe, mode):
    "What saves memory changes no gradient by more than the order of a sum, with all losses on."
    from dgnet.train import train_step
    results = []
    for checkpointing in (False, mode):
        cfg = config(recipe=recipe, checkpointing=checkpointing, warm_up=0.0, ramp=0.0, code_ramp=0.0, drop_prim=0.0,
                     drop_fine=0.0)
        teacher, state = a_teacher(cfg), start(cfg, photos)
        state.it = cfg.n_iter - 1
        losses = train_step(state, teacher, *photos)
        results.append((losses, {k: p.grad for k, p in state.model.named_parameters()}))
    (one, grads), (other, groups) = results
    assert one.keys() == other.keys() and {"prim", "fine", "code2", "id_c"} < one.keys()
    assert all(torch.equal(v, other[k]) for k, v in one.items())
    for k, g in grads.items():
        assert (g - groups[k]).norm() <= 1e-5 * g.norm() and (recipe == "paper" or torch.equal(g, groups[k])), k
