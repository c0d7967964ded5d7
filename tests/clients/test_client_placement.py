"""Clients are placed on hosts by what their training is predicted to cost."""

from __future__ import annotations

import numpy as np
import pytest
from small_scenario import Site, describe_clients

from clients.placement import client_costs, place
from clients.settings import TrainSettings
from fedgraft.models.head_settings import LinearHead

TRAIN = TrainSettings(local_epochs=2, batch_size=4)


def test_costs_by_hand() -> None:
    """20 samples of 8 features, 3 outputs: 2 epochs of 5 batches of 4.

    dual: 3400 x 10 + 40 x (20 x 1.52 + 54) + 160 x 1.811 + 0.021 x 400 x 8 / 20 = 34000 + 3376 + 289.76 + 3.36;
    primal: 4300 x 10 + 40 x (8 x 2.405 + 87) + 3.6 x 240 + 0.69 x 160 = 43000 + 4249.6 + 864 + 110.4.
    """
    counts = np.array([0, 20, 0, 20])
    np.testing.assert_allclose(client_costs(counts, 8, 3, LinearHead(), TRAIN), [0, 37669.12, 0, 37669.12])
    primal = TRAIN.model_copy(update={"form": "primal"})
    np.testing.assert_allclose(client_costs(counts, 8, 3, LinearHead(), primal), [0, 48224, 0, 48224])


def test_one_large_client_is_worth_many_small_ones() -> None:
    """Four shards of two: the large client's shard has a host to itself; the plain turn would give it a second."""
    counts = np.array([400, 0, 10, 10, 10, 10, 10, 10])
    placed = place(counts, 4, 2, 64, 10, LinearHead(), TRAIN)
    assert placed.shards.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert placed.hosts.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    costs = client_costs(counts, 64, 10, LinearHead(), TRAIN)
    np.testing.assert_allclose(placed.host_costs, [costs[:2].sum(), costs[2:].sum()], rtol=1e-12)


@pytest.mark.parametrize("num_hosts", [1, 2, 3])
def test_hosts_that_compute_alone_share_all_clients(num_hosts: int) -> None:
    everyone = describe_clients(Site(shards=4))[1]
    found = [describe_clients(Site(number, num_hosts, shards=4)) for number in range(num_hosts)]
    assert sorted(name for _, names in found for name in names) == everyone
    assert len({body.host_costs for body, _ in found}) == 1
    costs = found[0][0].host_costs
    assert len(costs) == (num_hosts if num_hosts > 1 else 0)
