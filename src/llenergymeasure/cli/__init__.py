"""What can be typed after `llem`?"""

from __future__ import annotations

# Each declares its commands, which help lists in this order.
# isort: off
from llenergymeasure.cli import _measuring as _measuring
from llenergymeasure.cli import _reading as _reading
from llenergymeasure.cli import _configuring as _configuring

# isort: on
from llenergymeasure.cli._app import app as app
from llenergymeasure.cli._app import keep_only as keep_only
