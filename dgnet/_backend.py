"""What must be so before PyTorch is imported: a working directory, and a plotting backend that Matplotlib knows."""
import os
import sys
import warnings


def require_working_directory() -> None:
    "One line where somebody has deleted it: PyTorch's mathematical library ends the program there with other words."
    try:
        os.getcwd()
        return
    except OSError:
        words = "the working directory has been deleted. Change to another one (cd)"
    program = os.path.basename(sys.argv[0])
    if not program.startswith("dgnet_"): raise FileNotFoundError(words)
    print(f"{program}: {words}", file=sys.stderr)
    raise SystemExit(2)


def require_backend() -> None:
    "A name that Matplotlib does not know is said and unset; it is imported only to ask."
    name = os.environ.get("MPLBACKEND", "")
    if name.lower() in ("", "agg") or name.startswith("module://"): return   # it takes these, whatever they are
    del os.environ["MPLBACKEND"]
    import matplotlib
    try:
        matplotlib.rcParams["backend"] = name
        os.environ["MPLBACKEND"] = name
    except ValueError:
        warnings.warn(f"MPLBACKEND={name}: no such backend of Matplotlib. Unset it; until then Matplotlib chooses one "
                      "itself", stacklevel=2)
