#!/bin/sh
# Make the virtual environment that the Makefile's targets use: framerail[cpu] and what the tests need.
set -eu
venv=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "framerail needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1 || echo missing)." >&2
    echo "Remedy: make PYTHON=/path/to/python3.11 $*" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv"; then
    echo "Remedy: install venv for '$python' (Debian: apt-get install python3-venv), then try again." >&2
    exit 1
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# --group came with pip 25.1.
pip install --quiet --upgrade 'pip>=25.1'
pip install --quiet --constraint constraints.txt --editable '.[cpu]' --group dev

# opencv-python needs libGL and friends, which servers and slim images lack; its headless twin doesn't.
if ! "$venv/bin/python" -c 'import cv2' 2>/dev/null; then
    echo "note: opencv-python cannot load here (no libGL?): taking opencv-python-headless; --display will not work" >&2
    pip uninstall --quiet --yes opencv-python
    pip install --quiet --constraint constraints.txt opencv-python-headless
    "$venv/bin/python" -c 'import cv2'
fi
