"""Matplotlib refuses to be imported where MPLBACKEND names no backend that it knows; then it chooses one itself."""
import os
import warnings


def require_backend() -> None:
    "Import Matplotlib in any case; a name that it does not know is said and unset."
    name = os.environ.pop("MPLBACKEND", None)
    import matplotlib
    if not name: return
    try:
        matplotlib.rcParams["backend"] = name
        os.environ["MPLBACKEND"] = name
    except ValueError:
        warnings.warn(f"MPLBACKEND={name}: no such backend of Matplotlib. Unset it; until then Matplotlib chooses one "
                      "itself", stacklevel=2)
