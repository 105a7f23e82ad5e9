from __future__ import annotations

import os
import signal

import pytest

from pipeline.failures.stop_signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_only_raises_a_flag_that_the_loop_reads(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert not stop.raised
        os.kill(os.getpid(), number)
        assert stop.raised


def test_afterwards_the_handlers_are_what_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_interrupt_ends_at_once() -> None:
    with StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
