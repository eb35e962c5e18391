"""Trees of classes in the graph: a softmax among siblings, and what the products down the tree say.

With c_j the probability of class j among its siblings (a softmax of the group, ``softmax_tree`` of
Darknet's blas_kernels.cu), that of the class itself is a_j = c_j · a_parent, and c_j of a root
(``hierarchy_predictions`` of tree.c; Redmon, Farhadi, "YOLO9000" (2016), section 4).

A file of thousands of groups has few sizes of group: each size is one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.cfg import Section
from pipeline.convert.graph import Graph
from pipeline.convert.tree import Tree


@dataclass(frozen=True, slots=True, eq=False)
class Hierarchy:
    """A network's tree, and the threshold down to which a class is looked for in it."""

    tree: Tree
    threshold: float

    def check(self, layer: Section, classes: int) -> None:
        """Raise ModelError where a layer has not as many classes as the tree."""
        if classes != len(self.tree.names):
            raise layer.error(
                f"expected {classes} classes in {self.tree.path.name}, as many as come in; "
                f"got {len(self.tree.names)}",
                "tree",
            )

    def _by_size(self) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Sizes of groups; which groups have it, and their classes one after the other."""
        tree = self.tree
        for size in np.unique(tree.size):
            groups = np.flatnonzero(tree.size == size)
            yield int(size), groups, (tree.offset[groups, None] + np.arange(size)).ravel()

    def leaves(self, graph: Graph, logits: str) -> str:
        """Return the probability of each leaf, and 0 of the classes above them: [batch, n] of [batch, n].

        What ``darknet classifier predict`` gives (classifier.c: ``hierarchy_predictions`` with
        ``only_leaves``): of a picture that is a terrier, that it is an animal as well is left out.
        """
        tree, parts, order = self.tree, [], []
        for size, groups, classes in self._by_size():
            part = graph.add("Gather", [logits, graph.constant(classes, np.int64)], axis=1)
            part = graph.add("Softmax", [graph.shape(part, len(groups), size)], axis=2)
            parts.append(graph.shape(part, len(classes)))
            order.append(classes)
        among = parts[0] if len(parts) == 1 else graph.add("Concat", parts, axis=1)
        place = _inverse(np.concatenate(order))
        within = _inverse(np.concatenate(tree.levels))
        levels: list[str] = []
        begin = 0
        for depth, classes in enumerate(tree.levels):
            own = graph.add("Gather", [among, graph.constant(place[classes], np.int64)], axis=1)
            if depth:
                above = graph.constant(within[tree.parent[classes]] - begin, np.int64)
                own = graph.add("Mul", [own, graph.add("Gather", [levels[-1], above], axis=1)])
                begin += len(tree.levels[depth - 1])
            levels.append(own)
        name = levels[0] if len(levels) == 1 else graph.add("Concat", levels, axis=1)
        name = graph.add("Gather", [name, graph.constant(within, np.int64)], axis=1)
        return graph.add("Mul", [name, graph.constant((tree.child < 0)[None])])

    def deepest(self, graph: Graph, logits: str, anchors: int, cells: int) -> str:
        """Return the number of each box's class, int64 [batch, boxes] of [batch, anchors, n, cells].

        ``hierarchy_top_prediction`` of tree.c, behind ``hierarchy_predictions`` as ``get_region_detections``
        (region_layer.c) calls it: from the likeliest root on to the likeliest child, as long as the product
        of the a_j on the way exceeds the threshold. So a class at depth d counts with c_root to the power
        d + 1: that is Darknet's rule, though the paper's is a_j alone.
        """
        tree, sums, best, order = self.tree, [], [], []
        for size, groups, classes in self._by_size():
            part = graph.add("Gather", [logits, graph.constant(classes, np.int64)], axis=2)
            part = graph.shape(part, anchors, len(groups), size, cells)
            best.append(graph.add("ArgMax", [part], axis=3, keepdims=0))
            part = graph.add("Sub", [part, graph.add("ReduceMax", [part], axes=[3], keepdims=1)])
            part = graph.add("Exp", [part])
            sums.append(graph.add("ReduceSum", [part, graph.constant([3], np.int64)], keepdims=0))
            order.append(groups)
        ordered = np.concatenate(order)
        # Of each group the best class, and its probability among its siblings: exp(0) / Σ exp.
        among = graph.add("Reciprocal", [sums[0] if len(sums) == 1 else graph.add("Concat", sums, axis=2)])
        first = graph.constant(tree.offset[ordered].reshape(1, 1, -1, 1), np.int64)
        numbers = graph.add("Add", [best[0] if len(best) == 1 else graph.add("Concat", best, axis=2), first])
        return graph.shape(self._descend(graph, among, numbers, _inverse(ordered)), anchors * cells)

    def _descend(self, graph: Graph, among: str, classes: str, place: NDArray[np.int64]) -> str:
        """Walk down from the roots, all boxes at once; ``place`` is where in axis 2 a group stands."""
        tree = self.tree
        threshold = graph.constant(self.threshold)
        below = graph.constant(np.where(tree.child < 0, 0, place[tree.child]), np.int64)
        inner = graph.constant(tree.child >= 0, np.bool_)
        root = graph.constant([place[0]], np.int64)
        here = answer = graph.add("Gather", [classes, root], axis=2)
        probability = product = graph.add("Gather", [among, root], axis=2)
        going = graph.add("Greater", [product, threshold])
        for _ in tree.levels[1:]:
            going = graph.add("And", [going, graph.add("Gather", [inner, here])])
            group = graph.add("Gather", [below, here])
            here = graph.add("GatherElements", [classes, group], axis=2)
            likelier = graph.add("GatherElements", [among, group], axis=2)
            probability = graph.add("Mul", [probability, likelier])
            product = graph.add("Mul", [product, probability])
            going = graph.add("And", [going, graph.add("Greater", [product, threshold])])
            answer = graph.add("Where", [going, here, answer])
        return answer


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in ``order``, a permutation, each number stands."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse
