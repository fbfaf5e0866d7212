"""Streaming histograms of activations: percentiles near numpy's, the same whatever the batches are."""

import numpy as np
import pytest
import torch

from neurocuda.convert.thresholds import ChannelHistograms, thresholds


def drawn(seed: int) -> torch.Tensor:
    """Activations of 6 channels: usual, large, tiny, sparse, dead, one value."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 6, 9, 9, generator=generator).relu()
    x[:, 1] *= 3000
    x[:, 2] /= 5000
    x[:, 3] = torch.where(torch.rand(60, 9, 9, generator=generator) < 0.004, x[:, 3] + 1, 0)
    x[:, 4] = 0
    x[:, 5] = 2.5
    return x


def counted(x: torch.Tensor, size: int) -> ChannelHistograms:
    histograms = ChannelHistograms(x.shape[1])
    for batch in x.split(size):
        histograms.add(batch)
    return histograms


@pytest.mark.parametrize("percent", [10.0, 50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentiles_of_active_values(percent: float) -> None:
    x = drawn(1)
    found = counted(x, 7).percentile(percent)
    for channel, value in enumerate(found):
        active = x[:, channel][x[:, channel] > 0].numpy().astype(np.float64)
        expected = np.quantile(active, percent / 100, method="inverted_cdf") if active.size else 0.0
        assert abs(value - expected) <= expected / 32, channel
    if percent == 100:
        assert torch.equal(found, x.movedim(1, 0).flatten(1).amax(1).double())


def test_batches_and_their_order_change_nothing() -> None:
    x = drawn(2)
    first, second = counted(x, 60), counted(x.flip(0), 1)
    assert torch.equal(first.counts, second.counts)
    assert torch.equal(first.highest, second.highest)
    assert first.counts.sum(1).tolist() == [60 * 81] * len(first.counts)


def test_values_beyond_the_bins_keep_their_maximum() -> None:
    x = torch.tensor([[1e-9, 3e8]]).T.reshape(2, 1)
    histograms = counted(x, 1)
    assert histograms.percentile(100) == float(np.float32(3e8))
    assert not histograms.dead.any()


def test_dead_channels_and_caps() -> None:
    histograms = counted(drawn(3), 60)
    assert histograms.dead.tolist() == [False, False, False, False, True, False]
    theta = thresholds(histograms, 100)
    assert theta[4] == theta[[0, 1, 2, 3, 5]].median()
    assert thresholds(histograms, 100, cap=2.0).max() == 2.0
    assert thresholds(counted(torch.zeros(3, 2), 3), 99).tolist() == [1, 1]


def test_linear_layers_have_a_channel_for_each_neuron() -> None:
    x = torch.rand(50, 8)
    assert torch.equal(counted(x, 50).percentile(100), x.amax(0).double())
