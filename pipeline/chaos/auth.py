"""The password that a server of the kit demands: Basic and Digest, for RTSP and HTTP alike."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from pipeline.chaos.script import Script

_REALM = "framerail chaos"
_PAIR = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Login:
    """A user's name and password; neither is shown."""

    user: str = field(repr=False)
    password: str = field(repr=False)


class Door:
    """Who may come in now: by the login that was given at first, and by the script's ``password`` faults."""

    def __init__(self, script: Script, first: Login | None, scheme: str) -> None:
        self._script, self._first, self._scheme = script, first, scheme
        self._nonce = hashlib.sha256(f"nonce {script.seed}".encode()).hexdigest()[:32]
        self._announced: set[int] = set()

    @property
    def login(self) -> Login | None:
        """What is demanded now; None: nothing."""
        changes = self._script.passed("password")
        for change in changes:
            if id(change) not in self._announced:
                self._announced.add(id(change))
                self._script.hit(change, "server")
        return Login(changes[-1]["user"], changes[-1]["password"]) if changes else self._first

    @property
    def challenge(self) -> str:
        """The value of ``WWW-Authenticate``."""
        if self._scheme == "basic":
            return f'Basic realm="{_REALM}"'
        return f'Digest realm="{_REALM}", nonce="{self._nonce}"'

    def admits(self, method: str, authorization: str | None) -> bool:
        """Whether a request may pass, by its ``Authorization``."""
        login = self.login
        if login is None:
            return True
        scheme, _, rest = (authorization or "").partition(" ")
        if scheme.lower() != self._scheme:
            return False
        if self._scheme == "basic":
            try:
                given = base64.b64decode(rest.strip(), validate=True)
            except binascii.Error:
                return False
            return hmac.compare_digest(given, f"{login.user}:{login.password}".encode())
        values = {match[1].lower(): match[2] or match[3] or "" for match in _PAIR.finditer(rest)}
        expected = _digest(login, method, values.get("uri", ""), self._nonce)
        fresh = values.get("nonce") == self._nonce and values.get("username") == login.user
        return fresh and hmac.compare_digest(values.get("response", ""), expected)


def _digest(login: Login, method: str, uri: str, nonce: str) -> str:
    """RFC 2617's response without ``qop``, which RTSP 1.0 has no use for."""
    who = _md5(f"{login.user}:{_REALM}:{login.password}")
    return _md5(f"{who}:{nonce}:{_md5(f'{method}:{uri}')}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
