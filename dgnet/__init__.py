__version__ = "0.2.0"

from ._backend import require_backend
from ._renamed import keep_old_names

require_backend()
keep_old_names()
