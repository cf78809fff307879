"""`make gpu`: the order of its parts, what is not repeated, and its answers to mistakes; on any machine."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    "The script as a module; a GPU is there, and each part only notes its name and ends with the code in `codes`."
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.started, module.codes = [], {}

    def run(words, cwd):
        part = next(p for p in module.PARTS if [str(w) for w in module.command(p, tmp_path)] == words)
        module.started.append(part)
        return subprocess.CompletedProcess(words, module.codes.get(part, 0))

    monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    return module


def test_all_parts_go_in_order_and_what_has_passed_is_not_repeated(gpu, monkeypatch, tmp_path):
    gpu.codes = {"notebooks": 1}
    assert gpu.main() == 1
    assert gpu.started == ["tests", "notebooks", "figures", "bench"], "one that fails stops no other"
    gpu.codes, gpu.started = {}, []
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--market", str(tmp_path)])
    assert gpu.main() == 0 and gpu.started == ["notebooks", "figures", "market"], "trainings decide for themselves"
    for stamp in gpu.STAMPS.iterdir(): os.utime(stamp, (0, 0))
    gpu.started = []
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "bench", "tests"])
    assert gpu.main() == 0 and gpu.started == ["tests", "bench"], "the code is newer than what has passed"


def test_stopped_by_hand_nothing_else_is_begun(gpu):
    gpu.codes = {"notebooks": 130}
    assert gpu.main() == 130 and gpu.started == ["tests", "notebooks"]


def test_the_commands_are_there(gpu, tmp_path):
    for part in gpu.PARTS:
        words = gpu.command(part, tmp_path)
        assert (ROOT / words[1]).exists() if str(words[1]).endswith(".py") else Path(words[0]).exists(), words
    assert gpu.command("market", tmp_path)[-3:] == [f"market={tmp_path}", "--only", "table3"]


@pytest.mark.parametrize("args, words", [
    ([], "sees no GPU here. `make test` and `make reproduce` need none"),
    (["--only", "nothing"], "argument --only: invalid choice: 'nothing'"),
])
def test_mistakes(args, words):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *args], capture_output=True,
                             text=True, env=env)
    assert process.returncode == 2 and words in process.stderr and "Traceback" not in process.stderr, process.stderr


def test_a_folder_that_is_none(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--market", "/no/such/folder"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "--market /no/such/folder: is not a folder" in capsys.readouterr().err and not gpu.started


def test_training_needs_no_notebook_software():
    "nbdev, papermill and Jupyter may be missing where one only trains."
    missing = ("nbdev", "papermill", "nbformat", "nbclient", "ipykernel", "IPython", "fastcore", "execnb",
               "ipywidgets", "torch_fidelity")
    code = (f"import sys\nfor m in {missing}: sys.modules[m] = None\n"
            "import dgnet.reproduce, dgnet.generated_set, dgnet.search, dgnet.train_own")
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.returncode == 0, process.stderr[-500:]
