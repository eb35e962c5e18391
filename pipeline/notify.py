"""The service manager is told how the process is: systemd's notification protocol (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def notify(**states: str | int) -> bool:
    """Send ``READY=1`` and the like; False where nobody asked for it (no NOTIFY_SOCKET).

    Raises OSError where the socket that was named cannot be written to.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # An @ stands for the NUL byte of Linux's abstract addresses.
    target = "\0" + address[1:] if address.startswith("@") else address
    message = "\n".join(f"{key}={value}" for key, value in states.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sender:
        sender.sendto(message.encode(), target)
    return True


def watchdog_seconds() -> float | None:
    """How often the manager wants to hear that all is well, at least; None where it does not."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or process not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None
