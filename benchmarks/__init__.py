"""How the figures in README.md were measured: models in full size, other programs, and the comparison."""
