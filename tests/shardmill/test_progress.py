"""Progress: what a meter counts and how often a log hears of it."""

from shardmill.progress import Progress, ProgressMeter, for_a_log


def test_a_log_hears_of_a_task_now_and_then_and_of_its_end() -> None:
    heard: list[Progress] = []
    sink = for_a_log(heard.append, interval=3600)
    meter = ProgressMeter("pack", 10, sink, interval=0)
    for _ in range(10):
        meter.advance(1)
    assert [state.done for state in heard] == [10]


def test_a_terminal_hears_of_every_step_that_is_far_enough_from_the_last() -> None:
    heard: list[Progress] = []
    meter = ProgressMeter("pack", 3, heard.append, interval=0)
    for _ in range(3):
        meter.advance(1)
    assert [(state.task, state.done, state.total) for state in heard] == [("pack", n, 3) for n in (1, 2, 3)]
    assert str(heard[-1]).startswith("pack: 3 of 3 samples, ")
    assert heard[-1].seconds_left == 0


def test_a_slow_rate_is_no_zero() -> None:
    assert str(Progress("embed", 1, 14, 0.06)).startswith("embed: 1 of 14 samples, 0.1 samples/s, ")
    assert "1,234 samples/s" in str(Progress("pack", 1, 14, 1234.4))
