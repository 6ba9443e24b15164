"""Random functions of torch draw from the given generator, and from nothing else."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shardmill.errors import ConfigurationError
from shardmill.torchvision_compat import import_torchvision
from shardmill.transforms.randomness import SeededRandomness
from shardmill.transforms.sample import seeded_generator

ZEROS, HALVES = torch.zeros(3, 4), torch.full((3, 4), 0.5)
DRAWS: dict[str, Callable[[], torch.Tensor]] = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn((2, 2), dtype=torch.float64),
    "randint": lambda: torch.randint(1000, (3,)),
    "randint from": lambda: torch.randint(500, 1000, (3,)),
    "randperm": lambda: torch.randperm(20),
    "multinomial": lambda: torch.multinomial(torch.ones(50), 5),
    "bernoulli": lambda: torch.bernoulli(torch.full((64,), 0.5)),
    "normal": lambda: torch.normal(ZEROS, 1.0),
    "normal of size": lambda: torch.normal(0.0, 1.0, (3,)),
    "uniform_": lambda: torch.empty(3).uniform_(1, 2),
    "normal_": lambda: torch.empty(3).normal_(),
    "random_": lambda: torch.empty(3).random_(),
    "random_ to": lambda: torch.empty(3).random_(1000),
    "bernoulli_": lambda: torch.empty(64).bernoulli_(0.5),
    "exponential_": lambda: torch.empty(3).exponential_(),
    "rand_like": lambda: torch.rand_like(ZEROS),
    "randn_like": lambda: torch.randn_like(ZEROS),
    "randint_like": lambda: torch.randint_like(ZEROS, 1000),
    "poisson": lambda: torch.poisson(HALVES * 100),
    "dirichlet": lambda: torch._sample_dirichlet(torch.ones(3)),
    "Beta": lambda: torch.distributions.Beta(torch.tensor(1.0), torch.tensor(2.0)).sample(),
    "Normal": lambda: torch.distributions.Normal(0.0, 1.0).sample((3,)),
    "gumbel_softmax": lambda: F.gumbel_softmax(torch.ones(40)),
    "dropout": lambda: F.dropout(torch.ones(64)),
    "init": lambda: torch.nn.init.kaiming_uniform_(torch.empty(3, 3)),
}


def drawn(name: str, seed: int) -> torch.Tensor:
    with SeededRandomness(seeded_generator(seed, name)):
        return DRAWS[name]()


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_depends_on_the_seed_alone(name: str) -> None:
    state = torch.get_rng_state()
    first = drawn(name, 1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was advanced"
    torch.rand(7)
    assert torch.equal(drawn(name, 1), first)
    assert not torch.equal(drawn(name, 2), first)


def test_one_and_eight_threads_draw_the_same() -> None:
    tasks = [(name, seed) for seed in range(20) for name in DRAWS]
    alone = [drawn(*task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda task: drawn(*task), tasks))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: torch.rand(3, generator=generator),
        lambda generator: torch.nn.init.uniform_(torch.empty(3), generator=generator),
    ],
)
def test_a_generator_that_is_given_is_used(draw: Callable[[torch.Generator], torch.Tensor]) -> None:
    with SeededRandomness(seeded_generator(1)):
        inside = draw(torch.Generator().manual_seed(5))
    assert torch.equal(inside, draw(torch.Generator().manual_seed(5)))


def test_a_random_function_without_generator_is_refused() -> None:
    state = torch.get_rng_state()
    with SeededRandomness(seeded_generator(1)), pytest.raises(ConfigurationError, match="native_dropout"):
        torch.native_dropout(torch.ones(9), 0.5, True)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchvision_draws_from_torch_alone() -> None:
    folder = Path(str(import_torchvision().__file__)).parent / "transforms" / "v2"
    for path in folder.rglob("*.py"):
        assert not re.search(r"^\s*(import random|from random)|np\.random|numpy\.random", path.read_text(), re.M), path
