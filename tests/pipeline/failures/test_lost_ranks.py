from __future__ import annotations

from datetime import timedelta

import pytest
import torch.distributed as dist

from pipeline.errors import ReportedElsewhere
from pipeline.failures.lost_ranks import lost_ranks_named

GLOO = "[/x/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:12. Hm"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(GLOO), r"rank 3 has lost .*: Connection closed by peer \[::1\]:12\. Another"),
        (dist.DistBackendError("NCCL error: remote process exited"), "remote process exited"),
        (dist.DistNetworkError("the store is gone"), "the store is gone"),
    ],
)
def test_the_error_of_an_exchange_becomes_one_sentence(error: Exception, reason: str) -> None:
    with pytest.raises(RuntimeError, match=reason), lost_ranks_named(3):
        raise error


@pytest.mark.parametrize(
    "error",
    [ReportedElsewhere("rank 0 has failed"), RuntimeError("shapes differ"), ValueError("no")],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, lost_ranks_named(3):
        raise error
    assert caught.value is error


def test_an_exchange_whose_partner_never_comes_is_told_too() -> None:
    """A real time-out of gloo: of two ranks there is but one."""
    one_of_two = {"rank": 0, "world_size": 2, "store": dist.HashStore()}
    with pytest.raises(RuntimeError, match="rank 0 has lost the other ranks"), lost_ranks_named(0):
        dist.init_process_group("gloo", timeout=timedelta(seconds=0.5), **one_of_two)
