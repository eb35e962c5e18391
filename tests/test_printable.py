"""What others write reaches a terminal as text: no orders, no lines of its own."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from pipeline import webserver
from pipeline.classification import listed
from pipeline.cli import common
from pipeline.console import _counted
from pipeline.logs import TextFormatter
from pipeline.printable import json_text, printable

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x7fäöü 猫"


def harmless(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@given(st.text())
def test_nothing_but_what_is_printable_is_left(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text, "\n").count("\n") == text.count("\n")
    if text.isprintable():
        assert printable(text) == text
    shown = json_text({"a": [text]})
    assert harmless(shown) and json.loads(shown) == {"a": [text]}


def test_consoles_show_text_as_text() -> None:
    out = io.StringIO()
    console = common.SafeConsole(file=out, markup=False, width=200, color_system=None)
    table = Table(EVIL)
    table.add_row(EVIL)
    console.print(EVIL, table)
    assert harmless(out.getvalue()) and out.getvalue().count("äöü 猫") == 3
    assert all(isinstance(each, common.SafeConsole) for each in (common.console, common.stdout()))
    raw = io.StringIO()
    Console(file=raw).print(EVIL)
    assert "\x1b" in raw.getvalue()  # or there were no need


def test_a_label_makes_no_line_of_its_own() -> None:
    assert _counted({"streams": {"a": {"detections": {f"cat\n{EVIL}": 2}}}}).isprintable()
    assert listed([f"cat\n{EVIL}, pet", "dog", "cow"], 2) == f"cat{printable(chr(10) + EVIL)}, dog, … (3)"


def test_log_messages_give_no_orders(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise OSError("it broke")
    except OSError as error:
        told = (OSError, error, error.__traceback__)
    record = logging.LogRecord("a", logging.ERROR, "a.py", 1, "said %s", (EVIL,), told)
    text = TextFormatter("%(levelname)s %(message)s").format(record)
    assert harmless(text) and "äöü 猫" in text and "\nOSError: it broke" in text
    handler = webserver.Handler.__new__(webserver.Handler)
    with caplog.at_level(logging.DEBUG):
        handler.log_message('"%s" %s', f"GET /{EVIL}\n", "404")
    assert caplog.messages[0].isprintable() and caplog.messages[0].startswith('metrics: "GET /')
