"""``realm_lib.figures``: every plot, as the notebooks name it."""

from realm_lib.report.figures import *  # noqa: F403
from realm_lib.report.figures import __all__  # noqa: F401
