"""The official repository's checkpoint files: names and shapes to the last one, strict reading, and back without a bit
lost."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from dgnet.appearance import BaselineNet
from dgnet.config import make_config
from dgnet.model import DGNet
from dgnet.official import OfficialFiles, load_official, load_official_teacher, official_files, official_keys
from dgnet.official import official_name, official_state, save_official, save_official_teacher

KEYS = json.loads((Path(__file__).parent / "data" / "official_keys.json").read_text())
WIDTHS = dict(ea_init="random", ea_width=4, embed_dim=16, es_width=2, mlp_dim=16, d_width=2)
NARROW = make_config("paper", **WIDTHS)
NON_LOCAL = {"dec.model.1.model.0.nonlocal_block.g.weight": torch.ones(4, 8, 1, 1),
             "dec.non_local.theta.bias": torch.ones(4), "nonloc1.w": torch.ones(2)}


def narrow(seed=0, n_ids=7):
    torch.manual_seed(seed)
    return DGNet(NARROW, n_ids).eval()


def narrow_teacher(seed=0, n_ids=7):
    torch.manual_seed(seed)
    return BaselineNet(n_ids, width=4, embed_dim=16).eval()


def shapes(tensors):
    return {k: list(v.shape) for k, v in tensors.items()}


def outputs(model, x):
    "Everything that the four networks say about a batch."
    with torch.no_grad():
        e = model.E_a(x)
        return [*e, model.G(e.a, model.encode_structure(x).flip(0)), *model.D(x)]


def rewrite(path, change, wrapped=True):
    "Change the weights in a file by a function of their dictionary."
    content = torch.load(path, weights_only=True)
    change(content["a"] if wrapped else content)
    torch.save(content, path)


@pytest.mark.parametrize("file", ["gen", "id", "dis"])
def test_names_are_the_official_ones(file):
    assert sorted(official_keys(file)) == sorted(KEYS[file])


def test_the_teachers_names_are_the_official_ones():
    assert sorted(set(official_keys("teacher")) - {"model.fc.weight", "model.fc.bias"}) == sorted(KEYS["teacher"])


def test_full_size_round_trip(tmp_path):
    "Names, shapes and kinds as in the official files; loaded back, the outputs are equal to the last bit."
    cfg = make_config("paper", ea_init="random")
    model, again = DGNet(cfg, 751).eval(), DGNet(cfg, 751)
    with torch.no_grad():
        # statistics that training would have left
        for m in model.modules():   # statistics that training would have left
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2)
                m.num_batches_tracked.fill_(9)
    files = save_official(model, tmp_path)
    assert [p.name for p in files] == ["gen_00100000.pt", "id_00100000.pt", "dis_00100000.pt"]
    assert len(list(tmp_path.iterdir())) == 3
    for file, path in files._asdict().items():
        content = torch.load(path, weights_only=True)
        assert set(content) == {"a"} and shapes(content["a"]) == KEYS[file]
        integers = {k for k, v in content["a"].items() if v.dtype != torch.float32}
        assert integers == {k for k in KEYS[file] if k.endswith("num_batches_tracked")}
    load_official(again, tmp_path)
    x = torch.randn(2, 3, 256, 128)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), outputs(again, x)))


def test_full_size_teacher_has_the_official_shapes():
    tensors = official_state(BaselineNet(751))["teacher"]
    assert shapes(tensors) == KEYS["teacher"] | {"model.fc.weight": [1000, 2048], "model.fc.bias": [1000]}


def test_unused_weights(tmp_path):
    state = official_state(narrow())
    unused = {k: v for tensors in state.values() for k, v in tensors.items() if official_name(k) is None}
    assert len(unused) == 18 and all((v == (1 if k.endswith("running_var") else 0)).all() for k, v in unused.items())


def test_round_trip_from_the_graphics_cards_memory_format(tmp_path):
    model, x = narrow(), torch.randn(2, 3, 128, 64)
    kept = outputs(model, x)
    save_official(model.to(memory_format=torch.channels_last), tmp_path, it=20)
    again = load_official(narrow(1), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(kept, outputs(again, x)))
    assert again.metadata["official"] == ["gen_00000020.pt", "id_00000020.pt", "dis_00000020.pt"]
    assert "id_00000020.pt" in again.E_a.init


def test_what_does_not_fit_is_named_and_nothing_changes(tmp_path):
    model = narrow(1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cases = {"gen": [(lambda w: w.pop("mlp_b3.model.1.fc.bias"), "missing mlp_b3.model.1.fc.bias"),
                     (lambda w: w.pop("dec.model.1.model.0.model.0.norm.running_mean"),
                      "missing dec.model.1.model.0.model.0.norm.running_mean"),
                     (lambda w: w.update({"dec.model.5.norm.gamma": torch.ones(9)}),
                      r"misshapen dec.model.5.norm.gamma: \(9,\) in the file, \(4,\) here")],
             "id": [(lambda w: w.pop("model.fc.weight"), "missing model.fc.weight"),
                    (lambda w: w.pop("model.bn1.num_batches_tracked"), "missing model.bn1.num"),
                    (lambda w: w.update({"classifier3.w": torch.ones(1)}), "extra classifier3.w"),
                    (lambda w: w.update({"nonloc.w": torch.ones(1)}), "extra nonloc.w")],
             "dis": [(lambda w: w.update({"cnns.3.0.conv.bias": torch.ones(1)}), "extra cnns.3.0.conv.bias")]}
    for file, changes in cases.items():
        for change, message in changes:
            path = getattr(save_official(narrow(), tmp_path), file)
            rewrite(path, change)
            with pytest.raises(ValueError, match=message) as e:
                load_official(model, tmp_path, skip_nonlocal=True)
            assert str(path) in str(e.value)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_several_objections_are_one_error(tmp_path):
    files = save_official(narrow(), tmp_path)
    def change(w):
        w.pop("cnns.0.9.bias")
        w["cnns.0.10.bias"] = torch.ones(1)
        w["cnns.1.9.bias"] = torch.ones(2)
    rewrite(files.dis, change)
    with pytest.raises(ValueError, match=r"missing cnns.0.9.bias; extra cnns.0.10.bias; misshapen cnns.1.9.bias"):
        load_official(narrow(1), files)


def test_extra_non_local_weights_must_be_asked_for(tmp_path):
    model = narrow()
    files = save_official(model, tmp_path)
    rewrite(files.gen, lambda w: w.update(NON_LOCAL))
    with pytest.raises(ValueError, match="skip_nonlocal=True") as e:
        load_official(narrow(1), tmp_path)
    assert all(k in str(e.value) for k in NON_LOCAL)
    again, x = load_official(narrow(1), tmp_path, skip_nonlocal=True), torch.randn(2, 3, 128, 64)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), outputs(again, x)))
    assert again.metadata["left_out"] == list(NON_LOCAL)
    rewrite(files.gen, lambda w: w.update({"dec.nonsense.w": torch.ones(1)}))
    with pytest.raises(ValueError, match="extra dec.nonsense.w$"):
        load_official(narrow(1), tmp_path, skip_nonlocal=True)


def test_another_number_of_people_is_said(tmp_path):
    save_official(narrow(), tmp_path)
    with pytest.raises(ValueError, match=r"classifier1.classifier.0.weight: \(7, 16\) in the file, \(8, 16\) here"):
        load_official(narrow(n_ids=8), tmp_path)


def test_the_last_checkpoint_or_the_one_asked_for(tmp_path):
    first, last = (save_official(narrow(k), tmp_path, it=k) for k in (9, 10))
    assert official_files(tmp_path) == last and official_files(tmp_path, 9) == first
    last.id.unlink()
    with pytest.raises(FileNotFoundError, match="no id_00000010.pt"):
        official_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="gen_00000011.pt"):
        official_files(tmp_path, 11)
    with pytest.raises(FileNotFoundError, match="its three files"):
        load_official(narrow(), tmp_path / "nowhere")


class Code:
    "Something that runs when it is unpickled."
    def __reduce__(self): return print, ("this must never be printed",)


def test_foreign_files_are_refused(tmp_path, capsys):
    files = save_official(narrow(), tmp_path)
    def refused(content, message):
        content(files.id)
        with pytest.raises(ValueError, match=message) as e:
            load_official(narrow(1), files)
        assert str(files.id) in str(e.value)
    bare = torch.load(files.id, weights_only=True)["a"]
    refused(lambda p: torch.save(bare, p), "not an official checkpoint")
    refused(lambda p: torch.save({"a": {"w": 3}}, p), "not an official checkpoint")
    refused(lambda p: torch.save({"a": {"w": torch.ones(1)}}, p), "another network's file")
    refused(lambda p: torch.save({"a": bare, "code": Code()}, p), "without running code")
    refused(lambda p: p.write_bytes(pickle.dumps(Code(), protocol=2)), "without running code")
    refused(lambda p: p.write_bytes(b""), "without running code")
    assert "never" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="another network's file"):
        load_official(narrow(1), OfficialFiles(files.dis, files.id, files.gen))
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_official(narrow(1), files._replace(gen=tmp_path / "absent.pt"))


@pytest.mark.parametrize("changes", [dict(n_res=3, n_parts=3), dict(d_scales=2), dict(ea_blocks=(1, 1, 1, 1)),
                                     dict(recipe="paper")])
def test_networks_that_the_official_code_has_not(changes, tmp_path):
    model = DGNet(make_config("paper", **WIDTHS | changes), 7)
    with pytest.raises(ValueError, match="no official counterpart"):
        save_official(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_fc", [True, False], ids=["with ImageNet's classifier", "without"])
def test_teacher_round_trip(tmp_path, with_fc):
    teacher, x = narrow_teacher(), torch.randn(2, 3, 128, 64)
    path = save_official_teacher(teacher, tmp_path / "net_last.pth")
    if not with_fc:
        rewrite(path, lambda w: [w.pop(f"model.fc.{k}") for k in ("weight", "bias")], wrapped=False)
    again = load_official_teacher(narrow_teacher(1), path)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(teacher(x), again(x)))
    assert "net_last.pth" in again.init and not again.training


def test_teachers_file_is_read_strictly(tmp_path):
    path = save_official_teacher(narrow_teacher(), tmp_path / "net_last.pth")
    for change, message in [(lambda w: w.pop("model.layer3.5.bn2.weight"), "missing model.layer3.5.bn2.weight"),
                            (lambda w: w.update({"nonlocal.w": torch.ones(1)}), "extra nonlocal.w"),
                            (lambda w: w.update({"model.fc.bias": torch.ones(3)}), "misshapen model.fc.bias")]:
        rewrite(save_official_teacher(narrow_teacher(), path), change, wrapped=False)
        with pytest.raises(ValueError, match=message):
            load_official_teacher(narrow_teacher(1), path)
    with pytest.raises(ValueError, match="no official counterpart"):
        official_state(BaselineNet(7, "basic", (1, 1, 1, 1), 4))
