"""Bounded channels, workers in order, drain, cancel and failure. Knows nothing of video."""

from pipeline.flow.channel import Cancelled, Channel, ChannelStatistics, EndOfStream, Merge, Policy
from pipeline.flow.flow import Call, Dropped, Flow, Observer
from pipeline.flow.turnstile import Turnstile

__all__ = [
    "Call",
    "Cancelled",
    "Channel",
    "ChannelStatistics",
    "Dropped",
    "EndOfStream",
    "Flow",
    "Merge",
    "Observer",
    "Policy",
    "Turnstile",
]
