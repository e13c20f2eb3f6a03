"""The runtime on the board: model, training, privacy, links, ledger, agent."""

__version__ = "0.1.0"
