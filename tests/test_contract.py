"""What stands in a model's metadata, read in many threads."""

from __future__ import annotations

import gc
import threading

from pipeline.decoders.contract import literal


def deeper(levels: int, text: str) -> object:
    return deeper(levels - 1, text) if levels else literal(text)


def test_a_literal_is_read_while_another_thread_reads_one() -> None:
    """Garbage that is collected in the middle lets the other thread go: CPython 3.11 has one count."""
    names = {number: f"thing {number}" for number in range(2000)}
    text, begun, done = repr(names), threading.Event(), threading.Event()
    read: list[object] = []

    class LetsAnotherGo:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            begun.set()
            done.wait(0.3)  # as long as this one is read, where they take turns

    def other() -> None:
        begun.wait(10)
        read.append(deeper(10, text))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    gc.collect()
    before = gc.get_threshold()
    gc.set_threshold(500)  # reached by the numbers and names, not before
    try:
        LetsAnotherGo()
        read.append(literal(text))
    finally:
        gc.set_threshold(*before)
        begun.set()
        thread.join()
    assert read == [names, names]
