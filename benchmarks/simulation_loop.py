"""The engine `loop` of `simulation.py`: the bare PyTorch loop over clients, no framework."""

from __future__ import annotations

import time
from typing import Any

import torch
from simulation_work import Work, arrays, client_name, client_samples, train_client, zero_head


def run(work: Work) -> tuple[dict[str, Any], list[float]]:
    """Return the head and each round's seconds."""
    torch.set_num_threads(1)
    samples = [client_samples(work, number) for number in range(work.clients)]
    names = [client_name(number, work.clients) for number in range(work.clients)]
    head, seconds = zero_head(work.feature_dim), []
    for number in range(1, work.rounds + 1):
        started = time.perf_counter()
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in head.items()}
        for (features, labels), client in zip(samples, names, strict=True):
            for name, value in train_client(head, features, labels, client, number).items():
                total[name] += value
        head = {name: (value / work.clients).float() for name, value in total.items()}
        seconds.append(time.perf_counter() - started)
    return arrays(head), seconds
