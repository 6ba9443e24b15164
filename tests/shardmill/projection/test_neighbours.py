import math
import tracemalloc

import numpy as np
import pytest

from shardmill.projection import neighbours
from shardmill.projection.neighbours import same_class_rate


def test_rate_is_that_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 7)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 6)).astype(np.float16)
    labels = [str(int(vector.argmax())) for vector in vectors]  # so that near ones often have the same
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    hits = 0
    for i in range(50):
        others = [j for j in range(50) if j != i]
        nearest = max(others, key=lambda j: float(unit[i] @ unit[j]))
        hits += labels[nearest] == labels[i]
    assert same_class_rate(vectors, labels) == hits / 50


def test_length_does_not_matter_and_labels_do():
    vectors = np.array([[1, 0], [100, 1], [0, 1], [1, 100]], np.float32)
    assert same_class_rate(vectors, ["a", "a", "b", "b"]) == 1
    assert same_class_rate(vectors, ["a", "b", "a", "b"]) == 0
    assert same_class_rate(vectors, ["a", "a", None, "b"]) == pytest.approx(2 / 3)


def test_too_few_rows_give_nan():
    assert math.isnan(same_class_rate(np.zeros((0, 4), np.float32), []))
    assert math.isnan(same_class_rate(np.ones((3, 4), np.float32), ["a", None, None]))
    assert same_class_rate(np.zeros((2, 4), np.float32), ["a", "a"]) == 1


def test_memory_is_bounded_by_the_sample(monkeypatch):
    monkeypatch.setattr(neighbours, "MAXIMUM_ROWS", 1000)
    vectors = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    labels = [str(i % 5) for i in range(len(vectors))]
    tracemalloc.start()
    first = same_class_rate(vectors, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    assert first == same_class_rate(vectors, labels)
    assert 0.1 < first < 0.3
