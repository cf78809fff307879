"""Model files of strangers: headers at random, tensors at random. Each is loaded, or refused in one line that names the
file, in two seconds and within a gigabyte."""
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, SECONDS, BYTES = 100, 2.0, 2**30
NUMBERS = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8}


def tiny():
    "The smallest network that there is, and what its file says of it."
    from dgnet.config import make_config
    from dgnet.model import DGNet
    torch.manual_seed(0)
    return DGNet(make_config("smoke", "folder", ea_init="random", ea_width=4, es_width=2, d_width=2, d_scales=1), 3)


def written(path: Path, header, tensors: dict) -> Path:
    "A safetensors file with this header of ours; its hash is right, unless the header holds another."
    from safetensors.torch import save_file
    save_file(tensors, path, {"dgnet": header if isinstance(header, str) else json.dumps(header)})
    return path


def read(path: Path) -> tuple[dict, dict]:
    from safetensors import safe_open
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["dgnet"]), {name: file.get_tensor(name) for name in file.keys()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A model's file."
    return tiny().save(tmp_path_factory.mktemp("model") / "model.safetensors", key="a", iterations=3)

# --- at random ------------------------------------------------------------------------------------------------------


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.sampled_from([10**7, 3 * 10**7, 2**31, 2**63, 10**30, -10**30]),
    st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=8),
    st.sampled_from(["64", "dgnet", "imagenet", "random", "\x1b[2J", "\n", "é" * 5000, "1e9"]),
    st.lists(st.integers(-2, 10**8), max_size=6), st.just([[1] * 3] * 2), st.just({"a": {"b": []}}), st.just([]),
    st.just([10**7] * 4), st.just([1.5, 2.5, 3.5, 4.5]))


def broken_header(draw, header: dict) -> dict:
    "A header with some fields replaced, dropped or added."
    header, config, kind = dict(header), dict(header["config"]), draw(st.sampled_from(["field", "drop", "top", "none"]))
    if kind == "field":
        for name in draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)): config[name] = draw(ODD)
    if kind == "drop":
        for name in draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)): config.pop(name, None)
    header["config"] = config
    if kind == "top":
        for name in draw(st.lists(st.sampled_from(sorted(header)), min_size=1, max_size=2)): header[name] = draw(ODD)
        if draw(st.booleans()): header.pop(draw(st.sampled_from(sorted(header))))
    if draw(st.integers(0, 9)) == 0: header["new"] = draw(ODD)
    if draw(st.integers(0, 9)) == 0 and isinstance(header.get("config"), dict): header["config"]["new"] = draw(ODD)
    return header


def broken_tensors(draw, tensors: dict) -> dict:
    "Tensors of which some are dropped, renamed, of another shape, of another kind, or no numbers."
    tensors, names = dict(tensors), sorted(tensors)
    if draw(st.integers(0, 2)): return tensors   # only the header is odd
    for name in draw(st.lists(st.sampled_from(names), max_size=2, unique=True)):
        kind, v = draw(st.sampled_from(["drop", "name", "shape", "kind", "nan", "huge", "none"])), tensors[name]
        if kind in ("drop", "name"): del tensors[name]
        if kind == "name": tensors[draw(st.sampled_from(["x", "E_a." + "y" * 300, name + ".weight", "\x1b[2J"]))] = v
        if kind == "shape": tensors[name] = draw(st.sampled_from([v[None], v.flatten()[:0], torch.zeros(3, 4, 5)]))
        if kind == "kind": tensors[name] = v.to(NUMBERS[draw(st.sampled_from(sorted(NUMBERS)))])
        if kind == "nan" and v.is_floating_point(): tensors[name] = torch.full_like(v, float("nan"))
        if kind == "huge" and v.is_floating_point(): tensors[name] = torch.full_like(v, 1e300, dtype=torch.float64)
        if kind == "none": tensors[name] = torch.zeros(0)
    return tensors


def try_at_random(path: Path) -> dict:
    "In a process of its own: many files, each loaded or refused in one line; the longest time and the most memory."
    import time
    from dgnet.headers import header_fault, MODEL_SCHEMA
    from dgnet.model import content_hash, load_model
    header, tensors = read(path)
    load_model(path)             # what is needed once: the schema's function, the libraries
    header_fault(header, MODEL_SCHEMA)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"loaded": 0, "refused": 0, "slowest": 0.0, "wrong": []}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def every_file(data):
        odd = broken_header(data.draw, header)
        weights = broken_tensors(data.draw, tensors)
        if odd.get("sha256") == header["sha256"]: odd["sha256"] = content_hash(weights)
        file, began = written(path.with_name("odd.safetensors"), odd, weights), time.monotonic()
        try:
            load_model(file)
            found["loaded"] += 1
        except (ValueError, OSError) as e:
            found["refused"] += 1
            one_line = len(str(e).splitlines()) == 1 and len(str(e)) < 700 + len(str(file))
            if "odd.safetensors" not in str(e) or not one_line: found["wrong"].append(str(e)[:900])
        found["slowest"] = max(found["slowest"], time.monotonic() - began)

    every_file()
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start
    return found


def test_a_header_at_random_is_loaded_or_refused_in_one_line(model):
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    code = "import json, sys, test_headers as t; print(json.dumps(t.try_at_random(t.Path(sys.argv[1]))))"
    program = [sys.executable, "-c", code, str(model)]
    done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["wrong"] and found["loaded"] > 3 and found["refused"] > 30, found
    assert found["slowest"] < SECONDS and found["memory"] < BYTES, found

# --- by hand --------------------------------------------------------------------------------------------------------


CASES = [   # fields of the header, or of its configuration; what is said of it
    ({"n_ids": 30_000_000, "classes": []}, "n_ids=30000000, its weights are for 3"),
    ({"n_ids": "1e9"}, "n_ids='1e9', which must be a whole number"),
    ({"n_ids": None}, "n_ids=None"), ({"n_ids": -3}, "n_ids=-3"), ({"n_ids": True}, "n_ids=True"),
    ({"classes": [1, 2]}, "names 2 classes, and says n_ids=3"), ({"classes": {"a": 1}}, "classes={'a': 1}"),
    ({"metadata": [1, 2]}, r"metadata=\[1, 2\]"), ({"metrics": 5}, "metrics=5"), ({"init": 7}, "init=7"),
    ({"config": {"height": 0}}, "height=0, which must be a whole number, from 16"),
    ({"config": {"height": "64"}}, "height='64'"), ({"config": {"height": 10**6}}, "height=1000000"),
    ({"config": {"height": 65, "n_down": 2}}, "describes no network .height=65"),
    ({"config": {"beta": float("nan")}}, "beta='NaN', which must be a number"),
    ({"config": {"ea_blocks": [10**7] * 4}}, r"ea_blocks=\[10000000, .*4 whole numbers from 1 to 64"),
    ({"config": {"ea_blocks": [64] * 4}}, r"ea_blocks=\(64, 64, 64, 64\), its weights are for \(1, 1, 1, 1\)"),
    ({"config": {"n_res": 32}}, "n_res=32, its weights are for 1"), ({"config": {"d_scales": 8}}, "d_scales=8, its"),
    ({"config": {"dilations": [1, 2, 256]}}, "describes no network"), ({"config": {"n_parts": 64}}, "not 16×"),
    ({"config": {"adv": "wgan"}}, "adv='wgan', which must be one of lsgan, log"),
    ({"config": {"ea_block": "bottleneck"}}, "weights are missing|not "), ({"config": 5}, "config=5"),
    ({"config": {"flip_test": 1}}, "flip_test=1, which must be true or false"),
    ({"config": {"embed_dim": 10**9}}, "embed_dim=1000000000"), ({"sha256": "0" * 64}, "do not match their own hash"),
]


@pytest.mark.parametrize("change, says", CASES, ids=lambda v: str(v)[:50])
def test_a_field_that_cannot_be(model, tmp_path, change, says):
    from dgnet.model import load_model
    header, tensors = read(model)
    inside = change.get("config")
    change = change | {"config": header["config"] | inside} if isinstance(inside, dict) else change
    with pytest.raises(ValueError, match=f"odd.safetensors.*{says}"):
        load_model(written(tmp_path / "odd.safetensors", header | change, tensors))


@pytest.mark.parametrize("text, says", [
    ("[1, 2]", "an object belongs"), ("5", "an object belongs"), ("null", "an object belongs"), ("{", "is no JSON"),
    ("[" * 100_000, "nested too deeply"), ('{"format": "dgnet-model", "n_ids": ' + "9" * 5000 + "}", "lacks version")])
def test_a_header_that_is_no_header(model, tmp_path, text, says):
    from dgnet.model import load_model
    with pytest.raises(ValueError, match=f"odd.safetensors.*{says}"):
        load_model(written(tmp_path / "odd.safetensors", text, read(model)[1]))


def test_numbers_that_are_none(model, tmp_path):
    from dgnet.model import content_hash, load_model
    header, tensors = read(model)
    for name, value, says in (("E_s.conv1.conv.bias", float("nan"), "NaN"), ("G.conv5.conv.bias", float("inf"), "NaN"),
                              ("E_a.backbone.bn1.running_var", -1.0, "below 0")):
        odd = {k: v.clone() for k, v in tensors.items()}
        odd[name][0] = value
        file = written(tmp_path / "odd.safetensors", header | {"sha256": content_hash(odd)}, odd)
        with pytest.raises(ValueError, match=f"odd.safetensors: {name} holds .*{says}"): load_model(file)


def test_safetensors_headers_that_lie(model, tmp_path):
    from dgnet.model import load_model
    whole, file = model.read_bytes(), tmp_path / "odd.safetensors"
    n, = struct.unpack("<Q", whole[:8])
    listed = json.loads(whole[8:8 + n])
    name = next(k for k in listed if k != "__metadata__")
    def with_entry(**changes):
        text = json.dumps(listed | {name: listed[name] | changes}).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + n:]
    for content in (with_entry(shape=[10**9, 10**9]), with_entry(data_offsets=[0, 10**12]), with_entry(dtype="F99"),
                    struct.pack("<Q", 2**63) + whole[8:], struct.pack("<Q", 0), b"", whole[:-1], whole + b"more"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="odd.safetensors.*not a readable safetensors file"): load_model(file)
    file.write_bytes(struct.pack("<Q", 2**25) + b" " * (2**25 + 8))
    with pytest.raises(ValueError, match="odd.safetensors: its header has 33,554,432 bytes"): load_model(file)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    from dgnet.model import load_model
    os.mkfifo(tmp_path / "pipe.safetensors")
    for place in (tmp_path / "pipe.safetensors", tmp_path):
        with pytest.raises(ValueError, match="not a file of its own"): load_model(place)


def test_a_disk_that_cannot_be_mapped_is_not_called_a_damaged_file(model, monkeypatch):
    import dgnet.model as M
    def refuse(*args): raise OSError(19, "No such device")
    monkeypatch.setattr(M, "safe_open", refuse)
    with pytest.raises(OSError, match="model.safetensors: cannot be mapped into memory .*No such device.*Copy it to"):
        M.load_model(model)


def test_every_command_names_the_model_and_not_the_photo(model, tmp_path, capsys, monkeypatch):
    from PIL import Image
    from dgnet.generated_set import generate_cli
    from dgnet.search import rank_cli
    monkeypatch.chdir(tmp_path)
    header, tensors = read(model)
    written(tmp_path / "odd.safetensors", header | {"config": header["config"] | {"width": 0}}, tensors)
    (tmp_path / "people").mkdir()
    for k in range(2): Image.new("RGB", (32, 64), (90 * k, 0, 9)).save(tmp_path / "people" / f"{k}.png")
    photos = [str(tmp_path / "people" / f"{k}.png") for k in range(2)]
    for command, words in ((generate_cli, ["swap", *photos, "--out", "o.png"]),
                           (rank_cli, [photos[0], "--gallery", "people", "--out", "r.png"])):
        assert command([*words, "--model", "odd.safetensors"]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "odd.safetensors" in said[0] and "width=0" in said[0] and "0.png" not in said[0]
    assert not list(tmp_path.glob("*.png"))


def test_numbers_without_a_value_are_stored_as_nothing(tmp_path):
    from dgnet.model import load_model
    network = tiny()
    network.metrics = {"losses": {"img1": float("nan"), "adv": 0.5}}
    again = load_model(network.save(tmp_path / "m.safetensors", best=float("inf")))
    assert again.metrics == {"losses": {"img1": None, "adv": 0.5}} and again.metadata == {"best": None}


def test_what_can_be_asked_for_can_be_stored_and_read():
    "The bounds of a file are those of the configuration: what can be trained can be loaded."
    from dataclasses import asdict
    from dgnet.config import RECIPES, TIERS, make_config
    from dgnet.headers import CONFIG_SCHEMA, header_fault
    schema = {"type": "object", "required": [], "description": "", "properties": {"config": CONFIG_SCHEMA}}
    for tier in TIERS:
        for recipe in RECIPES:
            config = json.loads(json.dumps(asdict(make_config(tier, "market", recipe))))
            assert header_fault({"config": config}, schema) is None
    with pytest.raises(ValueError, match=r"ea_blocks=\(1, 1\): must be 4 whole numbers from 1 to 64"):
        make_config("smoke", ea_blocks=(1, 1))


def test_weights_of_a_stranger(tmp_path):
    from safetensors.torch import save_file
    from torch import nn
    from dgnet.model import load_weights, save_weights
    file = save_weights(nn.Linear(3, 2), tmp_path / "odd.safetensors")
    header, tensors = read(file)
    changes = {"sha256=5": {"sha256": 5}, "version=None": {"version": None}, "not weights": {"format": "x"}}
    for says, change in changes.items():
        written(file, header | change, tensors)
        with pytest.raises(ValueError, match=f"odd.safetensors.*{says}"): load_weights(nn.Linear(3, 2), file)
    written(file, header, tensors | {"bias": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match="odd.safetensors: bias holds numbers of the kind I64"):
        load_weights(nn.Linear(3, 2), file)
    save_file(tensors, file)
    with pytest.raises(ValueError, match="odd.safetensors: not weights"): load_weights(nn.Linear(3, 2), file)
