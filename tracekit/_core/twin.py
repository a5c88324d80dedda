"""Choose the compiled or the plain twin of each hot name, once, at import. The only importer of either."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

NO_EXTENSIONS = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") not in {"", "0"}

if TYPE_CHECKING or NO_EXTENSIONS:
    from .span import *  # noqa: F403
else:
    try:
        from .._speedups import *  # noqa: F403
    except ModuleNotFoundError:  # not built; a broken build raises ImportError, loudly
        from .span import *  # noqa: F403
    except ImportError as error:
        if "interpreter" not in str(error):
            raise
        from .span import *  # noqa: F403  - a sub-interpreter, which the extension does not load into
