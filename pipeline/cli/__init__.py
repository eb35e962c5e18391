"""``framerail``: its arguments and options, exit codes, and errors in one line."""
