"""DG-Net in 150 lines: counted, alone, run at smoke size, and its losses those of the package."""
import ast
import json
import re
from pathlib import Path

import pytest

from test_index import percentile, sentences, word_count

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "nbs" / "minimal.ipynb"
CELLS = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
TEXT = ["".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown"]
CODE = [(set(c["metadata"].get("tags", ())), "".join(c["source"])) for c in CELLS if c["cell_type"] == "code"]
PLAIN = [source for tags, source in CODE if "plain" in tags]
RENDERED = {"dgnet.pedestrians", "dgnet.renderer"}


def code_lines(source: str) -> list[str]:
    "Lines that do something: no blank ones, no comments, no docstrings, none of which starts with a quote here."
    return [line for line in source.split("\n") if line.strip() and not line.strip().startswith(("#", '"'))]


def modules(source: str) -> list[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module for node in nodes if isinstance(node, ast.ImportFrom)]


def test_networks_losses_and_training_have_at_most_150_lines():
    lines = [line for source in PLAIN for line in code_lines(source)]
    assert 100 < len(lines) <= 150, len(lines)
    assert max(map(len, lines)) <= 120 and not [line for line in lines if ";" in line]
    assert all(source.startswith("# network, losses, training\n") for source in PLAIN)
    elsewhere = "\n".join(source for tags, source in CODE if not tags & {"plain", "solution"})
    assert not re.search(r"nn\.(Module|Conv2d|Linear)|\bF\.(l1_loss|cross_entropy|kl_div)|backward|optim\.", elsewhere)


def test_only_the_renderer_is_imported():
    names = [name for _, source in CODE for name in modules(source)]
    assert {name for name in names if name.split(".")[0] == "dgnet"} == RENDERED
    assert not re.search(r"import_module|__import__|https?://", "\n".join(source for _, source in CODE))


def test_printed_number_of_lines_is_the_counted_one():
    printed = re.search(r"(\d+) lines of networks", json.dumps([c.get("outputs") for c in CELLS]))
    assert int(printed[1]) == sum(len(code_lines(source)) for source in PLAIN)


def test_opens_with_what_it_takes_and_gives():
    assert all(words in TEXT[0] for words in ("**Before you start.**", "**Reading time:**", "**Afterwards you can**"))


def test_sentences_are_short():
    lengths = [word_count(s) for text in TEXT for s in sentences(text)]
    assert percentile(lengths, 0.9) <= 28 and max(lengths) <= 40


def test_no_measured_number_is_typed():
    assert not re.findall(r"\d\.\d{2,}|\d+(?:\.\d+)?\s?%", "\n".join(TEXT).replace("95 %", ""))


def test_every_stage_has_a_number_and_links_lead_somewhere():
    printed = "".join("".join(o.get("text", ())) for c in CELLS for o in c.get("outputs", ()))
    assert [int(k) for k in re.findall(r"^(\d) .*: ratio \d\.\d{3}", printed, re.M)] == [1, 2, 3, 4, 5, 6]
    links = re.findall(r"\]\((\w+\.ipynb)\)", "\n".join(TEXT))
    assert len(links) >= 10 and all((PAGE.parent / name).exists() for name in links)


def test_exercises_end_as_everywhere():
    exercises = TEXT[-1].partition("## Exercises")[2]
    assert len(re.findall(r"^\d+\. \S", exercises, re.M)) == exercises.count("<summary>Answer</summary>") == 3
    assert exercises.rstrip().endswith("The folded cell below runs them.")
    assert "solution" in CODE[-1][0] and re.search(r"^assert .*\Z", CODE[-1][1], re.M | re.S)
    assert len(re.findall(r"\*\*Predict before you run\.\*\*", "\n".join(TEXT))) >= 5


def test_the_film_lies_in_the_page():
    pages = ["".join(o["data"]["text/html"]) for c in CELLS for o in c.get("outputs", ())
             if "base64" in "".join(o.get("data", {}).get("text/html", ""))]
    assert len(pages) == 1 and 'alt="' in pages[0] and 20_000 < len(pages[0]) < 1_000_000


def test_runs_at_smoke_size(tmp_path, monkeypatch):
    import papermill
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    papermill.execute_notebook(PAGE, tmp_path / "minimal.ipynb", {"tier": "smoke"}, kernel_name="python3",
                               progress_bar=False, cwd=PAGE.parent)


@pytest.fixture(scope="module")
def here():
    "The notebook's networks and losses, without its photos."
    import torch
    names = {}
    for tags, source in CODE:
        if modules(source) or "plain" in tags: exec(source, names)
    torch.manual_seed(0)
    names["net"] = names["DGNet"](names["AppearanceEncoder"](6))
    names["net"].D, names["T"] = names["Discriminator"](), names["AppearanceEncoder"](6).eval()
    names["net"].eval()
    x, t = torch.rand(2, 6, 3, 64, 32) * 2 - 1
    return names | {"batch": (x, t, torch.arange(6))}


@pytest.fixture(scope="module")
def there(here):
    "The same networks in the package's hands: model, teacher, batch, configuration."
    from torch import nn

    from dgnet.appearance import AppearanceOut, BaselineNet, HeadOut
    from dgnet.config import make_config
    from dgnet.model import DGNet
    from dgnet.train import Batch

    class Encoder(nn.Module):
        def __init__(self): super().__init__(); self.net = here["net"].E_a    # noqa: E702
        def forward(self, x): return AppearanceOut(*self.net(x))

    class Model(DGNet):
        def __init__(self):
            nn.Module.__init__(self)
            self.E_a, self.E_s, self.G, self.D = Encoder(), here["net"].E_s, here["net"].G, here["net"].D

    class Teacher(BaselineNet):
        def __init__(self):
            nn.Module.__init__(self)
            self.net, self.head = here["T"], nn.Module()
            self.head.classifier = here["T"].classify[0]
        def forward(self, x):
            read = self.net(x)
            return HeadOut(read.f_prim, read.logits_prim)

    x, t, y = here["batch"]
    cfg = make_config("smoke", code1_live=True, lam_cyc=0.0, grey_mix=0.0)
    return Model().eval(), Teacher().eval(), Batch(x, t, x, t, y), cfg


def package_losses(here, there) -> dict:
    from dgnet import train
    model, teacher, batch, cfg = there
    decoded = train.decode_batch(model, batch, cfg)
    losses, reading = train.image_losses(model, batch, decoded, cfg)
    losses |= train.code_losses(model, batch, decoded, reading, False, cfg) | train.d_losses(model, batch, decoded, cfg)
    fed = train.GeneratedBatch(decoded.x_swap.detach(), batch.y, train.swap(batch.y))
    losses |= train.feed_losses(model, teacher, fed, cfg) | train.identity_losses(model, batch, cfg)
    return {k: v / 2 for k, v in losses.items()}   # the package adds up both directions, and puts R1's weight in


def minimal_losses(here) -> dict:
    net = here["net"]
    v = here["decode"](net, *here["batch"])
    losses = here["photo_losses"](net.E_a, *here["batch"])
    for name in ("image_losses", "adversarial_loss", "identity_loss", "code_losses", "d_losses", "feed_losses"):
        losses |= here[name](net, v)
    return losses | {"d_penalty": here["WEIGHT"]["d_penalty"] * losses["d_penalty"]}


def test_losses_and_their_gradients_are_those_of_the_package(here, there):
    import torch
    mine, theirs = minimal_losses(here), package_losses(here, there)
    assert set(mine) == set(theirs) == set(here["WEIGHT"])
    weights = list(here["net"].parameters())
    for name in mine:
        assert abs(mine[name] - theirs[name]) <= 1e-5 * max(1, abs(theirs[name])), name
        a, b = (torch.autograd.grad(v[name], weights, retain_graph=True, allow_unused=True) for v in (mine, theirs))
        for g, h in zip(a, b):
            assert (g is None) == (h is None), name
            if g is not None: torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-5)


def test_swaps_and_soft_labels_are_those_of_the_package(here, there):
    import torch

    from dgnet.train import decode_batch
    from dgnet.teacher import soft_label
    model, teacher, batch, cfg = there
    v, decoded = here["decode"](here["net"], *here["batch"]), decode_batch(model, batch, cfg)
    for mine, theirs in zip((v.a, v.s, v.x_ij, v.x_ii, v.x_ti), decoded):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(here["soft_label"](v.x_ij), soft_label(teacher, v.x_ij, cfg), rtol=0, atol=1e-6)
