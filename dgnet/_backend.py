"""Matplotlib refuses to be imported where MPLBACKEND names no backend that it knows; then it chooses one itself."""
import os
import warnings


def require_backend() -> None:
    "Import Matplotlib in any case; a name that it does not know is said and unset."
    try:
        import matplotlib   # noqa: F401
    except ValueError:
        warnings.warn(f"MPLBACKEND={os.environ.pop('MPLBACKEND', '')}: no such backend of Matplotlib. Unset it; until "
                      "then Matplotlib chooses one itself", stacklevel=2)
