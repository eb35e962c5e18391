"""The errors a user can meet, and how each ends the process.

::

    PipelineError                   exit code
    ├── ConfigError (ValueError)        2   wrong flag, key or value
    ├── SourceError (OSError)
    │   ├── SourceOpenError             2   a source that cannot be opened
    │   └── SourceReadError             4   a source that died while running
    ├── SinkError (OSError)
    │   ├── SinkOpenError               2   an output that cannot be opened
    │   └── SinkWriteError              4   an output that failed while running
    ├── ModelError                      3   a model that cannot be had or understood
    │   └── UnknownLayoutError          3   an ONNX file whose outputs no decoder knows
    ├── ProviderError                   3   an execution provider that cannot be had
    │   └── ProviderFault               4   one that failed again and again while running
    ├── DependencyError (ImportError)   3   a package missing, doubled or unloadable
    ├── NotAcceptedError                4   a model that is not as good as was asked for
    └── AccountingError                 4   a frame that was lost or counted twice

Every message is one line, says what was wrong, where, and what to do about it,
and has passed :func:`pipeline.redact.redact`, so that no password is in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.printable import printable
from pipeline.redact import redact


class PipelineError(Exception):
    """Base of every error that is meant for a user's eyes; its text is redacted."""

    exit_code = 4

    def __init__(self, message: str) -> None:
        text = redact(" ".join(message.split()))
        # A file's name may hold what would move the terminal's cursor.
        super().__init__(printable(text))


class ConfigError(PipelineError, ValueError):
    """A flag, key or value that cannot be meant."""

    exit_code = 2


class SourceError(PipelineError, OSError):
    """A source failed. ``cause`` is one word for metrics and the summary.

    Causes: ``not_found``, ``auth``, ``timeout``, ``refused``, ``network``, ``format``,
    ``permission``, ``certificate``, ``ended``, ``changed``, ``hardware``, ``crash`` (the process of an
    isolated source died), ``stopped`` (while it was opened, as asked), ``error``.
    """

    def __init__(self, message: str, cause: str = "error") -> None:
        super().__init__(message)
        self.cause = cause


class SourceOpenError(SourceError):
    """A source that cannot be opened."""

    exit_code = 2


class SourceReadError(SourceError):
    """A source that died after it had been opened."""


class SinkError(PipelineError, OSError):
    """An output failed."""


class SinkOpenError(SinkError):
    """An output that cannot be opened."""

    exit_code = 2


class SinkWriteError(SinkError):
    """An output that failed while running (a full disk, a closed pipe)."""


class ModelError(PipelineError):
    """A model that cannot be found, read or used."""

    exit_code = 3


class UnknownLayoutError(ModelError):
    """An ONNX file that loads, but whose inputs or outputs no decoder understands.

    ``candidates``: families that it could be, each with its number of classes.
    """

    def __init__(self, message: str, candidates: Sequence[tuple[str, int]] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class ProviderError(PipelineError):
    """An execution provider that this machine or build does not have."""

    exit_code = 3


class ProviderFault(ProviderError):  # noqa: N818 - a fault is what it is
    """An execution provider that failed while running, also after fresh starts."""

    exit_code = 4


class DependencyError(PipelineError, ImportError):
    """A package that is missing, installed twice, or cannot be loaded."""

    exit_code = 3


class NotAcceptedError(PipelineError):
    """A model that is not as good as was asked for; what was measured has been said."""


class AccountingError(PipelineError):
    """captured = emitted + dropped + in flight did not hold: a defect of the line itself."""
