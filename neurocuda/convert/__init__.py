"""From trained torch models to spiking networks: tracing, calibration, training, NIR files."""
