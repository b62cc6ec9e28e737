"""Sweeps: grids of translators, trained together where they share their batches."""
