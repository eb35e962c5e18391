#!/bin/sh
# Build dist/: sdist, wheel, SBOM and checksums. $1: the environment of the release tools, $2: one to be made anew.
set -eu
tools=$1
product=$2

rm -rf dist "$product"
"$tools/bin/python" -m build --outdir dist .
wheel=$(ls dist/*.whl)

# What a user gets, and nothing else: so the bill lists neither test tools nor pip.
"${PYTHON:-python3}" -m venv --without-pip "$product"
"$tools/bin/python" -m pip --disable-pip-version-check --python "$product/bin/python" install --quiet \
    --constraint constraints.txt "framerail[cpu] @ file://$PWD/$wheel"
# Where the wheel lay on this machine is nobody's business; the bill would name it.
rm "$product"/lib/python*/site-packages/framerail-*.dist-info/direct_url.json
version=$("$product/bin/python" -c 'from importlib.metadata import version; print(version("framerail"))')
"$tools/bin/cyclonedx-py" environment --output-reproducible --spec-version 1.6 --output-format JSON \
    --output-file "dist/framerail-$version.cdx.json" "$product/bin/python"
(cd dist && sha256sum -- * >SHA256SUMS)
ls -l dist
