"""One line of JSON for every request: who, what, how long, what was decided. No pictures and no words of theirs."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO


class RequestLog:
    """Lines on a stream.

    Args:
        on: whether there are any.
        stream: where to; default: standard output as it is at the time.
    """

    def __init__(self, on: bool = True, stream: TextIO | None = None) -> None:
        self._on, self._stream = on, stream

    def line(self, about: Mapping[str, Any]) -> None:
        """Write one; what is not known is left out."""
        if self._on:
            known = {name: value for name, value in about.items() if value is not None}
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            print(json.dumps({"time": stamp, **known}), file=self._stream or sys.stdout, flush=True)
