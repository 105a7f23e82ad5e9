from __future__ import annotations

import pytest

from pipeline.config.schedule import Phase, Schedule, resolve_schedule
from pipeline.config.schema import ScheduleConfig


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        (0, Phase.COMPLETION), (2, Phase.COMPLETION), (3, Phase.DISCRIMINATOR),
        (4, Phase.DISCRIMINATOR), (5, Phase.JOINT), (8, Phase.JOINT), (99, Phase.JOINT),
    ],
)  # fmt: skip
def test_the_phase_follows_from_the_step(step: int, phase: Phase) -> None:
    assert Schedule(3, 2, 4).phase(step) is phase


def test_a_phase_of_length_zero_is_passed_over() -> None:
    assert Schedule(0, 2, 1).phase(0) is Phase.DISCRIMINATOR
    assert Schedule(2, 0, 1).phase(2) is Phase.JOINT
    assert Schedule(2, 0, 0).total == 2


def test_past_its_end_a_schedule_stays_in_the_last_phase_that_it_has() -> None:
    assert Schedule(2, 0, 0).phase(2) is Phase.COMPLETION
    assert Schedule(2, 1, 0).phase(9) is Phase.DISCRIMINATOR


def test_updates_of_the_completion_network_are_counted_over_the_phases_that_train_it() -> None:
    schedule = Schedule(3, 2, 4)
    trained = [schedule.phase(step) is not Phase.DISCRIMINATOR for step in range(schedule.total)]
    for step in range(schedule.total + 1):
        assert schedule.completion_updates(step) == sum(trained[:step])


def test_epochs_become_whole_batches() -> None:
    config = ScheduleConfig(unit="epochs", completion=4, discriminator=1, joint=10)
    assert resolve_schedule(config, 300) == Schedule(1200, 300, 3000)
    assert resolve_schedule(ScheduleConfig(), 300) == Schedule(90_000, 10_000, 400_000)
