"""The models that come with the package are the models that today's code makes: their first steps, done again, write
the same log."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

STEPS = 20           # rows 10 and 20 of the log
TOLERANCE = 0.02     # of a loss, where the processor or the library is another than the run's


def learnt() -> list:
    "Shipped runs on the four worlds: their teachers are shipped too, so that their first step can be taken again."
    from dgnet.model import shipped_models
    return sorted(k for k in shipped_models() if not k.endswith("-strangers"))


def blank_but(needed, monkeypatch) -> None:
    "Let a domain be written with every photo that is not needed black: rendering all of them takes minutes."
    from PIL import Image
    from dgnet import synthetic
    from dgnet.pedestrians import take_rows
    write_photos = synthetic._write_photos

    def write(root, planned, a, s, height, width, *rest):
        for folder in {(root / p.file).parent for p in planned}:
            folder.mkdir(parents=True, exist_ok=True)
        black = Image.new("RGB", (width, height))
        for p in planned: black.save(root / p.file)
        rows = needed(planned)
        some = [planned[k] for k in rows]
        write_photos(root, some, take_rows(a, rows), take_rows(s, rows), height, width, *rest)

    monkeypatch.setattr(synthetic, "_write_photos", write)


def first_steps(tier: str, dataset: str, local, monkeypatch, **changes) -> tuple:
    """The log of a run's first steps, taken again from the start that is shipped and the teacher that is shipped with
    it; and what decided its rounding."""
    import dgnet.runs as R
    from dgnet.config import make_config
    from dgnet.core import arithmetic
    from dgnet.datasets import relabel
    from dgnet.photos import TripletSampler
    from dgnet.train import TrainState, fit
    monkeypatch.setattr(R, "LOCAL", local)
    monkeypatch.setenv("DGNET_DEVICE", "cpu")
    cfg = make_config(tier, dataset, **changes)

    def needed(planned):
        "Training photos that the first steps look at: those of the sampler's first draws."
        train = sorted((k for k, p in enumerate(planned) if p.split == "train"), key=lambda k: planned[k].file)
        labels = torch.from_numpy(relabel(np.array([planned[k].pid for k in train])))
        sampler = TripletSampler(labels, cfg.batch, cfg.seed)
        drawn = torch.cat([torch.cat(list(next(sampler))) for _ in range(STEPS)]).unique()
        return [train[k] for k in drawn.tolist()]

    blank_but(needed, monkeypatch)
    data = R.get_data(cfg)
    images, labels = R.load_split(data.train, cfg), torch.from_numpy(relabel(data.train.ids))
    names = [p.name for p in data.train.paths]
    assert names == sorted(names), "photos come in the order of their names"
    teacher = R.get_teacher(cfg, data).net
    state = TrainState(cfg, data.n_ids, labels, teacher.backbone, maker=R.get_start(cfg).generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(state, teacher.train(cfg.teacher_train), images, labels, local / "again", stop_at=STEPS)
        return pd.read_csv(local / "again" / "log.csv"), arithmetic(state.device)
    finally:
        torch.set_num_threads(threads)
        R._PHOTOS.clear()
        R._loaded.cache_clear()


def same(again: pd.DataFrame, log: pd.DataFrame, exactly: bool) -> None:
    "Two logs tell of the same steps."
    log = log[log.it <= STEPS].reset_index(drop=True)
    assert list(again.it) == list(log.it) == [10, 20]
    for name in log.columns.drop(["it", "seconds"]):
        a, b = again[name].to_numpy(float), log[name].to_numpy(float)
        assert np.array_equal(np.isnan(a), np.isnan(b)), name
        if exactly:
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("name", learnt())
def test_the_first_steps_again(name, tmp_path, monkeypatch):
    from dgnet.model import shipped_models
    from dgnet.runs import read_done
    folder = shipped_models()[name].parent
    again, rounding = first_steps(*name.split("-"), tmp_path, monkeypatch)
    same(again, pd.read_csv(folder / "log.csv"), exactly=read_done(folder)["arithmetic"] == rounding)


def test_another_start_is_noticed(tmp_path):
    "The comparison above can fail."
    log = pd.DataFrame({"it": [10, 20, 30], "seconds": [1.0, 2.0, 3.0], "img1": [0.5, 0.4, 0.3], "prim": [np.nan] * 3})
    same(log[:2].assign(seconds=9.0), log, exactly=True)
    with pytest.raises(AssertionError, match="img1"):
        same(log[:2].assign(img1=[0.5, 0.4001]), log, exactly=True)
    same(log[:2].assign(img1=[0.5, 0.4001]), log, exactly=False)
    with pytest.raises(AssertionError, match="img1"):
        same(log[:2].assign(img1=[0.5, 0.5]), log, exactly=False)


FIGURE_1 = ROOT / "figures" / "midi" / "fig1_swap_grid.json"


@pytest.mark.skipif(not FIGURE_1.exists(), reason="no Figure 1 from shipped weights is stored")
def test_figure_1_of_the_shipped_model_again(tmp_path, monkeypatch):
    import dgnet.runs as R
    from dgnet.quality import swap_report
    from dgnet.samples import true_swaps
    monkeypatch.setattr(R, "LOCAL", tmp_path)
    monkeypatch.setenv("DGNET_DEVICE", "cpu")
    blank_but(lambda planned: [k for k, p in enumerate(planned) if p.split == "gallery"], monkeypatch)
    stored = json.loads(FIGURE_1.read_text(encoding="utf-8"))
    try:
        run = R.get_run("midi", "market")
        assert run.folder.parent == R.WEIGHTS and run.provenance["run"] == stored["provenance"]["run"]
        ratio = swap_report(run.model.generate, true_swaps(run)).ratio.value
        assert ratio == pytest.approx(stored["rows"]["ratio"]["value"], abs=2e-3)
    finally:
        R._PHOTOS.clear()
        R._loaded.cache_clear()
