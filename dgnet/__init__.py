__version__ = "0.2.0"

from ._backend import require_backend, require_working_directory
from ._renamed import keep_old_names

require_working_directory()
require_backend()
keep_old_names()
