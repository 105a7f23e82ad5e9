"""Gradients summed over the ranks in bfloat16: half the bytes, 8 bits of mantissa.

torch has a hook of the kind, but only for NCCL.
"""

# Annotations must be types, not strings: torch looks at those of the hook.
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def compress_gradients_(parallel: DistributedDataParallel) -> None:
    """Each rank's gradients are rounded once, and sums as the backend adds them; the division by
    the number of ranks and the optimizer stay in float32.
    """
    parallel.register_comm_hook(None, _average_in_bfloat16)


def _average_in_bfloat16(
    group: dist.ProcessGroup | None, bucket: dist.GradBucket
) -> torch.futures.Future[Tensor]:
    world_size = dist.get_world_size(group)
    compressed = bucket.buffer().to(torch.bfloat16)
    work = dist.all_reduce(compressed, group=group, async_op=True)
    assert work is not None

    def decompress(future: torch.futures.Future[list[Tensor]]) -> Tensor:
        return bucket.buffer().copy_(future.value()[0]).div_(world_size)

    return work.get_future().then(decompress)
