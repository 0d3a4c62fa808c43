"""Data-parallel training on CPU cores: one process and one thread a core, gradients averaged by gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _worker(
    rank: int, count: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=count)
    function(*arguments)
    dist.destroy_process_group()


def run_workers(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Calls `function(*arguments)` in `count` processes that `rank()` tells apart."""
    if count == 1:
        torch.set_num_threads(1)
        function(*arguments)
    else:
        mp.spawn(_worker, (count, _free_port(), function, arguments), count)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Returns when every worker has come here."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients(module: nn.Module) -> None:
    """Replaces every gradient by its mean over the workers; one message for all."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
