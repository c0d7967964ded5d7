"""The work that every engine of `simulation.py` does: sizes, features, order of batches, the plain loop.

Ray's workers and the environment of pfl-research import it, so it holds no more than that.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedgraft.randomness import key, name_key, orders

NUM_CLASSES = 10
EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED = 5, 10, 0.001, 1
ROWS_AT_ONCE = 8192

Head = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Work:
    """The sizes of the work, and the folder with `features.npy` and `labels.npy`, in the order of the clients."""

    folder: str
    clients: int
    rounds: int
    samples: int = 50
    feature_dim: int = 1280
    dtype: str = "float32"
    threads: int = 1
    hosts: int = 1
    overrides: tuple[str, ...] = ()

    VARIABLE = "FEDGRAFT_BENCHMARK_WORK"

    def environment(self) -> dict[str, str]:
        """Return the variable that hands the work to another process."""
        return {self.VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def received(cls) -> Work:
        """Return the work that this process was handed."""
        facts = json.loads(os.environ[cls.VARIABLE])
        return cls(**{**facts, "overrides": tuple(facts["overrides"])})

    @property
    def feature_bytes(self) -> int:
        """Bytes of the cohort's features."""
        return self.clients * self.samples * self.feature_dim * np.dtype(self.dtype).itemsize


def make_data(work: Work) -> None:
    """Write features of norm about 16 a sample, so that training is stable, and labels that they explain partly."""
    draw = np.random.default_rng(SEED)
    centres = draw.standard_normal((NUM_CLASSES, work.feature_dim)).astype(np.float32) * 0.1
    labels = draw.integers(0, NUM_CLASSES, work.clients * work.samples)
    labels[:NUM_CLASSES] = np.arange(NUM_CLASSES)[: len(labels)]  # each class is there, however few the samples
    shape, folder = (len(labels), work.feature_dim), Path(work.folder)
    features = np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=work.dtype, shape=shape)
    for first in range(0, len(labels), ROWS_AT_ONCE):
        part = labels[first : first + ROWS_AT_ONCE]
        noise = draw.standard_normal((len(part), work.feature_dim), dtype=np.float32) * np.float32(0.45)
        features[first : first + ROWS_AT_ONCE] = centres[part] + noise
    features.flush()
    np.save(folder / "labels.npy", labels)


def client_name(number: int, num_clients: int) -> str:
    """Return the name that FedGraft gives a client; its order of batches hangs on it."""
    return f"client-{number:0{max(4, len(str(num_clients - 1)))}d}"


def client_samples(work: Work, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one client's features, `(samples, feature_dim)` float32, and labels."""
    rows = slice(number * work.samples, (number + 1) * work.samples)
    features = np.load(Path(work.folder) / "features.npy", mmap_mode="r")[rows]
    labels = np.load(Path(work.folder) / "labels.npy", mmap_mode="r")[rows]
    return torch.from_numpy(np.array(features, dtype=np.float32)), torch.from_numpy(np.array(labels))


def batch_orders(name: str, round_number: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    """Return the order in which a client takes its samples in one epoch of a round."""
    order: NDArray[np.int64] = orders(key(SEED, "batches", round_number, name_key(name), epoch), num_samples)[0]
    return order


def train_client(head: Head, features: torch.Tensor, labels: torch.Tensor, name: str, round_number: int) -> Head:
    """Train one client's head, as any PyTorch tutorial does."""
    model = torch.nn.Linear(features.shape[1], NUM_CLASSES)
    model.load_state_dict(head)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        order = batch_orders(name, round_number, epoch, len(features))
        for first in range(0, len(order), BATCH_SIZE):
            batch = torch.from_numpy(order[first : first + BATCH_SIZE])
            optimizer.zero_grad()
            loss_of(model(features[batch]), labels[batch]).backward()
            optimizer.step()
    return {name: value.detach() for name, value in model.state_dict().items()}


def zero_head(feature_dim: int) -> Head:
    """Return the head before the first round."""
    return {"weight": torch.zeros(NUM_CLASSES, feature_dim), "bias": torch.zeros(NUM_CLASSES)}


def arrays(head: Head) -> dict[str, NDArray[Any]]:
    """Return a head as NumPy arrays."""
    return {name: value.detach().numpy() for name, value in head.items()}
