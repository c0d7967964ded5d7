"""Federated local training as a tutorial writes it: nn.Module, torch.optim, batches. The oracle of `train_client`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from splitmix import permutation, stream_key
from torch import nn

from clients.settings import TrainSettings


def order_of(seed: int, round_number: int, client_key: int, epoch: int, num_samples: int) -> list[int]:
    return permutation(stream_key(seed, "batches", round_number, client_key, epoch), num_samples)


def batches_of(
    settings: TrainSettings, seed: int, round_number: int, client_key: int, num_samples: int
) -> Iterator[list[int]]:
    """Yield batches epoch by epoch; an epoch's rest is a batch too, unless it is dropped and not the only one."""
    if num_samples == 0:
        return
    steps_left = settings.local_steps if settings.local_steps is not None else 10**9
    epochs_left = 10**9 if settings.local_steps is not None else settings.local_epochs or 1
    epoch = 0
    while epochs_left > 0 and steps_left > 0:
        order = order_of(seed, round_number, client_key, epoch, num_samples)
        full, rest = divmod(num_samples, settings.batch_size)
        cuts = [order[i * settings.batch_size : (i + 1) * settings.batch_size] for i in range(full)]
        if rest and not (settings.drop_last and full > 0):
            cuts.append(order[full * settings.batch_size :])
        yield from cuts[:steps_left]
        steps_left -= len(cuts)
        epochs_left -= 1
        epoch += 1


def optimizer_of(settings: TrainSettings, module: nn.Module, rate: float) -> torch.optim.Optimizer:
    chosen = settings.optimizer
    if chosen.name == "sgd":
        return torch.optim.SGD(
            module.parameters(), rate, chosen.momentum, weight_decay=chosen.weight_decay, nesterov=chosen.nesterov
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.name]
    betas = (chosen.beta_1, chosen.beta_2)
    return kind(module.parameters(), rate, betas, chosen.epsilon, chosen.weight_decay)


def rate_of(settings: TrainSettings, round_number: int, num_rounds: int) -> float:
    """Return a round's learning rate, the first being round 1: warmed up, then by steps or along half a cosine."""
    schedule = settings.schedule
    rate = settings.optimizer.learning_rate * min(1, round_number / (schedule.warmup_rounds + 1))
    if schedule.name == "step":
        return rate * schedule.factor_per_step ** ((round_number - 1) // schedule.every)
    if schedule.name == "cosine":
        falls = (1 + math.cos(math.pi * (round_number - 1) / num_rounds)) / 2
        return rate * (schedule.final_factor + (1 - schedule.final_factor) * falls)
    return rate


def train(
    module: nn.Module,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    features: torch.Tensor,
    targets: torch.Tensor,
    settings: TrainSettings,
    rate: float,
    order: tuple[int, int, int],
    ascent: float = 0.0,
) -> tuple[int, float]:
    """Train in place; return the number of steps and the sum of samples' losses. `order`: seed, round, client.

    With an ascent as in implementations of sharpness-aware minimisation: climb, take the gradient there, go back.
    """
    optimizer = optimizer_of(settings, module, rate)
    num_steps, total = 0, 0.0
    for batch in batches_of(settings, *order, len(features)):
        loss = criterion(module(features[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        if ascent:
            parameters = list(module.parameters())
            stood = [parameter.detach().clone() for parameter in parameters]
            norm = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()
            with torch.no_grad():
                for parameter in parameters:
                    parameter += ascent * parameter.grad / (norm + 1e-12)
            optimizer.zero_grad()
            criterion(module(features[batch]), targets[batch]).backward()
            with torch.no_grad():
                for parameter, value in zip(parameters, stood, strict=True):
                    parameter.copy_(value)
        if settings.clip_norm is not None:
            norm = torch.sqrt(sum(p.grad.square().sum() for p in module.parameters()))
            for parameter in module.parameters():
                parameter.grad *= min(1.0, settings.clip_norm / (norm.item() + 1e-6))
        optimizer.step()
        num_steps += 1
        total += loss.item() * len(batch)
    return num_steps, total
