"""What the commands beside ``run`` do: ``bench``, ``plan``, ``tune``, ``eval``, ``models …``."""
