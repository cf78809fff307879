"""The paper-to-code page (notebook config) against the package: names, values, gradients, notebooks; and proof that
each check can fail."""
import ast
import importlib
import inspect
import json
import re
import textwrap
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from test_gradients import OFFICIAL, PAPER

NBS = Path(__file__).resolve().parent.parent / "nbs"
RECIPES = {"official": OFFICIAL, "paper": PAPER}


@cache
def sources(path, kind=None):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if kind in (None, c["cell_type"]))

PAGE = sources(NBS / "02_config.ipynb", "markdown")

# ---- reading the tables


def tables(text):
    "Every markdown table, as a list of rows; a row maps the column's title to the cell."
    listed = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        head, rule, *rows = ([c.strip() for c in line.strip().strip("|").split("|")]
                             for line in block.strip().split("\n"))
        assert set("".join(rule)) <= set("-:") and all(len(r) == len(head) for r in rows), f"a broken table: {head}"
        listed.append([dict(zip(head, r)) for r in rows])
    return listed


def rows(text, first, also=""):
    "The rows of all tables whose first column has this title (and that have the column `also`)."
    matching = [r for t in tables(text) for r in t if next(iter(r)) == first and also in (*r, "")]
    assert matching, f"no table of {first}"
    return matching


def ticked(cell): return re.findall(r"`([^`]+)`", cell)


def literal(word):
    "The value that a word in backticks stands for (30K: 30,000), or None for a name."
    try:
        return float(word[:-1]) * 1000 if re.fullmatch(r"\d+K", word) else ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return None


def values(cell): return [v for v in map(literal, ticked(cell)) if v is not None]


def recipe_of(column):
    "The recipe whose value a column holds: its own, or the one that follows this source."
    if m := re.search(r"recipe `(\w+)`", column): return m[1]
    return {"the paper": "paper", "official code": "official"}.get(column)

# ---- what the names stand for


@cache
def config(recipe):
    from dgnet.config import make_config
    return make_config("paper", recipe=recipe)


def resolve(name):
    "The object that `module.name` or `Config.field` names; AssertionError when there is none."
    module, _, rest = name.partition(".")
    if module == "Config":
        assert rest in {f.name for f in fields(config("official"))}, f"Config has no field {rest}"
        return None
    try:
        thing = importlib.import_module(f"dgnet.{module}")
    except ImportError:
        raise AssertionError(f"{name}: no module {module}") from None
    for part in rest.split("."):
        assert hasattr(thing, part), f"{name}: no {part} there"
        thing = getattr(thing, part)
    return thing


def split_name(code):
    "`name`, and the parameter or key in its brackets."
    m = re.fullmatch(r"([\w.]+)(?:\((\w+)\)|\[\"(\w+)\"\])?", code)
    assert m and "." in m[1], f"{code}: not a name of the form module.name"
    return m[1], m[2], m[3]


def parameter(name, argument):
    known = inspect.signature(resolve(name)).parameters
    assert argument in known, f"{name} takes no {argument}"
    return known[argument].default


@cache
def numbers_in(thing):
    "Every constant in a function's or class's code."
    return {n.value for n in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(thing))))
            if isinstance(n, ast.Constant) and not isinstance(n.value, str)}


def weights(recipe):
    from dgnet.schedule import loss_weights
    return loss_weights(config(recipe).n_iter, config(recipe))


def value_of(code, recipe):
    "What the package has for an entry of the column `in code`; a set where any of several numbers would do."
    name, argument, key = split_name(code)
    if name.startswith("Config."):
        resolve(name)
        return getattr(config(recipe), name[7:])
    if key: return weights(recipe)[key]
    return parameter(name, argument) if argument else numbers_in(resolve(name))


def same(printed, have, n_iter=None):
    "Whether a value on the page is the package's; fractions of a run may be given in iterations."
    if isinstance(have, set): return printed in have
    if isinstance(printed, float) and printed > 1000:
        return printed == pytest.approx(have * n_iter if have < 1 else have)
    value = pytest.approx(have) if isinstance(have, float) else have
    return isinstance(printed, bool) == isinstance(have, bool) and printed == value

# ---- the checks, each of which takes the page's text


def check_names(text):
    for t in tables(text):
        for row in t:
            for code in ticked(row.get("in code", "")):
                name, argument, key = split_name(code)
                resolve(name)
                if argument: parameter(name, argument)
                if key:
                    assert key in weights("official"), f"no loss {key}"


def check_values(text):
    for row in rows(text, "constant"):
        codes = ticked(row["in code"])
        for column, cell in row.items():
            recipe, printed = recipe_of(column), values(cell)
            if "recipe" in column and not printed:
                assert re.search(r"no ramp|nothing", cell), f"{row['constant']}: no value in {column}"
            if not recipe or not printed: continue
            have = [value_of(c, recipe) for c in codes]
            if len(have) == 1 and isinstance(have[0], tuple) and len(printed) > 1:
                have = list(have[0])
            n = config(recipe).n_iter
            true = len(printed) == len(have) and all(same(s, h, n) for s, h in zip(printed, have))
            assert true, f"{row['constant']}, {column}: {printed} on the page, {have} here"


def check_switches(text):
    """`name=value` in a recipe's column is a field of Config, or a default of something in the same row; every switch
    has its row."""
    from dgnet.config import RECIPES as SWITCHED
    listed, known = set(), {f.name for f in fields(config("official"))}
    for t in tables(text):
        for row in t:
            for column, cell in row.items():
                recipe = recipe_of(column)
                if "recipe" not in column: continue
                for name, printed in (w.split("=", 1) for w in ticked(cell) if re.match(r"\w+=", w)):
                    takers = [c for c, _, _ in map(split_name, ticked(row["in code"])) if not c.startswith("Config.")]
                    have = getattr(config(recipe), name) if name in known else parameter(takers[0], name)
                    assert same(literal(printed), have), (
                        f"{next(iter(row.values()))}, {column}: {name}={printed} on the page, {have} here")
                    listed.add((recipe, name))
    missing = {(recipe, name) for recipe in RECIPES for name in SWITCHED["paper"]} - listed
    assert not missing, f"no row says what {missing} is"


def check_equations(text):
    formulas, readings = rows(text, "Eq.", "formula"), rows(text, "Eq.", "the paper says")
    for part in (formulas, readings):
        assert [r["Eq."] for r in part] == [*map(str, range(1, 11)), "–"], "Equations 1 to 10, then the cycle term"
    keys = [k for r in formulas for k in ticked(r["key"])]
    assert sorted(keys) == sorted(OFFICIAL), (
        f"keys of the page that are no losses, or losses without one: {set(keys) ^ set(OFFICIAL)}")


def receivers(cell):
    "Both sides of the coin; None for a loss that is absent."
    if cell == "absent": return None
    sides = [set() if s == "nobody" else set(ticked(s)) for s in cell.split(" or ")]
    assert len(sides) <= 2 and ("nobody" in cell or all(sides)), f"unreadable: {cell}"
    return (sides[0], sides[-1])


def check_receivers(text):
    table = rows(text, "loss")
    assert sorted(k for r in table for k in ticked(r["loss"])) == sorted(OFFICIAL), "one entry for each loss"
    for row in table:
        for column in row:
            if not (recipe := recipe_of(column)): continue
            for key in ticked(row["loss"]):
                assert receivers(row[column]) == RECIPES[recipe].get(key), f"{key}, {recipe}: {row[column]}"


def check_numbers(text):
    listed = [r["no."] for r in rows(text, "no.")]
    assert listed == [f"D{n}" for n in range(1, 29)], "D1 to D28, each once and in order"


def notebooks_of(cell):
    "The notebooks that a cell links to, by their module's name."
    links = re.findall(r"\[(\w+)\]\(([^)]+)\)", cell)
    assert links, f"no notebook in: {cell}"
    for label, file in links:
        named = re.sub(r"^\d\d_", "", file) == f"{label}.ipynb"
        assert (NBS / file).is_file() and named, f"{label}: no notebook {file}"
        yield sources(NBS / file)


def check_shown(text):
    "Every notebook that the page sends a reader to is there, and speaks of what it is said to show."
    for row in (r for t in tables(text) for r in t if "shown in" in r):
        first = next(iter(row))
        code = [split_name(c) for c in ticked(row["in code"])]
        words = {
            "no.": [row[first]], "symbol": ticked(row.get("name here", "")),
            "Eq.": ticked(row.get("key", "")) or [f"(Equation|Eq.) {row[first]}"],
            "constant": [c[2] or c[1] or c[0].split(".")[-1] for c in code]}[first]
        for source in notebooks_of(row["shown in"]):
            for word in words:
                spoken = re.search(rf"(?<![A-Za-z\d_]){word}(?![A-Za-z\d])", source)
                assert spoken, f"{row[first]}: {row['shown in']} does not speak of {word}"

CHECKS = [check_names, check_values, check_switches, check_equations, check_receivers, check_numbers, check_shown]


@pytest.mark.parametrize("check", CHECKS)
def test_the_page_is_true(check):
    check(PAGE)


@pytest.mark.parametrize("check, old, new", [
    (check_names, "`Config.detach_code`, `train.decode_batch`", "`train.decode_photos`"),
    (check_names, "`Config.lam_img`", "`Config.recon_x_w`"),
    (check_names, "`losses.l_img`", "`lossy.l_img`"),
    (check_names, "random_erasing(area)", "random_erasing(size)"),
    (check_names, '["id_s_fine"]', '["id_fine"]'),
    (check_values, "| `5.0` | `5.0` |", "| `5.0` | `4.0` |"),
    (check_values, "`5`: `recon_x_w`", "`6`: `recon_x_w`"),
    (check_values, "| `30K` |", "| `20K` |"),
    (check_values, "`0.04` of N", "`0.05` of N"),
    (check_values, "`60K`, `90K`", "`60K`, `80K`"),
    (check_values, "| `0.5` | `0.0` | `Config.erasing`", "| `0.5` | `0.5` | `Config.erasing`"),
    (check_values, "`(0, 0.999)`", "`(0.5, 0.999)`"),
    (check_values, "`(0.02, 0.4)`", "`(0.02, 0.3)`"),
    (check_values, "`True` | `True` | `False` | `Config.nesterov`", "`True` | `True` | `True` | `Config.nesterov`"),
    (check_values, '`"both"`', '`"query"`'),
    (check_values, "`0.2` | `layers.ConvBlock`", "`0.25` | `layers.ConvBlock`"),
    (check_values, "`0.4` | `1.0` |", "`1.0` | `1.0` |"),
    (check_values, "| `512` | `Config.mlp_dim`", "| – | `Config.mlp_dim`"),
    (check_values, "`256`, `128`", "`256`"),
    (check_switches, "detach_code=False", "detach_code=True"),
    (check_switches, "distinct=False", "distinct=True"),
    (check_switches, "`code_heads=True`", "on the code"),
    (check_switches, "`pad=10`", "`pad=True`"),
    (check_switches, "skip_nonlocal=False", "skip=False"),
    (check_equations, "\n| 4 |", "\n| 44 |"),
    (check_equations, "| `fine` | `loss_teacher`", "| `fin` | `loss_teacher`"),
    (check_equations, "\n| 10 | the weighted sum", "\n| 1 | the weighted sum"),
    (check_receivers, "`E_s` `G` `MLP` or `E_s`", "`E_s` `G` `MLP` or `E_a`"),
    (check_receivers, "| nobody |", "| `E_a` |"),
    (check_receivers, "| absent | the re-encoded", "| `G` | the re-encoded"),
    (check_receivers, "`d`, `d_penalty` | 7 | `D`", "`d` | 7 | `D`"),
    (check_numbers, "\n| D24 |", "\n| D42 |"),
    (check_numbers, "\n| D7 |", "\n| D8 |"),
    (check_shown, "(37_train.ipynb)", "(38_train.ipynb)"),
    (check_shown, "\n| D16 |", "\n| D26 |"),
    (check_shown, "`losses.l_prim`, `train.feed_losses` | [losses](30_losses.ipynb)",
     "`losses.l_prim` | [datasets](14_datasets.ipynb)"),
    (check_shown, "`Config.lam_img` | [schedule](31_schedule.ipynb)",
     "`Config.lam_img` | [datasets](14_datasets.ipynb)"),
    (check_shown, "`x_ti`", "`x_tj`"),
], ids=lambda v: v.__name__ if callable(v) else v[:24])
def test_a_page_that_is_not_true_is_found(check, old, new):
    assert old in PAGE, "the mutation needs something to change"
    with pytest.raises(AssertionError):
        check(PAGE.replace(old, new, 1))
