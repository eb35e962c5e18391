#!/bin/sh
# The install steps, once: the image (Dockerfile), the edge box (README.md) and the proof
# (prove_in_debootstrap.sh) all run this file.
#
#   install.sh venv SOURCE [PREFIX]  framerail[edge] from SOURCE, a source tree or a wheel, into a
#                                    virtual environment at PREFIX (default /opt/framerail)
#   install.sh user [UID]            the system user "framerail", its directory and its results file
#
# PYTHON names the interpreter (default python3). Where packages come from is pip's own
# configuration. Needs no compiler: every dependency is installed from a wheel or not at all.
set -eu

usage() {
    echo "usage: install.sh venv SOURCE [PREFIX] | install.sh user [UID]" >&2
    exit 2
}

make_venv() {
    source=$1 prefix=$2
    constraints=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt
    "${PYTHON:-python3}" -m venv "$prefix"
    # Local sources may be built, dependencies may not: a build would need a compiler on the box,
    # and would run code at install time that no pin covers. --no-compile, because most modules are
    # never imported: those that are get compiled below.
    "$prefix/bin/python" -m pip install --no-cache-dir --no-compile --only-binary=:all: \
        --constraint "$constraints" "${source}[edge]"
    "$prefix/bin/python" -m pip check
    slim "$("$prefix/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
    # A missing system library shows here, at install time, and not at night on the box. As a side
    # effect what framerail imports is compiled, and only that.
    PYTHONDONTWRITEBYTECODE= ORT_DISABLE_TELEMETRY=1 "$prefix/bin/python" -c "import av, cv2, onnxruntime, pipeline.cli"
    # pip has done its work; another run of this script brings it back.
    "$prefix/bin/python" -m pip uninstall --yes --quiet pip setuptools
}

# Takes out what is never used here: test suites, OpenCV's face cascades, ONNX Runtime's model tools,
# which need packages (onnx, torch) that framerail[edge] does not have, and its second copy of itself
# for programs in C (Python loads the one in onnxruntime_pybind11_state).
slim() {
    site=$1
    find "$site" -depth -type d -name tests -exec rm -rf {} +
    rm -rf "$site/onnxruntime/transformers" "$site/onnxruntime/quantization"
    rm -f "$site"/onnxruntime/capi/libonnxruntime.so.* "$site"/cv2/data/*.xml
}

make_user() {
    if ! getent passwd framerail >/dev/null; then
        # A number of one's own need not lie in the system's range.
        if [ -n "$1" ]; then set -- --uid "$1"; else set -- --system; fi
        useradd "$@" --user-group --home-dir /var/lib/framerail --no-create-home \
            --shell /usr/sbin/nologin framerail
    fi
    install -d -m 0750 -o framerail -g framerail /var/lib/framerail
    # systemd appends results to this file as root would make it; made here, it is the service's own.
    [ -e /var/lib/framerail/detections.jsonl ] ||
        install -m 0640 -o framerail -g framerail /dev/null /var/lib/framerail/detections.jsonl
    # Readable by the service, writable by root alone: the config may hold camera passwords.
    install -d -m 0750 -o root -g framerail /etc/framerail
}

case "${1-}" in
venv) [ $# -ge 2 ] && [ $# -le 3 ] || usage; make_venv "$2" "${3:-/opt/framerail}" ;;
user) [ $# -le 2 ] || usage; make_user "${2-}" ;;
*) usage ;;
esac
