"""The hub over the network, by its own client."""
