"""From a graph to a lowered schedule: order, proof of exactness, how each layer is computed, tiles."""
