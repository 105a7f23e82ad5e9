from __future__ import annotations

import torch

from pipeline.step.skipped_updates import SkippedUpdates


def test_updates_left_out_are_counted_for_each_network_in_all_and_in_a_row() -> None:
    skips = SkippedUpdates()
    for completion, discriminator in ((1, 0), (0, 1), (1, 1), (1, 1), (0, 1)):
        skips.add(
            {
                "completion_skipped": torch.tensor(float(completion)),
                "discriminator_skipped": torch.tensor(float(discriminator)),
                "reconstruction": torch.tensor(1.0),
            }
        )
    assert skips.totals() == {"completion": 3, "discriminator": 4}
    assert skips.longest_streaks() == {"completion": 2, "discriminator": 4}


def test_a_phase_that_does_not_train_a_network_leaves_its_row_as_it_is() -> None:
    skips = SkippedUpdates()
    skips.add({"completion_skipped": torch.tensor(1.0)})
    skips.add({"discriminator_skipped": torch.tensor(0.0)})
    skips.add({"completion_skipped": torch.tensor(1.0)})
    assert skips.longest_streaks() == {"completion": 2, "discriminator": 0}


def test_before_the_first_step_there_is_nothing_to_count() -> None:
    assert SkippedUpdates().totals() == {}
