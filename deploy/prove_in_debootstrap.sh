#!/bin/sh
# Proves the image's install steps where no container engine can run: a bare Debian (variant
# minbase plus python3-venv), the files that .dockerignore lets through, deploy/install.sh, and
# then the product itself, confined about as deploy/framerail.service confines it.
#
#   sudo deploy/prove_in_debootstrap.sh [SUITE]      SUITE: trixie (default), bookworm, ...
#
# Needs root, debootstrap and util-linux. Takes the mirror from apt's and the index from pip's
# configuration on this machine. Leaves nothing behind: every mount lives in a mount namespace
# that ends with the run, and only then is the folder deleted.
set -eu
SUITE=${1:-trixie}
LIMIT_MB=${LIMIT_MB:-400} # of site-packages, for framerail[edge]
HERE=$(cd "$(dirname "$0")/.." && pwd)
say() { printf '\n== %s\n' "$*"; }

# ---- outside: make the folder, run the inner half in its own namespaces, delete the folder ----
if [ -z "${FRAMERAIL_PROOF-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "must be root: chroot and mount need it" >&2; exit 2; }
    FRAMERAIL_PROOF=$(mktemp -d "${TMPDIR:-/tmp}/framerail-proof.XXXXXX")
    export FRAMERAIL_PROOF
    # Nothing was ever mounted in this namespace, so this cannot reach into a bound folder.
    trap 'rm -rf --one-file-system "$FRAMERAIL_PROOF"' EXIT
    unshare --mount --pid --fork --kill-child --propagation private "$0" "$SUITE" &
    CHILD=$!
    # unshare itself ignores signals; with its child, the first process there, all inside end.
    trap 'kill -KILL $(cat "/proc/$CHILD/task/$CHILD/children"); wait "$CHILD"; exit 130' INT TERM
    wait "$CHILD"
    exit
fi

# ---- inside ----------------------------------------------------------------------------------
ROOT=$FRAMERAIL_PROOF/root
HOST_SUITE=$(. /etc/os-release && echo "$VERSION_CODENAME")
MIRROR=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' "Release: $HOST_SUITE" 'Component: main' | head -n 1)
[ -n "$MIRROR" ] || { echo "apt names no mirror for $HOST_SUITE main" >&2; exit 2; }

say "bare Debian $SUITE"
debootstrap --variant=minbase --include=python3,python3-venv "$SUITE" "$ROOT" "$MIRROR" \
    >"$FRAMERAIL_PROOF/log" 2>&1 || { tail -n 20 "$FRAMERAIL_PROOF/log" >&2; exit 1; }
# A mount of its own, so that it can be made read-only further down.
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"

# The network and pip's settings of this machine: lent, never written into the project.
lend() { mkdir -p "$ROOT$(dirname "$1")" && cp -L "$1" "$ROOT$1"; }
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt \
    $(python3 -m pip config debug | sed -n 's/^ *\(.*\), exists: True$/\1/p'); do
    [ ! -e "$file" ] || lend "$file"
done
# A local index keeps its wheels beside its pages: of file:///srv/index/simple, lend /srv/index.
for folder in $(python3 -m pip config list | grep -oE "(file:/)?/[^ ']+" | sort -u |
    sed -E 's#^file:/+(.*)/[^/]+/?$#/\1#'); do
    [ -d "$folder" ] && [ ! -d "$ROOT$folder" ] || continue
    mkdir -p "$ROOT$folder"
    mount --bind "$folder" "$ROOT$folder"
    mount -o remount,bind,ro "$ROOT$folder"
done
LENT=$(env | grep -E '^(PIP_|SSL_CERT_FILE=|REQUESTS_CA_BUNDLE=|https?_proxy=|no_proxy=|HTTPS?_PROXY=|NO_PROXY=)' || true)

# inside COMMAND...: as root, as a RUN step of the Dockerfile is. (No value of LENT holds a space
# that matters to anything but pip's lists, hence IFS.)
inside() (
    IFS='
'
    # shellcheck disable=SC2086
    exec env -i $LENT HOME="$HOME" LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$ROOT" "$@"
)

say "the build context that .dockerignore allows"
mkdir "$ROOT/src"
(cd "$HERE" && sed -n 's/^!//p' .dockerignore | tar -c --exclude=__pycache__ -T -) | tar -x -C "$ROOT/src"
inside du -sh /src

say "the Dockerfile's steps"
inside sh /src/deploy/install.sh venv /src /opt/framerail
inside sh /src/deploy/install.sh user 10001

say "installed size, MB"
SITE=$(inside /opt/framerail/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
inside du -sm "$SITE"
inside sh -c "du -sm $SITE/* | sort -rn | head -n 8"
SIZE=$(inside du -sm "$SITE" | cut -f1)
[ "$SIZE" -le "$LIMIT_MB" ] || { echo "site-packages: expected at most $LIMIT_MB MB, got $SIZE" >&2; exit 1; }

say "no libGL, no X11"
FOUND=$(find "$ROOT" -xdev \( -name 'libGL.so*' -o -name 'libGLX*' -o -name 'libX11.so*' \))
[ -z "$FOUND" ] || { echo "expected none, found: $FOUND" >&2; exit 1; }
inside /opt/framerail/bin/python -c "import cv2, onnxruntime, av
print('cv2', cv2.__version__, '| onnxruntime', onnxruntime.__version__, '| av', av.__version__)"

# As the unit does: the service's user, no capability and no way to get one, a read-only system
# with private /tmp, and no memory both writable and executable (PR_SET_MDWE, Linux 6.3).
mount -t tmpfs tmpfs "$ROOT/tmp"
mount --bind "$ROOT/var/lib/framerail" "$ROOT/var/lib/framerail"
mount -o remount,bind,ro "$ROOT"
CONFINE='import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): print("(kernel without PR_SET_MDWE: that part is not proven)")
os.execv(sys.argv[1], sys.argv[1:])'
confined() {
    inside setpriv --reuid=framerail --regid=framerail --clear-groups --no-new-privs --bounding-set=-all \
        --inh-caps=-all env HOME=/var/lib/framerail ORT_DISABLE_TELEMETRY=1 \
        /opt/framerail/bin/python -c "$CONFINE" "$@"
}

say "confined: framerail doctor"
confined /opt/framerail/bin/framerail doctor
say "confined: framerail run sample:"
confined /opt/framerail/bin/framerail run sample: --jsonl /tmp/o.jsonl
confined /opt/framerail/bin/python -c "import json
frames = [json.loads(line) for line in open('/tmp/o.jsonl')]
assert frames, 'expected results in /tmp/o.jsonl, found none'
print(len(frames), 'results')"
LEFT=$(inside find /var/lib/framerail -mindepth 1 ! -name detections.jsonl)
[ -z "$LEFT" ] || { echo "expected nothing but results in /var/lib/framerail, found: $LEFT" >&2; exit 1; }
say "proven: Debian $SUITE, site-packages $SIZE MB"
