"""The runtime on the board: model, training, privacy, links, ledger, agent."""
