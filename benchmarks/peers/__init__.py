"""framerail beside its peers on one machine: the same model, the same clip, the same thresholds.

``python -m benchmarks.peers.setup`` makes a virtual environment for each peer, once;
``python -m benchmarks.peers --model M --clip C`` measures. What is fair about it:

* each peer is a small script in ``adapters/``, run as a fresh process in its own environment; it
  says what it detected in every frame, and that is compared before anything is timed;
* the clock runs between two deliveries, after a warm-up: start-up and model loading cost nobody;
* rounds interleave all peers in an order that rotates, ratios are taken within a round, and what
  other processes used of the machine meanwhile stands beside each figure.
"""
