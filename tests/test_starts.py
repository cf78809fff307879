"""What a run starts from: strangers that were rendered, runs that come with the package, models by name."""
import json
import os
import shutil

import pytest
import torch

RENDERED = {"ea_init": "rendered", "g_init": "rendered"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "`dgnet.runs` with a local folder of its own and no shipped runs."
    import dgnet.runs as R
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGNET_DEVICE", "cpu")
        patch.setattr(R, "LOCAL", tmp_path_factory.mktemp("local"))
        patch.setattr(R, "WEIGHTS", tmp_path_factory.mktemp("weights"))
        yield R
    R._PHOTOS.clear()
    R._loaded.cache_clear()


@pytest.fixture(scope="module")
def run(runs):
    return runs.get_run("smoke", **RENDERED)


def never(*args): raise AssertionError("something was trained")


def equal(a, b): return all(torch.equal(v, b[k]) for k, v in a.items())

# --- the strangers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["smoke", "mini", "midi", "full", "paper"])
def test_strangers_start_from_nothing_rendered(tier):
    from dgnet.config import make_config, run_key, strangers_config, strangers_key
    cfg = strangers_config(make_config(tier, **RENDERED))
    assert cfg.dataset == "strangers" and "rendered" not in (cfg.ea_init, cfg.g_init) and not strangers_key(cfg)
    assert run_key(cfg) == strangers_key(make_config(tier, "duke", **RENDERED)), "one start for all worlds of a tier"


def test_the_key_knows_what_a_run_starts_from(monkeypatch):
    from dgnet import config
    def key(**changes): return config.run_key(config.make_config("mini", **changes))
    same = key()
    assert key(ea_init="teacher") != same != key(g_init="random"), "both starts can be switched off"
    def start(**changes): return config.strangers_key(config.make_config("mini", **changes))
    assert start(es_width=4) != start(), "networks of another size have another start"
    assert start(alpha=0.4) == start(), "a switch of the method has not"
    fewer = config.PER_DATASET["mini", "strangers"] | {"n_iter": 7}
    monkeypatch.setitem(config.PER_DATASET, ("mini", "strangers"), fewer)
    assert key() != same, "other strangers, another run"


def test_a_strangers_name_is_nobodys_in_a_dataset():
    from dgnet.pedestrians import WORLDS, sample_people
    assert len({w.seed for w in WORLDS.values()}) == len(WORLDS)
    people = {w: sample_people(w, 50, 0).appearance.top_rgb for w in WORLDS}
    for w in WORLDS:
        if w != "strangers":
            assert (torch.cdist(people["strangers"], people[w]) > 0).all()


# --- a run that starts from them ------------------------------------------------------------------------------------


def test_everything_starts_where_the_label_says(runs, run):
    from dgnet.teacher import TeacherState
    start, cfg, labels = runs.get_start(run.config), run.config, torch.zeros(32, dtype=torch.int64)
    model = runs.TrainState(cfg, run.data.n_ids, labels, run.teacher.backbone, maker=start.generator).model
    assert equal(start.generator, model.state_dict()) and any(k.startswith("D.") for k in start.generator)
    assert equal(run.teacher.backbone.state_dict(), model.E_a.backbone.state_dict())
    assert "rendered strangers" in model.E_a.init
    first = TeacherState(cfg, run.data.n_ids, torch.device("cpu"), start.backbone)
    assert equal(start.backbone.state_dict(), first.net.backbone.state_dict())
    assert "rendered strangers" in run.provenance["E_a starts from"]
    assert run.provenance["E_s, G and D start from"].startswith("rendered strangers")


def test_a_start_that_is_missing_or_not_asked_for_is_an_error(runs, run):
    from dgnet.teacher import TeacherState
    labels, start = torch.zeros(32, dtype=torch.int64), runs.get_start(run.config)
    with pytest.raises(ValueError, match="maker"):
        runs.TrainState(run.config, 8, labels, run.teacher.backbone)
    with pytest.raises(ValueError, match="maker"):
        runs.TrainState(runs.replace(run.config, g_init="random"), 8, labels, run.teacher.backbone,
                        maker=start.generator)
    with pytest.raises(ValueError, match="give `start` with it"):
        TeacherState(run.config, 8, torch.device("cpu"))
    with pytest.raises(ValueError, match="another size.*D.nets"):
        run.model.load_generator({k: v for k, v in start.generator.items() if not k.startswith("D.")})


def test_the_strangers_are_trained_once(runs, run, monkeypatch):
    monkeypatch.setattr(runs, "fit", never)
    assert equal(runs.get_start(run.config).generator,
                 runs.get_start(runs.replace(run.config, dataset="duke")).generator)


def test_a_plan_trains_the_strangers_first(runs, run, monkeypatch, tmp_path):
    from dgnet import planning, reproduce
    from dgnet.config import make_config, run_key
    def rendered(tier, dataset="market", recipe="official", real=False, **changes):
        return make_config(tier, dataset, recipe, real, **{**RENDERED, **changes})
    monkeypatch.setattr(runs, "LOCAL", tmp_path)
    monkeypatch.setattr(planning, "make_config", rendered)
    jobs = planning.plan_runs(planning.choose_notebooks(["fig6"]), "smoke", {})
    assert [j.dataset for j in jobs] == ["strangers", "market", "duke", "msmt17"]
    strangers = runs.find_folder(run_key(jobs[0].config))
    assert all(strangers in reproduce._produces(j) for j in jobs[1:]), "nobody begins before them"


# --- runs that come with the package --------------------------------------------------------------------------------


def test_a_shipped_run_is_found_and_not_trained(runs, run, monkeypatch, tmp_path):
    from dgnet import reproduce
    from dgnet.model import DGNet
    from dgnet.stored import read_done, write_done
    folders = [run.folder, runs.teacher_folder(run.config), runs.find_folder(runs.strangers_key(run.config))]
    weights = tmp_path / "weights"
    for module in (runs, reproduce): monkeypatch.setattr(module, "WEIGHTS", weights)
    for f in folders: shutil.copytree(f, weights / f.name)
    model = DGNet.load(run.folder / "model.safetensors")
    model.save(weights / run.folder.name / "model.safetensors", torch.float16, **model.metadata)
    facts = {name: v for name, v in read_done(run.folder).items() if name not in ("files", "sha256")}
    write_done(weights / run.folder.name, facts, "model.safetensors", "log.csv")
    monkeypatch.setattr(runs, "LOCAL", tmp_path / "local")
    with monkeypatch.context() as m:
        for name in ("fit", "train_teacher"): m.setattr(runs, name, never)
        again = runs.get_run("smoke", report=never, **RENDERED)
    assert again.folder.is_relative_to(weights) and again.provenance == run.provenance
    for k, v in run.model.state_dict().items():
        assert torch.allclose(v.float(), again.model.state_dict()[k].float(), rtol=1e-3, atol=1e-4), k
    assert {p.name for p in weights.iterdir()} == {f.name for f in folders}, "nothing is written beside them"
    def is_shipped(*wanted): return reproduce.is_shipped(reproduce.NotebookPlan("a", wanted), "smoke")
    assert is_shipped(("market", RENDERED)) and not is_shipped(("market", RENDERED), ("duke", {}))
    assert not is_shipped(), "a notebook without runs is made at any time"
    monkeypatch.setenv("DGNET_FRESH", "1")
    assert runs.find_folder(run.folder.name) == tmp_path / "local" / "runs" / run.folder.name, "made anew when asked to"


def test_what_is_shipped_is_shown_before_anything_is_trained(runs, monkeypatch, capsys):
    from dgnet import reproduce
    order, fig1, fig5 = [], "fig1_swap_grid", "fig5_interp_appearance"
    for name, answer in {"is_shipped": lambda n, tier: n.stem in (fig1, fig5), "plan_runs": lambda *a: [],
                         "train_all": lambda *a: order.append("train") or {},
                         "run_notebook": lambda n, tier, paths, force: order.append((n.stem, tier)) or "1 s",
                         "refresh_readme": lambda *a: None,
                         "write_report": lambda *a: reproduce.ROOT / "figures" / "report.html"}.items():
        monkeypatch.setattr(reproduce, name, answer)
    assert reproduce.reproduce("mini", ["fig1", "fig5", "fig9"], workers=1) == []
    assert order == [(fig1, "midi"), (fig5, "midi"), "train", (fig1, "mini"), (fig5, "mini"),
                     ("fig9_interp_structure", "mini")]
    text = capsys.readouterr().out
    assert text.index("2 notebooks, no training") < text.index("tier mini: 0 runs to train") and "figures/midi" in text


def test_fresh_reaches_the_workers(monkeypatch):
    from dgnet import reproduce
    monkeypatch.delenv("DGNET_FRESH", raising=False)
    monkeypatch.setattr(reproduce, "reproduce", lambda *a: [])
    assert reproduce.reproduce_cli(["--tier", "smoke", "--fresh"]) == 0 and os.environ.pop("DGNET_FRESH") == "1"


# --- models by name -------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(run, monkeypatch, tmp_path):
    from dgnet import model
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    shutil.copytree(run.folder, tmp_path / "market-midi-0123456789")
    return model


def test_from_pretrained(shipped, run, tmp_path, monkeypatch):
    def same(m): return equal(run.model.state_dict(), m.state_dict()) and not m.training
    assert list(shipped.shipped_models()) == ["midi-market"] and same(shipped.DGNet.from_pretrained("midi-market"))
    assert shipped.default_model() == shipped.pretrained_file("midi-market")
    assert "rendered people only" in shipped.default_note()
    for place in (run.folder, run.folder / "model.safetensors"): assert same(shipped.DGNet.from_pretrained(place))
    folder = run.model.save_pretrained(tmp_path / "mine")
    assert same(shipped.DGNet.from_pretrained(folder))
    assert json.loads((folder / "config.json").read_text())["es_width"] == run.config.es_width
    for name in ("midi-mars", tmp_path / "none" / "model.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file.*midi-market"):
            shipped.DGNet.from_pretrained(name)
    with pytest.raises(ValueError, match="no model"):
        monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "empty")
        shipped.default_model()


def test_the_hub_is_asked_for_owner_and_name_only(shipped, run, monkeypatch):
    import huggingface_hub
    requests = []
    def download(repo, file, revision=None):
        requests.append((repo, file, revision))
        return str(run.folder / file)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = shipped.DGNet.from_pretrained("somebody/dgnet-market", revision="v1")
    assert equal(run.model.state_dict(), model.state_dict())
    assert requests == [("somebody/dgnet-market", "model.safetensors", "v1")]
    for name in ("midi-market", "no-such-model", "a/b/c", run.folder):
        try:
            shipped.pretrained_file(name)
        except FileNotFoundError:
            pass
    assert len(requests) == 1
    def offline(*args, **kw): raise ConnectionError("no network")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    words = "not to be had from the Hugging Face Hub .ConnectionError: no network.*midi-market"
    with pytest.raises(FileNotFoundError, match=words):
        shipped.pretrained_file("somebody/dgnet")


def test_half_the_bytes(run, tmp_path):
    from dgnet.model import DGNet
    whole = run.model.save(tmp_path / "whole.safetensors")
    half = run.model.save(tmp_path / "half.safetensors", torch.float16)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = DGNet.load(half)
    assert loaded.G.conv5.conv.weight.dtype == torch.float32
    assert (loaded.G.conv5.conv.weight - run.model.G.conv5.conv.weight).abs().max() < 1e-3


def test_weights_of_another_network_are_refused(run, tmp_path):
    from dgnet.model import load_weights, save_weights
    file = save_weights(run.teacher, tmp_path / "teacher.safetensors")
    with pytest.raises(ValueError, match="teacher.safetensors.*trained again"):
        load_weights(run.model.D, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="teacher.safetensors.*cut short"):
        load_weights(run.teacher, file)


# --- mixtures of the colours ----------------------------------------------------------------------------------------


def test_grey_things_keep_their_brightness():
    from dgnet.core import normalise
    from dgnet.structure import grey, mixed_grey
    x = torch.rand(6, 3, 8, 4)
    plain = mixed_grey(normalise(x), 0.0)
    assert torch.equal(plain, grey(normalise(x))), "no mixture: the mean, and no random number is spent"
    colourless = normalise(x[:, :1].expand(-1, 3, -1, -1).contiguous())
    a, b = (mixed_grey(colourless, 2.0) for _ in range(2))
    assert torch.allclose(a, b, atol=1e-4), "what has no colour looks the same in every mixture"
    a, b = (mixed_grey(normalise(x), 2.0) for _ in range(2))
    assert (a - b).abs().mean() > 0.1, "what has colour does not"
    reddish = torch.full((2000, 3, 1, 1), 0.5) + torch.tensor([0.3, 0.0, 0.0]).view(3, 1, 1)
    average = mixed_grey(normalise(reddish), 1.0).mean()
    assert torch.allclose(average, (torch.tensor(0.6) - 0.449) / 0.226, atol=0.05), "on average it is the mean"


# --- what is shipped ------------------------------------------------------------------------------------------------


def shipped_folders():
    from dgnet.core import WEIGHTS
    return sorted(p.parent for p in WEIGHTS.glob("*/done.json"))


@pytest.mark.parametrize("folder", shipped_folders(), ids=lambda p: p.name)
def test_a_shipped_run_is_the_run_of_todays_configuration(folder):
    from dgnet.config import RUN_VERSION, make_config, run_key
    from dgnet.core import short_hash
    from dgnet.teacher import teacher_config
    dataset, tier = folder.name.split("-")[:2]
    cfg = make_config(tier, dataset)
    teacher = f"{dataset}-{tier}-teacher-{short_hash({'version': RUN_VERSION, **teacher_config(cfg)})}"
    keys = (run_key(cfg), teacher, run_key(make_config(tier, dataset, method="bound")))
    assert folder.name in keys, "ship it anew, or take the change of its configuration back: it would never be found"


@pytest.mark.parametrize("name", [f.name for f in shipped_folders() if (f / "model.safetensors").exists()])
def test_a_shipped_model_loads_and_is_on_the_card(name):
    from dgnet.core import WEIGHTS
    from dgnet.model import DGNet
    file = WEIGHTS / name / "model.safetensors"
    model = DGNet.load(file)   # checks its own hash
    assert all(v.isfinite().all() for v in model.state_dict().values()) and file.stat().st_size < 12e6
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert f"| {'-'.join(reversed(name.split('-')[:2]))} |" in card and model.metrics["both"]["mAP"] > 0.3


def test_the_package_stays_small_and_names_no_machine():
    from dgnet.core import WEIGHTS
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 60e6
    texts = [f.read_text(encoding="utf-8") for f in files if f.suffix in (".json", ".csv", ".md")]
    assert not [t for t in texts if any(place in t for place in ("/root", "/home", "/work/", "/tmp"))]
