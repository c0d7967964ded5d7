"""The Flower ClientApp: a host that speaks for one or more clients."""
