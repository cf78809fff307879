"""The five commands answer `--help`, a wrong argument and a dataset's card without loading PyTorch; their choices are
those of the modules that do the work."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "PIL", "scipy")
COMMANDS = ("data", "train", "generate", "rank", "reproduce")
QUICK = [*((name, ["--help"], 0) for name in COMMANDS), *((name, ["--no-such-option"], 2) for name in COMMANDS),
         ("data", ["card"], 0), ("data", ["card", "market"], 0), ("data", ["card", "nothing"], 2),
         ("train", ["photos", "--tier", "huge"], 2), ("generate", ["a.jpg", "b.jpg", "--size", "big"], 2)]


def run(name: str, args: list) -> subprocess.CompletedProcess:
    "A command in a process of its own, which says on its last line which heavy modules it has loaded."
    code = ("import sys, atexit\n"
            f"atexit.register(lambda: print('loaded', *(m for m in {HEAVY} if m in sys.modules)))\n"
            f"sys.argv = ['dgnet_{name}', *{args!r}]\n"
            f"from dgnet.commands import {name}_command\n"
            f"sys.exit({name}_command())")
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("name, args, code", QUICK)
def test_nothing_heavy_is_loaded_for_words(name, args, code):
    done = run(name, args)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"
    said = done.stdout if code == 0 else done.stderr
    assert len(said) > 20 and "Traceback" not in done.stderr


def test_a_command_that_works_loads_what_it_needs(tmp_path):
    done = run("data", ["check", str(tmp_path)])
    assert "torch" in done.stdout.splitlines()[-1].split() and str(tmp_path) in done.stderr


def test_names_are_those_of_the_modules_that_do_the_work():
    from dgnet import commands, config, datasets, evidence, pedestrians, set_plan
    assert commands.TIER_NAMES == tuple(config.TIERS)
    assert commands.LAYOUTS == datasets.DATASETS
    assert commands.DOMAINS == tuple(pedestrians.WORLDS)
    assert commands.FORMATS == tuple(set_plan.ENDINGS)
    assert commands.MAP_KINDS == evidence.MAPS


def test_installed_commands_enter_through_this_module():
    import configparser
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    scripts = dict(word.split("=") for word in settings["DEFAULT"]["console_scripts"].split())
    assert scripts == {f"dgnet_{name}": f"dgnet.commands:{name}_command" for name in COMMANDS}
