"""Secrets out of every text that leaves the process.

FFmpeg's messages and exceptions repeat the full address, ``user:secret@`` included, so
redaction happens where text is made into an error, a log record, a metric or a result.
"""

from __future__ import annotations

import re

MASK = "***"

# Up to the *last* @ of the word: a password may itself hold an @ or a /. An address with an
# @ in its path loses its host to this, which is the side to err on.
_USERINFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@", re.IGNORECASE)
_QUERY = re.compile(
    r"(?P<key>[?&;](?:[\w-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|auth|api[_-]?key|key|sig(?:nature)?|"
    r"user(?:name)?|usr|login|credentials?))=)[^&\s'\"<>#;]+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<name>authorization\s*[:=]\s*)(?:\w+\s+)?[^\r\n]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return ``text`` with user names, passwords and tokens of addresses replaced by ``***``.

    Covers ``scheme://user:password@host``, query parameters that name a secret
    (``?user=…&password=…&token=…``) and ``Authorization:`` headers.
    """
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _QUERY.sub(rf"\g<key>{MASK}", text)
    return _HEADER.sub(rf"\g<name>{MASK}", text)
