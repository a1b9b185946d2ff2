"""Ranks sentences: TextRank (Mihalcea and Tarau, 2004) over tf-idf, biased towards the topic.

Pure functions. The work is limited by `MAX_SENTENCES`; terms in more than half of the sentences do not distinguish them
and are left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

#: Most sentences that are compared with each other.
MAX_SENTENCES = 400
_DAMPING = 0.85
_ROUNDS = 40
_CLOSE_ENOUGH = 1e-6

Vector = Mapping[str, float]


def vectors(documents: Sequence[Sequence[str]]) -> list[Vector]:
    """A unit vector of tf-idf weights for each list of terms; empty without distinguishing terms."""
    frequency = Counter(term for document in documents for term in set(document))
    common = max(4, len(documents) // 2)
    found: list[Vector] = []
    for document in documents:
        weights = {
            term: (1 + math.log(count)) * math.log(1 + len(documents) / frequency[term])
            for term, count in sorted(Counter(document).items())
            if frequency[term] <= common
        }
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        found.append({term: weight / length for term, weight in weights.items()} if length else {})
    return found


def similarity(one: Vector, other: Vector) -> float:
    """The cosine of two unit vectors, 0 to 1."""
    if len(other) < len(one):
        one, other = other, one
    return sum(weight * other.get(term, 0.0) for term, weight in one.items())


def text_rank(nodes: Sequence[Vector], bias: Sequence[float]) -> list[float]:
    """A score for each node; they sum to 1. `bias` (positive) is the restart distribution of the random walk."""
    count = len(nodes)
    if not count:
        return []
    edges = _edges(nodes)
    total_bias = sum(bias)
    start = [each / total_bias for each in bias]
    weight_out = [sum(each.values()) for each in edges]
    scores = start
    for _ in range(_ROUNDS):
        lost = sum(score for score, out in zip(scores, weight_out, strict=True) if not out)
        following = [(1 - _DAMPING + _DAMPING * lost) * each for each in start]
        for node, neighbours in enumerate(edges):
            for neighbour, weight in neighbours.items():
                following[neighbour] += _DAMPING * scores[node] * weight / weight_out[node]
        moved = sum(abs(new - old) for new, old in zip(following, scores, strict=True))
        scores = following
        if moved < _CLOSE_ENOUGH:
            break
    return scores


def _edges(nodes: Sequence[Vector]) -> list[dict[int, float]]:
    """The similarity of each pair that shares a term, found with an index from terms to nodes."""
    index: dict[str, list[int]] = defaultdict(list)
    edges: list[dict[int, float]] = [{} for _ in nodes]
    for number, node in enumerate(nodes):
        for term, weight in node.items():
            for other in index[term]:
                product = weight * nodes[other][term]
                edges[number][other] = edges[number].get(other, 0.0) + product
                edges[other][number] = edges[other].get(number, 0.0) + product
            index[term].append(number)
    return edges
