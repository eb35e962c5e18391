"""Secrets out of every text that leaves the process.

FFmpeg's messages and exceptions repeat the full address, ``user:secret@`` included, so
redaction happens where text is made into an error, a log record, a metric or a result. Twice:
by the form of what looks like an address with a secret, and by the very secrets of the
addresses that were given (:func:`protect`), whatever a message has made of them. In doubt
too much is masked.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"

# Up to the *last* @ of the line: a password may itself hold an @, a / or a space. Paths of one
# letter's drive (C:/…) are no addresses; one slash is enough, for paths that were normalised.
_USERINFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]+:/{1,2})(?P<secret>[^\n]*)@", re.IGNORECASE)
# user:password@host without a scheme or with a mistyped one.
_BARE = re.compile(r"(?<![^\s'\"(])(?!synthetic:)(?P<user>[^\s:/@'\"]+:)(?!/)(?P<secret>\S*)@")
_QUERY = re.compile(
    r"(?P<key>[?&;_/](?:[\w%-]*?(?:pas|pass(?:word|wd|phrase)?|psw|pwd?|secret|token|auth|api[_-]?key|key|"
    r"sig(?:nature)?|user(?:name)?|usr|login|credentials?))=)(?P<secret>[^&\s]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<name>authorization\s*[:=]\s*)(?:\w+\s+)?[^\r\n]+", re.IGNORECASE)

# Shorter ones stand in ordinary words; their place in an address is masked all the same.
_SHORTEST = 4
_secrets: set[str] = set()


def protect(address: str) -> None:
    """Remember the password, and what a query says in secret, of an address that was given."""
    found = [match["secret"] for match in _QUERY.finditer(address)]
    for match in (_USERINFO.search(address), _BARE.search(address)):
        if match is not None:
            secret = match["secret"]
            found += [secret, secret.rpartition("@")[0], secret.partition(":")[2]]
    for secret in found:
        _secrets.update(form for form in (secret, unquote(secret)) if len(form) >= _SHORTEST)


def redact(text: str) -> str:
    """Return ``text`` with user names, passwords and tokens of addresses replaced by ``***``.

    Covers ``scheme://user:password@host``, query parameters that name a secret
    (``?user=…&password=…&token=…``), ``Authorization:`` headers, and every secret of an address
    that :func:`protect` was told.
    """
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _BARE.sub(f"{MASK}@", text)
    text = _QUERY.sub(rf"\g<key>{MASK}", text)
    text = _HEADER.sub(rf"\g<name>{MASK}", text)
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
