"""FedAvg as anyone would write it: PyTorch, a loop over clients, and a weighted mean in NumPy.

Shares with FedGraft only what defines the experiment: the samples, who has which, and the order of batches.
"""

from __future__ import annotations

import numpy as np
import torch

from fedgraft.data.federation import build_federation
from fedgraft.randomness import key, name_key, orders
from scenarios.schema import Scenario

Head = dict[str, np.ndarray]


def local_training(scenario: Scenario, head: Head, x: np.ndarray, y: np.ndarray, name: str, round_number: int) -> Head:
    model = torch.nn.Linear(x.shape[1], len(head["bias"]))
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(head["weight"]))
        model.bias.copy_(torch.from_numpy(head["bias"]))
    settings = scenario.train
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.optimizer.learning_rate)
    for epoch in range(settings.local_epochs or 1):
        order = orders(key(scenario.seed, "batches", round_number, name_key(name), epoch), len(x))[0]
        for first in range(0, len(x), settings.batch_size):
            batch = order[first : first + settings.batch_size]
            optimizer.zero_grad()
            outputs = model(torch.from_numpy(x[batch]))
            torch.nn.functional.cross_entropy(outputs, torch.from_numpy(y[batch])).backward()
            optimizer.step()
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


def plain_fedavg(scenario: Scenario) -> list[Head]:
    """Return the head after each round, the start first; all clients take part in every round."""
    federation = build_federation(scenario.data, scenario.seed)
    samples = federation.samples
    features, targets = samples.features(), samples.targets
    num_classes = len(samples.label_names)
    head: Head = {
        "weight": np.zeros((num_classes, features.shape[1]), dtype=np.float32),
        "bias": np.zeros(num_classes, dtype=np.float32),
    }
    heads = [head]
    for round_number in range(1, scenario.server.rounds + 1):
        locals_, counts = [], []
        for position, name in enumerate(federation.client_names):
            rows = federation.train.of(position)
            locals_.append(local_training(scenario, head, features[rows], targets[rows], name, round_number))
            counts.append(len(rows))
        head = {
            name: np.average([local[name] for local in locals_], axis=0, weights=counts).astype(np.float32)
            for name in head
        }
        heads.append(head)
    return heads


def predictions(head: Head, x: np.ndarray) -> np.ndarray:
    """Return logits `(num_samples, num_classes)` in float64."""
    return x.astype(np.float64) @ head["weight"].T.astype(np.float64) + head["bias"]


def accuracy_and_loss(head: Head, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    logits = predictions(head, x)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
    return float((logits.argmax(axis=1) == y).mean()), float(losses.mean())
