"""Federated fine-tuning as anyone would write it: timm's model whole, some of it frozen, a loop over clients.

Shares with FedGraft only what defines the experiment: the samples, who has which, and the order of batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from lively_weights import enliven
from safetensors.torch import save_file

from fedgraft.data.federation import Federation, build_federation
from fedgraft.randomness import key, name_key, orders
from scenarios.schema import Scenario

State = dict[str, torch.Tensor]


def write_weights(path: Path, name: str = "test_resnet", **options: Any) -> Path:
    """Write random weights in which no branch is silent and no statistic is trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = timm.create_model(name, pretrained=False, **options)
    enliven(model, 4)
    save_file({part: value.contiguous() for part, value in model.state_dict().items()}, str(path))
    return path


def images_of(federation: Federation, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Return all pictures, normalised."""
    pixels = torch.from_numpy(np.asarray(federation.samples.images(np.arange(federation.samples.num_samples))))
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class PlainFineTuning:
    """The experiment of a scenario whose backbone is a timm model with the weights of a file.

    Args:
        scenario: data, batches and rates.
        weights: the file.
        rate_of: what the learning rate of a parameter is multiplied by in a round, by its name; None: it is frozen.
        pull: of L2-SP.
        own_norm: the start of the names of what each client keeps of its own, where it is batch norm.
        options: how timm makes the model.
    """

    def __init__(
        self,
        scenario: Scenario,
        weights: Path,
        rate_of: Callable[[str, int], float | None],
        pull: float = 0.0,
        own_norm: str | None = None,
        **options: Any,
    ) -> None:
        self.own_norm, self.own = own_norm, dict[str, State]()
        self.scenario, self.rate_of, self.pull = scenario, rate_of, pull
        self.federation = build_federation(scenario.data, scenario.seed)
        labels = self.federation.samples.label_names
        self.model = timm.create_model(
            scenario.backbone.name.partition(":")[2], pretrained=False, checkpoint_path=str(weights), **options
        )
        self.model.reset_classifier(len(labels))
        torch.nn.init.zeros_(self.model.get_classifier().weight)
        torch.nn.init.zeros_(self.model.get_classifier().bias)
        self.model.eval()
        config: Mapping[str, Any] = self.model.pretrained_cfg
        self.images = images_of(self.federation, config["mean"], config["std"])
        self.targets = torch.from_numpy(self.federation.samples.targets)
        self.pretrained = copy.deepcopy(self.model.state_dict())

    def rounds(self) -> list[State]:
        """Return the state after each round, the start first."""
        states = [copy.deepcopy(self.model.state_dict())]
        for number in range(1, self.scenario.server.rounds + 1):
            states.append(self._round(states[-1], number))
        return states

    def _round(self, start: State, number: int) -> State:
        federation = self.federation
        locals_, counts = [], []
        for position, name in enumerate(federation.client_names):
            rows = federation.train.of(position)
            if len(rows):
                locals_.append(self._trained(start, rows, name, number))
                counts.append(len(rows))
        weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        return {
            name: sum((w * local[name].double() for w, local in zip(weights, locals_, strict=True))).to(value.dtype)  # type: ignore[union-attr]
            if value.is_floating_point() and not self._is_own(name)
            else value
            for name, value in start.items()
        }

    def _is_own(self, name: str) -> bool:
        """Return whether an array is a client's own; timm calls batch norm bn1, ..., and downsample.2."""
        of_norm = ".bn" in name or ".downsample.2." in name
        return self.own_norm is not None and name.startswith(self.own_norm) and of_norm

    def state_of(self, client: str, state: State) -> State:
        """Return a state with a client's own batch norm."""
        return {**state, **self.own.get(client, {})}

    def _trained(self, start: State, rows: np.ndarray[Any, Any], name: str, number: int) -> State:
        settings, model = self.scenario.train, self.model
        model.load_state_dict(self.state_of(name, start))
        for part_name, part in model.named_modules():
            part.training = isinstance(part, torch.nn.BatchNorm2d) and self._is_own(f"{part_name}.weight")
        groups = []
        for part_name, parameter in model.named_parameters():
            rate = self.rate_of(part_name, number)
            parameter.requires_grad_(rate is not None)
            if rate is not None:
                groups.append({"params": [parameter], "lr": rate * settings.optimizer.learning_rate})
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=settings.optimizer.momentum)  # type: ignore[union-attr]
        for epoch in range(settings.local_epochs or 1):
            order = orders(key(self.scenario.seed, "batches", number, name_key(name), epoch), len(rows))[0]
            for first in range(0, len(rows), settings.batch_size):
                batch = torch.from_numpy(rows[order[first : first + settings.batch_size]])
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(self.images[batch]), self.targets[batch])
                if self.pull:
                    loss = loss + 0.5 * self.pull * sum(
                        (parameter - self.pretrained[part_name]).square().sum()
                        for part_name, parameter in model.named_parameters()
                        if parameter.requires_grad and not part_name.startswith("fc.")
                    )
                loss.backward()
                optimizer.step()
        model.eval()
        state = copy.deepcopy(model.state_dict())
        self.own[name] = {part_name: value for part_name, value in state.items() if self._is_own(part_name)}
        return state

    def accuracy(self, state: State, rows: np.ndarray[Any, Any]) -> float:
        """Return how many of some samples a state gets right, as a fraction."""
        self.model.load_state_dict(state)
        with torch.no_grad():
            return float((self.model(self.images[rows]).argmax(1) == self.targets[rows]).double().mean())
