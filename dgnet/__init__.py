__version__ = "0.2.0"

from ._renamed import keep_old_names

keep_old_names()
