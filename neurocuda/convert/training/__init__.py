"""Trains a converted network further, through its spikes."""
