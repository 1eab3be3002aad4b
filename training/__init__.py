"""How the bundled demo model `shapes` is made: data, training, export and evaluation."""
