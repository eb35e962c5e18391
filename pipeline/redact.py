"""Secrets out of every text that leaves the process.

FFmpeg's messages and exceptions repeat the full address, ``user:secret@`` included, so
redaction happens where text is made into an error, a log record, a metric or a result. Twice:
by the form of what looks like an address with a secret, and by the very secrets of the
addresses that were given (:func:`protect`), whatever a message has made of them. In doubt
too much is masked.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

MASK = "***"

# Up to the *last* @ of the line: a password may itself hold an @, a / or a space. Paths of one
# letter's drive (C:/…) are no addresses; one slash is enough, for paths that were normalised, and
# two without a scheme, for one that was left out.
_USERINFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]+:/{1,2}|//)(?P<secret>[^\n]*)@", re.IGNORECASE)
# user:password@host without a scheme or with a mistyped one.
_BARE = re.compile(r"(?<![^\s'\"(])(?!synthetic:)(?P<user>[^\s:/@'\"]+:)(?!/)(?P<secret>\S*)@")
# What a query says is secret unless its name is known to be harmless: cameras and players call
# their tokens anything.
_HARMLESS = (
    "audio|buffer_size|camera|ch(?:annel)?|codec|compression|end(?:time)?|fifo_size|format|fps|frames|height|"
    "id|lang|latency|listen|localaddr|mirror|mode|overrun_nonfatal|pkt_size|profile|proto|quality|res(?:olution)?|"
    "rotation|rtsp_transport|size|start(?:time)?|stream(?:type)?|subtype|timeout|track|transport|ttl|type|unicast|"
    "video|width|x|y"
)
_QUERY = re.compile(
    rf"(?P<key>[?&](?!(?:{_HARMLESS})=)[\w%.\[\]~-]+(?:=|%3D))(?P<secret>[^&\s]+)", re.IGNORECASE
)
# Elsewhere by what the name says: rtsp://cam/user=admin_password=…, #token=…, ~hmac=…
_NAMED = re.compile(
    r"(?P<key>(?:^|[#;_/~\s])[\w%.\[\]-]*?(?:pas|psw|pwd?|secret|token|auth|key|sig(?:nature)?|hmac|jwt|user(?:name)?|"
    r"usr|login|cred(?:ential)?s?|access)[\w%.\[\]-]*?(?:=|%3D))(?P<secret>[^&\s]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<name>authorization\s*[:=]\s*)(?:\w+\s+)?[^\r\n]+", re.IGNORECASE)
_PORT = re.compile(r"(?i)[a-z][a-z0-9+.-]*://[^/@:\s\[]*:(?P<port>[^/@\s]*)")

# Shorter ones stand in ordinary words; their place in an address is masked all the same.
_SHORTEST = 4
_secrets: set[str] = set()


def protect(address: str) -> None:
    """Remember the password, and what a query says in secret, of an address that was given.

    Also of one that is mistyped beyond recognition (``rtsp//user:…@host``, ``admin:my secret@host``),
    or ends before the host (``rtsp://user:…``).
    """
    found = [match["secret"] for pattern in (_QUERY, _NAMED) for match in pattern.finditer(address)]
    for match in (_USERINFO.search(address), _BARE.search(address)):
        if match is not None:
            secret = match["secret"]
            found += [secret, secret.rpartition("@")[0], secret.partition(":")[2]]
    login, at, _ = address.rpartition("@")
    name, colon, password = login.rpartition("//")[2].partition(":")
    if at and colon and len(name) > 1 and not address.startswith("synthetic:"):
        found += [f"{name}:{password}", password]
    port = _PORT.match(address)
    if port is not None and not at and len(port["port"]) > len("port") and not port["port"].isdecimal():
        found.append(port["port"])
    for secret in found:
        _secrets.update(form for form in (secret, unquote(secret)) if len(form) >= _SHORTEST)


def conceal(secret: str) -> None:
    """Remember a secret that stands in no address, such as a token: it is masked wherever it comes up."""
    _secrets.update(form for form in (secret, unquote(secret)) if len(form) >= _SHORTEST)


def redact(text: str) -> str:
    """Return ``text`` with user names, passwords and tokens of addresses replaced by ``***``.

    Covers ``scheme://user:password@host``, query parameters except those known to be harmless,
    ``Authorization:`` headers, and every secret of an address that :func:`protect` was told.
    """
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _BARE.sub(f"{MASK}@", text)
    for pattern in (_QUERY, _NAMED):
        text = pattern.sub(rf"\g<key>{MASK}", text)
    text = _HEADER.sub(rf"\g<name>{MASK}", text)
    escaped = "%" in text or "\\" in text
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
        if escaped:
            text = _escaped(secret).sub(MASK, text)
    return text


@lru_cache(1000)
def _escaped(secret: str) -> re.Pattern[str]:
    """The same, each character as it is or as addresses (RFC 3986, 2.1), Python and JSON may write it."""
    return re.compile("".join(map(_ways, secret)))


def _ways(character: str) -> str:
    data, code = character.encode("utf-8", "surrogateescape"), ord(character)
    percent, python = "".join(f"%{byte:02x}" for byte in data), "".join(f"\\x{byte:02x}" for byte in data)
    units = character.encode("utf-16-be", "surrogatepass").hex()
    json = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    hexadecimal = {percent, python, json, f"\\x{code:02x}", f"\\U{code:08x}"}
    return f"(?:{re.escape(character)}|(?i:{'|'.join(map(re.escape, sorted(hexadecimal)))}))"
