"""Latents <-> noise: how much noise (schedule), what the network says (prediction), samplers, wrappers."""
