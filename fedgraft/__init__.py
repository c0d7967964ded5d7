"""FedGraft: federated transfer learning over shared, frozen, pretrained backbones."""

__version__ = "0.1.0"
