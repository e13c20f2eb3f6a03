"""Mechanisms, clipping and accounting: every function that makes a release returns its ledger entry with it."""
