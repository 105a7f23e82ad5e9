"""What rounds of training steps come to: speed, parts of a step, memory, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.harness.result import Measurement
from benchmarks.harness.rounds import figures_of
from benchmarks.training.measured_steps import REAL, SYNTHETIC, Block
from benchmarks.training.rounds import Runs
from benchmarks.training.step_parts import PARTS
from benchmarks.training.variants import AS_CONFIGURED
from pipeline.config.schedule import Phase


def speed_figures(runs: Runs, kinds: Sequence[str], batch_size: int) -> list[Measurement]:
    """Of all workers together, each phase on each kind of batches."""
    measured = {
        f"{phase}, {kind} images": runs.step_s(AS_CONFIGURED, phase, kind)
        for phase in Phase
        for kind in kinds
    }
    rates = {name: [batch_size / one for one in runs] for name, runs in measured.items()}
    pairs = [(f"{p}, {REAL} images", f"{p}, {SYNTHETIC} images") for p in Phase]
    return [
        *figures_of("a step", "s", measured, ()),
        *figures_of("throughput", "images/s", rates, pairs if len(kinds) == 2 else ()),
    ]


def arithmetic_figures(
    runs: Runs, kinds: Sequence[str], batch_size: int, flops: Mapping[Phase, int],
    given_tflops: float = 0.0,
) -> list[Measurement]:  # fmt: skip
    """`flops` are those of one image; `given_tflops` is the peak of all workers, 0: as measured."""
    rates = {
        f"{phase}, {kind} images": [
            flops[phase] * batch_size / one / 1e12
            for one in runs.step_s(AS_CONFIGURED, phase, kind)
        ]
        for phase in Phase
        for kind in kinds
    }
    measured = {
        "measured peak of matrix products": [peak.matrix_tflops for peak in runs.peaks],
        "measured peak of a convolution": [peak.convolution_tflops for peak in runs.peaks],
    }
    if given_tflops:
        measured, limits = {}, {"peak that was given": [given_tflops] * _rounds(runs)}
    else:
        limits = measured
    figures = figures_of("operations", "TFLOP/s", rates | measured, ())
    for limit_name, limit in limits.items():
        for name, tflops in rates.items():
            shares = [a / b for a, b in zip(tflops, limit, strict=True)]
            figures.append(Measurement.of_runs(f"share of the {limit_name}", name, "share", shares))
    return figures


def _rounds(runs: Runs) -> int:
    return len(next(iter(runs.blocks.values())))


def part_figures(runs: Runs, kinds: Sequence[str]) -> list[Measurement]:
    """Shares of a step, by phase."""
    return [figure for phase in Phase for figure in _parts_of(runs, kinds, phase)]


def _parts_of(runs: Runs, kinds: Sequence[str], phase: Phase) -> list[Measurement]:
    shares: dict[str, list[float]] = {}
    if REAL in kinds:
        real = runs.blocks[AS_CONFIGURED, phase, REAL]
        shares["waiting for the reader, of a step on real images"] = [
            block.waiting_s / block.step_s for block in real
        ]
    synthetic_s = runs.step_s(AS_CONFIGURED, phase, SYNTHETIC) if SYNTHETIC in kinds else []
    if len(kinds) == 2:
        shares["what real images cost, of a step on them"] = [
            1 - one / block.step_s for one, block in zip(synthetic_s, real, strict=True)
        ]
    if phase in runs.all_reduce_shares:
        shares["exchange of gradients that nothing hides, of a step"] = runs.all_reduce_shares[
            phase
        ]
    parts = runs.parts.get(phase, [])
    if parts:
        shares |= {name: [one.shares[name] for one in parts] for name in PARTS}
    group = f"where a step's time goes: {phase}"
    figures = [Measurement.of_runs(group, name, "share", values) for name, values in shares.items()]
    if parts:
        overhead = [one.step_s / plain for one, plain in zip(parts, synthetic_s, strict=True)]
        figures.append(Measurement.of_runs(group, "step with marks / without", "ratio", overhead))
    return figures


def comparison_figures(
    runs: Runs, kinds: Sequence[str], batch_sizes: Mapping[str, int]
) -> list[Measurement]:
    """Throughput of every variant, and its ratio to the configuration as it is: above 1, faster.

    `batch_sizes` are those of the candidates, by name.
    """
    pairs = [(name, AS_CONFIGURED) for name in batch_sizes if name != AS_CONFIGURED]
    if not pairs:
        return []
    figures = []
    for phase in Phase:
        for kind in kinds:
            rates = {
                name: [size / one for one in runs.step_s(name, phase, kind)]
                for name, size in batch_sizes.items()
            }
            group = f"compared: {phase}, {kind} images"
            figures += figures_of(group, "images/s", rates, pairs)
    return figures


def memory_figures(runs: Runs, kinds: Sequence[str], on_gpu: bool) -> list[Measurement]:
    """Of the worker that took most, by round: on CUDA of tensors, in each phase; else of the
    whole process up to then.
    """
    names = dict.fromkeys(name for name, _, _ in runs.blocks)
    if on_gpu:
        blocks = {
            f"{name}, {phase}": [runs.blocks[name, phase, kind] for kind in kinds]
            for name in names
            for phase in Phase
        }
    else:
        blocks = {
            name: [runs.blocks[name, phase, kind] for phase in Phase for kind in kinds]
            for name in names
        }
    group = "peak memory of a worker"
    return [Measurement.of_runs(group, name, "GB", _most(found)) for name, found in blocks.items()]


def _most(blocks: Sequence[Sequence[Block]]) -> list[float]:
    return [max(block.peak_bytes for block in one) / 1e9 for one in zip(*blocks, strict=True)]
