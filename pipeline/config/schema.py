"""The configuration: one tree of frozen dataclasses, defaults equal to the paper where it says.

`parse_config` turns plain mappings (a YAML preset and command-line overrides) into a `Config`, or
raises one `ValueError` that lists every invalid setting: the field, its value, what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config.baseline_names import BASELINE_NAMES
from shards.format.recipe import PackRecipe
from shards.reading.fresh_holes import WeightedMasks
from shards.sampling.mixture import WeightedSet


@dataclass(frozen=True)
class DataConfig:
    """The packed set, and how crops are cut from its images while training."""

    shards: str = "data/shards"  # folder or URL of the packed set
    short_side_min: int = 256  # the image's short side is scaled to a random size in this range
    short_side_max: int = 384  # before the training crop is cut (paper, section 5)
    horizontal_flip: bool = True
    decode_threads: int = 0  # per rank; 0: the cores of this machine shared among its ranks
    prefetch_batches: int = 4  # slots of the ring that the reader process fills ahead
    cache: str = ""  # local folder for shards from object storage; empty: one the machine shares
    cache_limit_gb: float = 0.0  # what it may hold; 0: nine tenths of what its disk allows
    check_crc: bool = True  # of every sample, before it is decoded
    damaged: Literal["stop", "substitute"] = "stop"  # at a sample or shard that cannot be read
    weight: float = 1.0  # of `shards` in a mixture, relative to those of the further sets
    mixture: tuple[WeightedSet, ...] = ()  # further sets that supply a share of every batch
    holes: Literal["packed", "fresh"] = "packed"  # fresh: drawn again for each sample of each step
    fresh_masks: tuple[WeightedMasks, ...] = ()  # what is then drawn; none: as each set was packed

    @property
    def cache_limit_bytes(self) -> int:
        return int(self.cache_limit_gb * 1e9)


@dataclass(frozen=True)
class CompletionConfig:
    """The completion network (paper, section 3.1 and table 1), also with DAM blocks; or a U-Net."""

    kind: Literal["glcic", "dam", "unet"] = "glcic"
    width: int = 64  # channels of the first layer; all others scale with it
    block_order: Literal["conv_bn_act", "conv_act_bn"] = "conv_bn_act"
    hole_fill: Literal["mean", "gray"] = "mean"  # colour written into the hole: the set's mean, 0.5
    subtract_fill: bool = True  # centre the input on the fill colour, as the authors' release does
    input_scale: float = 1.0  # of the image before the first layer; 2, centred on 0.5: [-1, 1]
    output: Literal["sigmoid", "clamp"] = "sigmoid"  # clamp: to [-1, 1], which becomes [0, 1]
    attention_kernel: int = 1  # of the DAM blocks' convolutions: 1 or 3
    attention_skip: Literal["encoder", "none"] = "encoder"  # what a DAM block is joined with
    # zero: the blocks without their maps, so that the joins alone are left, for comparison
    attention_maps: Literal["learned", "zero"] = "learned"
    # of a DAM block: as the report gives it, or as the first author's released code has it
    attention_form: Literal["report", "author"] = "report"
    depth: int = 4  # of the U-Net: how often it halves the image
    channels_max: int = 1024  # of the U-Net
    gate_skips: bool = False  # of the U-Net: what crosses over is weighted by the known pixels


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The two context discriminators and their fusion (paper, section 3.2)."""

    width: int = 64
    local_size: int = 128  # side of the local patch, pixels; the global input is the crop
    num_features: int = 1024  # of each discriminator's vector before fusion
    # of several holes, what the local patch is centred on: one drawn at random, the box of them all
    local_patch: Literal["random_hole", "all_holes"] = "random_hole"


@dataclass(frozen=True)
class LossConfig:
    reconstruction: Literal["masked", "global", "hole_and_known"] = "hole_and_known"
    error: Literal["squared", "absolute"] = "squared"
    masked_mean: Literal["image", "hole"] = "image"  # of masked: over what it is averaged
    known_weight: float = 4.0  # of the known region's mean beside the hole's, for hole_and_known
    # Weight of the adversarial term (paper, section 4); auto: moved from that as little as keeps
    # the reconstruction's gradient at the output at 1 to 10 times the adversarial one's.
    alpha: float | Literal["auto"] = 0.0004
    # -log D(fake), which does not vanish while the discriminators are ahead, or the paper's
    # log(1 - D(fake)), which does; the completion network lowers either
    adversarial: Literal["non_saturating", "saturating"] = "non_saturating"
    discriminator_input: Literal["composite", "raw"] = "composite"
    real_patch: Literal["random", "same"] = "random"  # where the real local patch is taken
    real_label: float = 1.0  # what the discriminators are taught to say of real images
    r1_weight: float = 0.0  # of the penalty on the discriminators' slope at real images
    map_weight: float = 0.001  # of the DAM maps' distance from the true error
    map_region: Literal["all", "hole", "known"] = "all"  # where the maps are compared with it
    map_scale: float = 2.0  # the true error is multiplied by this, and clamped to 1


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the three phases (paper, algorithm 1), in steps or in epochs of the packed set."""

    unit: Literal["steps", "epochs"] = "steps"
    completion: int = 90_000
    discriminator: int = 10_000
    joint: int = 400_000


_OF_KIND: Any = None  # stands for the value that the kind of optimizer has of its own
# Adadelta's are those of PyTorch and Torch7. With Adam's rate it would hardly move a weight: its
# steps are the size of its own past steps, and the rate multiplies them.
_OF_OPTIMIZER = {
    "adam": {"learning_rate": 0.0004, "epsilon": 1e-8},
    "adadelta": {"learning_rate": 1.0, "epsilon": 1e-6},
}


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer of one network. `dataclasses.replace` of `kind` keeps the other kind's rate."""

    kind: Literal["adam", "adadelta"] = "adam"
    learning_rate: float = _OF_KIND  # adam: 0.0004; adadelta: 1
    beta1: float = 0.9  # Adam
    beta2: float = 0.999
    rho: float = 0.9  # Adadelta
    epsilon: float = _OF_KIND  # adam: 1e-8; adadelta: 1e-6

    def __post_init__(self) -> None:
        for name, value in _OF_OPTIMIZER.get(self.kind, {}).items():
            if getattr(self, name) is _OF_KIND:
                object.__setattr__(self, name, value)


@dataclass(frozen=True)
class TrainConfig:
    batch_size: int = 96  # of all workers together
    micro_batch_size: int = 0  # samples that a worker computes at a time; 0: its whole share
    # bf16, fp16: autocast over fp32 parameters; fp16 scales the loss; auto: bf16 where the GPU or
    # the processor multiplies in it, else fp32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "bf16"
    tf32: bool = False  # fp32 products and convolutions on CUDA may round to TensorFloat-32
    channels_last: bool = True
    compile: bool = False  # both networks by torch.compile
    cuda_graphs: bool = False  # a step is recorded once a phase and then replayed
    # layers 7 to 10 as they are or as plain ones of a larger batch; auto: what is faster at start
    dilation: Literal["native", "space_to_batch", "auto"] = "native"
    # winograd: wide 3x3 layers with fewer multiplications; on CPUs, needs a C++ compiler
    convolution: Literal["direct", "winograd"] = "direct"
    ema_decay: float = 0.999  # of the completion network's running average; 0 turns it off
    threads: int = 0  # of each rank on the CPU; 0: the machine's cores shared among its ranks
    keep_memory: bool = True  # on the CPU: what is freed stays with the process, to be used again
    freeze: tuple[str, ...] = ()  # patterns of parameters that do not learn: completion.encoder.*
    deterministic: bool = True  # on CUDA: algorithms that give the same bits in every run
    skip_limit: int = 10  # updates left out in a row, not being finite, that end the run
    timeout_s: int = 600  # a step or a collective that takes longer ends the run


@dataclass(frozen=True)
class StartConfig:
    """Where a new run has its first weights from; it begins at step 0 of its own schedule."""

    # of another run, or its folder for the newest, or an exported network; empty: fresh weights
    checkpoint: str = ""
    # networks: both; all: also what the optimizers remember, and the running average
    take: Literal["completion", "networks", "all"] = "networks"


@dataclass(frozen=True)
class ParallelConfig:
    """How the workers train together; the engines follow the same trajectory."""

    engine: Literal["ddp", "accelerate", "deepspeed"] = "ddp"  # what averages the gradients
    zero_stage: int = 0  # of DeepSpeed; 1: workers share the optimizers' state, 2: gradients too
    deepspeed_config: str = ""  # a JSON file of its own; empty: the one of the stage
    sync_batch_norm: bool = False  # statistics of the whole batch instead of a worker's share; CUDA
    compress_gradients: bool = False  # they are summed over the ranks in bfloat16
    bucket_cap_mb: int = 25  # MiB of gradients in one message; 0: all that a network has


@dataclass(frozen=True)
class CheckpointConfig:
    url: str = ""  # any fsspec URL; empty: `checkpoints` in the run's folder
    every_steps: int = 2000
    keep: int = 3  # newest committed checkpoints that stay
    skip_late: bool = True  # leave out a checkpoint that a newer one overtakes, rather than wait
    give_up_after_s: int = 3600  # seconds without a committed checkpoint after which the run ends


@dataclass(frozen=True)
class LogConfig:
    every_steps: int = 50
    sheet_every_steps: int = 2000  # a sheet of completed validation images; 0: only at the end
    sheet_images: int = 8
    tensorboard: bool = True
    record_samples: bool = False  # write the samples and holes that each rank saw, step by step


@dataclass(frozen=True)
class TelemetryConfig:
    """The metrics of a run for Prometheus, on the first worker of each node. Nothing unless it is
    asked.
    """

    port: int = 0  # on which metrics are served; 0: not. 9464 is usual
    address: str = "0.0.0.0"  # of this machine, on which the port listens
    textfile_folder: str = ""  # that node-exporter's textfile collector reads; empty: none
    write_every_s: int = 15  # the textfile; it is also written at the end
    pushgateway: str = ""  # URL of one that gets the last values at the end; empty: none

    @property
    def is_on(self) -> bool:
        return bool(self.port or self.textfile_folder or self.pushgateway)


@dataclass(frozen=True)
class EvaluationConfig:
    shards: str = ""  # the packed set whose validation samples are taken; empty: data.shards
    every_steps: int = 0  # while training; 0: only at the end
    batch_size: int = 16  # per rank; it does not change the result
    limit: int = 0  # validation samples; 0: all
    weights: Literal["ema", "raw"] = "ema"
    recalibration_images: int = 512  # training images that re-estimate batch norm's statistics
    # methods without learned weights to compare with, at the end and in `glcic evaluate`
    baselines: tuple[str, ...] = BASELINE_NAMES


@dataclass(frozen=True)
class Config:
    name: str = "glcic"
    folder: str = ""  # of the run, local or URL; empty: runs/NAME
    seed: int = 0
    resume: str = "auto"  # newest intact checkpoint; never: refuse if there is one; or start at URL
    data: DataConfig = field(default_factory=DataConfig)
    pack: PackRecipe = field(default_factory=PackRecipe)
    completion: CompletionConfig = field(default_factory=CompletionConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    completion_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start: StartConfig = field(default_factory=StartConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def run_folder(self) -> str:
        return self.folder or f"runs/{self.name}"

    @property
    def checkpoint_url(self) -> str:
        return self.checkpoint.url or f"{self.run_folder.rstrip('/')}/checkpoints"

    @property
    def validation_shards(self) -> str:
        """The set whose validation samples a run is evaluated on and shown by."""
        return self.evaluation.shards or self.data.shards

    @property
    def crop_size(self) -> int:
        """Side of the training crop, pixels: a property of the packed set."""
        return self.pack.crop_size
