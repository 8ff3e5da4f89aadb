"""The decoder that ships computes what the light one does behind its pixel shuffle."""

from __future__ import annotations

import pytest
import torch

from training.pocket import autoencoder
from training.pocket.graft import graft


@pytest.mark.parametrize("shape", [(4, 4), (8, 8), (16, 16), (8, 5)])
def test_the_graft_is_the_light_decoder(shape: tuple[int, int]) -> None:
    """Also for latents so large that the decoders' tanh cuts them, and the channels that lead nowhere can learn."""
    torch.manual_seed(0)
    model, light = autoencoder.build(), autoencoder.LightDecoder()
    latents = 3 * torch.randn(2, autoencoder.CHANNELS, *shape)
    before = (model.decoder(latents) - light(latents)).abs().max()
    graft(model.decoder, light.decoder)
    assert before > 0.1
    torch.testing.assert_close(model.decoder(latents), light(latents), atol=2e-5, rtol=0)
    torch.autograd.backward(model.decoder(latents).square().mean())
    learns = [p.grad is not None and bool(p.grad.any()) for p in model.decoder.parameters()]
    assert all(learns[-1:]) and sum(learns) > len(learns) / 2
