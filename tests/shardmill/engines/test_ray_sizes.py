"""How large actors are and how many: from a stage's needs and what the nodes have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardmill.devices import GPUSpec
from shardmill.engines.ray_sizes import ActorSize, Node, actor_size, room
from shardmill.stages import Resources

GIB = 1 << 30
SMALL = Node("small", 2, 8 * GIB)
LARGE = Node("large", 16, 64 * GIB)
HEAD = Node("head", 0, 4 * GIB)
GPUS = Node("gpus", 16, 64 * GIB, gpus=4, labels={"cloud.google.com/gke-accelerator": "nvidia-l4"})


@pytest.mark.parametrize(
    ("resources", "nodes", "workers", "threads", "memory", "actors"),
    [
        (Resources(), [LARGE], None, 4, 2, 4),
        (Resources(), [HEAD, LARGE, LARGE], None, 4, 2, 8),
        (Resources(), [SMALL, LARGE], None, 2, 2, 9),
        (Resources(), [LARGE], 6, 4, 2, 2),
        (Resources(), [LARGE], 1, 1, 2, 1),
        (Resources(model=True), [LARGE, LARGE], None, 16, 2, 2),
        (Resources(model=True), [SMALL, LARGE], None, 2, 2, 9),
        (Resources(memory=31 * GIB), [LARGE], None, 4, 32, 2),
        (Resources(memory=99 * GIB), [SMALL, LARGE], None, 2, 8, 8 + 1),
        (Resources(threads=1), [LARGE], 64, 1, 2, 64),
        (Resources(model=True, gpus=GPUSpec(count=3)), [HEAD, LARGE, GPUS], None, 4, 2, 3),
        (Resources(model=True, gpus=GPUSpec(count=2, fraction=0.5)), [GPUS], None, 2, 2, 4),
        (Resources(model=True, gpus=GPUSpec(count=2, fraction=0.3)), [GPUS], None, 1, 2, 6),
        (Resources(model=True, gpus=GPUSpec(count=2)), [GPUS], 2, 1, 2, 2),
        (Resources(model=True, gpus=GPUSpec(count=9, accelerator="nvidia-l4")), [LARGE, GPUS], None, 4, 2, 9),
        (Resources(gpus=GPUSpec(accelerator="nvidia-a100")), [GPUS], None, 4, 2, 1),
        (Resources(), [], None, 4, 2, 1),
        (Resources(), [HEAD], None, 4, 2, 1),
    ],
)
def test_every_node_is_used_and_none_is_asked_for_more_than_it_has(
    resources: Resources, nodes: list[Node], workers: int | None, threads: int, memory: int, actors: int
) -> None:
    size = actor_size(resources, nodes, workers)
    assert (size.threads, size.memory // GIB, room(size, nodes, workers, False)) == (threads, memory, actors)


@given(
    st.builds(
        Resources,
        threads=st.integers(1, 8),
        memory=st.integers(0, 64 * GIB),
        model=st.booleans(),
        gpus=st.none() | st.builds(GPUSpec, count=st.integers(1, 9), fraction=st.sampled_from([1, 0.5, 1 / 3, 0.3])),
    ),
    st.lists(
        st.builds(Node, st.just("n"), st.integers(0, 64), st.integers(GIB, 99 * GIB), st.integers(0, 8)), max_size=5
    ),
    st.none() | st.integers(1, 99),
)
def test_what_is_asked_for_can_be_had(resources: Resources, nodes: list[Node], workers: int | None) -> None:
    size = actor_size(resources, nodes, workers)
    count = room(size, nodes, workers, may_grow=False)
    fitting = [node for node in nodes if node.cpus >= max(1, size.threads) and node.gpus >= size.devices]
    assert size.threads >= 1
    assert count >= 1
    if resources.gpus is None and workers is None:
        assert count * size.threads <= max(sum(node.cpus for node in fitting), size.threads)
        assert room(size, nodes, workers) in (count, 2 * count)
    for node in fitting:
        assert size.memory <= node.memory


def test_what_an_autoscaler_may_add_is_asked_for() -> None:
    size = actor_size(Resources(), [LARGE], None)
    assert room(size, [LARGE], None) == 8
    assert room(size, [], None) == 1


def test_actors_are_kept_for_what_they_are_large_enough_for() -> None:
    size = ActorSize(4, 8 * GIB)
    assert size.serves(ActorSize(4, 2 * GIB))
    assert not size.serves(ActorSize(4, 9 * GIB))
    assert not size.serves(ActorSize(2, 2 * GIB))
    assert not size.serves(ActorSize(4, 2 * GIB, GPUSpec()))


def test_the_accelerator_is_a_label_of_the_node() -> None:
    options = ActorSize(4, 2 * GIB, GPUSpec(accelerator="gpu=l4", fraction=0.5)).options()
    assert options["label_selector"] == {"gpu": "l4"}
    assert (options["num_gpus"], options["num_cpus"], options["memory"]) == (0.5, 4, 2 * GIB)
