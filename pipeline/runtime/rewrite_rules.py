"""The rules of ``rewrite``: each changes a graph in place and says how often."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from pipeline.runtime.graph_edit import Edit, like, made, stated

_BLOCK = 16
"""Channels of a block of NCHWc with AVX-512; 8 with AVX2. Parts of other sizes would be copied anyway."""
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"})

_BY_AXIS = 13
"""The opset since which a softmax is over one axis."""
_MOST_AXES = 6
"""All orders of the axes are tried, of which ten have 362,880."""

Axes = tuple[int, ...]


def split_convolutions(graph: Any) -> int:
    """Make a convolution whose output is split by channels a convolution for each part.

    Between the two may stand one activation, or x · sigmoid(x) (SiLU).
    """
    edit = Edit(graph)
    for node in edit.nodes:
        if node.op_type != "Split" or not _along_channels(node):
            continue
        chain = _back_to_convolution(edit, node)
        if chain is None:
            continue
        convolution, between = chain[0], chain[1:]
        sizes = _sizes(edit, node)
        if sizes is None or any(size < 1 or size % _BLOCK for size in sizes) or "" in node.output:
            continue
        cuts = [edit.cut(name, sizes) for name in convolution.input[1:]]
        if None in cuts:
            continue
        new = []
        for n, part in enumerate(node.output):
            made = {convolution.output[0]: edit.fresh(f"{part}/Conv") if between else part}
            new.append(
                like(convolution, [convolution.input[0], *(cut[n] for cut in cuts if cut)], *made.values())
            )
            for each in between:
                last = each is between[-1]
                made[each.output[0]] = part if last else edit.fresh(f"{part}/{each.op_type}")
                new.append(like(each, [made.get(name, name) for name in each.input], made[each.output[0]]))
        edit.replace([*chain, node], new)
    return edit.write()


def ease_softmaxes(graph: Any, opset: int) -> int:
    """Do a softmax that stands beside transpositions over the last axis, where these then cost less.

    The other axes may stand in any order meanwhile: in one, if there is one, for which the way there and
    the way back each move one axis at most.
    """
    edit = Edit(graph)
    for node in edit.nodes:
        if node.op_type != "Softmax":
            continue
        before = edit.maker(node.input[0])
        if before is None or before.op_type != "Transpose" or not edit.only_used_by(node.input[0], node):
            continue
        first = _order(before)
        if first is None or len(first) > _MOST_AXES or edit.is_replaced(before):
            continue
        rank = len(first)
        said = stated(node, "axis")
        axis = (said.i if said is not None else -1 if opset >= _BY_AXIS else 1) % rank
        if opset < _BY_AXIS and axis != rank - 1:  # over all the axes from there on
            continue
        after = edit.transposition_of(node.output[0])
        second = _order(after) if after is not None else tuple(range(rank))
        if second is None:
            continue
        way = easiest(first, axis, second)
        if way is None:
            continue
        result = after.output[0] if after is not None else node.output[0]
        there, back = way
        moved, done = edit.fresh(f"{result}/there"), edit.fresh(f"{result}/last")
        edit.replace(
            [before, node, *([after] if after is not None else [])],
            [
                like(before, before.input, moved, perm=list(there)),
                like(node, [moved], done, axis=rank - 1),
                like(before, [done], result, perm=list(back)),
            ],
        )
    return edit.write()


def upsample_later(graph: Any) -> int:
    """Do an upsampling behind the 1×1 convolution that takes it beside other parts (PAN, FPN).

    A convolution of parts side by side is the sum of one for each; a 1×1 convolution mixes the channels of a
    place, a resize the places of a channel, so that they may change places. Of that part's work is left
    1 ÷ scale².
    """
    edit = Edit(graph)
    for node in edit.nodes:
        axis = stated(node, "axis")
        if node.op_type != "Concat" or axis is None or axis.i != 1:
            continue
        resizes = {name: resize for name in node.input if (resize := _upsampling(edit, name, node))}
        if not resizes or len(node.input) < 2:
            continue
        channels: dict[str, int | None] = {}
        sizes = [
            _channels(edit, resizes[name].input[0] if name in resizes else name, channels)
            for name in node.input
        ]
        known = [size for size in sizes if size is not None and size % _BLOCK == 0]
        users = edit.users(node.output[0])
        if len(known) < len(sizes) or not users or not edit.only_used_by(node.output[0], *users):
            continue
        if not all(_is_pointwise(edit, user, known) for user in users):
            continue
        # Upsampled parts first: ONNX Runtime adds a convolution to what is there, not the other way round.
        order = sorted(range(len(known)), key=lambda n: node.input[n] not in resizes)
        for user in users:
            edit.replace([user], _apart(edit, node, user, known, order, resizes))
        edit.drop(node, *resizes.values())
    return edit.write()


def easiest(first: Axes, axis: int, second: Axes) -> tuple[Axes, Axes] | None:
    """Transpositions there and back for a softmax between ``first`` and ``second``, over ``axis`` in between.

    They do the same with the softmax over the last axis. None where nothing is gained.
    """
    rank = len(first)
    whole = [first[each] for each in second]
    others = [each for each in range(rank) if each != first[axis]]
    costs = {}
    for order in permutations(others):
        there = (*order, first[axis])
        back = tuple(there.index(each) for each in whole)
        costs[there, back] = _cost(there) + _cost(back)
    best = min(costs, key=costs.__getitem__)
    now = _cost(first) + _cost(second) + (2 * _SLOW if axis != rank - 1 else 0)
    return best if costs[best] < now else None


def _upsampling(edit: Edit, name: str, user: Any) -> Any | None:
    """The resize that makes ``name`` larger in height and width, for ``user`` alone."""
    node = edit.maker(name)
    if node is None or node.op_type != "Resize" or not edit.only_used_by(name, user):
        return None
    mode, places = stated(node, "mode"), stated(node, "coordinate_transformation_mode")
    if (mode is not None and mode.s not in (b"nearest", b"linear")) or stated(node, "axes") is not None:
        return None
    # Cut out of the picture, places beyond it have a value of their own.
    if places is not None and places.s == b"tf_crop_and_resize":
        return None
    scales = _scales(edit, node)
    return node if scales is not None and min(scales) >= 1 < max(scales) else None


def _scales(edit: Edit, resize: Any) -> list[float] | None:
    """Of height and width, where it changes nothing else and says so by a constant."""
    scales = edit.floats(resize.input[-1]) if len(resize.input) in (2, 3) else None
    return scales[2:] if scales is not None and len(scales) == 4 and scales[:2] == [1, 1] else None


_KEEP_CHANNELS = _ACTIVATIONS | {"MaxPool", "AveragePool", "Clip"}
_MOST_STEPS = 32
"""Nodes that are gone back over for a number of channels; a convolution stands nearer than that."""


def _channels(edit: Edit, name: str, known: dict[str, int | None], steps: int = _MOST_STEPS) -> int | None:
    """How many channels ``name`` has, by the convolutions that it comes from; None where that is not certain.

    ``known``: what has been found out already.
    """
    if name not in known:
        known[name] = None
        node = edit.maker(name)
        if node is not None and steps:
            known[name] = _channels_made(edit, node, known, steps - 1)
    return known[name]


def _channels_made(edit: Edit, node: Any, known: dict[str, int | None], steps: int) -> int | None:
    if node.op_type == "Conv":
        shape = edit.shape(node.input[1])
        return shape[0] if shape and len(shape) == 4 else None
    if node.op_type in _KEEP_CHANNELS:
        return _channels(edit, node.input[0], known, steps)
    if node.op_type == "Resize" and _scales(edit, node) is not None:
        return _channels(edit, node.input[0], known, steps)
    if node.op_type in ("Mul", "Add"):
        alike = {_channels(edit, each, known, steps) for each in node.input}
        return alike.pop() if len(alike) == 1 else None
    axis = stated(node, "axis")
    if node.op_type == "Concat" and axis is not None and axis.i == 1:
        sizes = [_channels(edit, each, known, steps) for each in node.input]
        return sum(size for size in sizes if size) if None not in sizes else None
    return None


def _is_pointwise(edit: Edit, node: Any, sizes: Sequence[int]) -> bool:
    """Whether it is a 1×1 convolution of so many channels, at every place, and makes fewer of them."""
    if node.op_type != "Conv" or node.input[1] == node.input[0]:
        return False
    shape, group = edit.shape(node.input[1]), stated(node, "group")
    if shape is None or shape[1:] != [sum(sizes), 1, 1] or shape[0] > sum(sizes):
        return False
    strides, pads = stated(node, "strides"), stated(node, "pads")
    return (
        (group is None or group.i == 1)
        and (strides is None or set(strides.ints) == {1})
        and (pads is None or set(pads.ints) == {0})
    )


def _apart(
    edit: Edit,
    joined: Any,
    convolution: Any,
    sizes: Sequence[int],
    order: Sequence[int],
    resizes: dict[str, Any],
) -> list[Any]:
    """The convolution of ``joined`` as a sum of one for each of its parts."""
    weights = edit.cut(convolution.input[1], sizes, axis=1)
    assert weights is not None
    result, total, nodes = convolution.output[0], "", []
    for n in order:
        last = n == order[-1]
        part, resize = joined.input[n], resizes.get(joined.input[n])
        done = edit.fresh(f"{result}/part")
        source = part if resize is None else resize.input[0]
        nodes.append(like(convolution, [source, weights[n], *(convolution.input[2:] if last else [])], done))
        if resize is not None:
            larger = edit.fresh(f"{result}/larger")
            nodes.append(like(resize, [done, *resize.input[1:]], larger))
            done = larger
        if total:
            added = result if last else edit.fresh(f"{result}/sum")
            addition = made("Add", [done, total], added)
            addition.ClearField("name")  # see ``like``
            nodes.append(addition)
            done = added
        total = done
    return nodes


_SLOW = 8
"""What a transposition that moves several axes takes, in such as move one: 2.5 ms against 0.3 ms."""


def _cost(order: Axes) -> int:
    """0 for what stays as it is; 1 where one axis goes to another place, for which there are fast kernels."""
    axes = list(range(len(order)))
    if list(order) == axes:
        return 0
    for axis in axes:
        if [each for each in order if each != axis] == [each for each in axes if each != axis]:
            return 1
    return _SLOW


def _order(transposition: Any) -> Axes | None:
    said = stated(transposition, "perm")
    return tuple(said.ints) if said is not None else None


def _along_channels(split: Any) -> bool:
    said = stated(split, "axis")
    return said is not None and said.i == 1


def _sizes(edit: Edit, split: Any) -> Sequence[int] | None:
    """Channels of each part. An even split without sizes is left out: what is uneven about it is not said."""
    if len(split.input) > 1:
        return edit.integers(split.input[1])
    said = stated(split, "split")  # before opset 13
    return list(said.ints) if said is not None else None


def _back_to_convolution(edit: Edit, split: Any) -> list[Any] | None:
    """The convolution before a split and what stands between, if nothing else uses any of it."""
    last = edit.maker(split.input[0])
    if last is None or not edit.only_used_by(split.input[0], split):
        return None
    if last.op_type == "Conv":
        chain = [last]
    elif last.op_type in _ACTIVATIONS:
        chain = [edit.maker(last.input[0]), last]
    elif last.op_type == "Mul":
        gates = [edit.maker(name) for name in last.input]
        gate = next((each for each in gates if each is not None and each.op_type == "Sigmoid"), None)
        if gate is None or set(last.input) != {gate.input[0], gate.output[0]}:
            return None
        if not edit.only_used_by(gate.output[0], last):
            return None
        chain = [edit.maker(gate.input[0]), gate, last]
    else:
        return None
    convolution = chain[0]
    if convolution is None or convolution.op_type != "Conv":
        return None
    group = stated(convolution, "group")
    if group is not None and group.i != 1:
        return None
    return chain if len(chain) == 1 or edit.only_used_by(convolution.output[0], *chain[1:]) else None
