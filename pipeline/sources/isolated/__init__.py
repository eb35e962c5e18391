"""A source in a process of its own: a native crash of its decoder ends one stream, not the line.

::

    this process                                      the child (one for each open source)
    IsolatedSource ◀── messages: opened, picture n in slot k, log, end ── open_source(…), its pictures
                   ── slot k is free, a picture was taken, no more ──▶
          └─────────── slots: memory that both have mapped ───────────┘

A picture of a video is copied once, as it was decoded, into a slot; frames of this process are made of
the slot itself, which is free again when the last of them is gone. Whoever keeps many frames is given
copies instead, so that slots never run out. The child blocks while nobody takes its pictures, unless they
are live: then it goes on decoding, and what has no slot is told as :class:`Missed`.

Messages are JSON, since the child decodes what strangers send: what it says is data here, never code. The
memory has no name (memfd), so none is left behind however either process ends.
"""
