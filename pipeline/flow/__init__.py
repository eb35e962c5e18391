"""Bounded channels, workers in order, drain, cancel and failure. Knows nothing of video."""

from pipeline.flow.bypass import Bypass
from pipeline.flow.channel import Channel, ChannelStatistics, Policy
from pipeline.flow.flow import Busy, Flow, Observer
from pipeline.flow.merge import Merge
from pipeline.flow.outlet import Cancelled, EndOfStream
from pipeline.flow.turnstile import Turnstile
from pipeline.flow.window import Windowed
from pipeline.flow.worker import Call, Dropped, Expired

__all__ = [
    "Busy",
    "Bypass",
    "Call",
    "Cancelled",
    "Channel",
    "ChannelStatistics",
    "Dropped",
    "EndOfStream",
    "Expired",
    "Flow",
    "Merge",
    "Observer",
    "Policy",
    "Turnstile",
    "Windowed",
]
