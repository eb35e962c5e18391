"""What a test takes for a terminal, without one."""

from __future__ import annotations

import io


class Screen(io.StringIO):
    """A terminal, as far as whoever writes to it can tell."""

    def isatty(self) -> bool:
        return True
