"""Latents <-> noise: what noise there is (schedule), what the network says (prediction), how to sample (samplers, wrappers)."""
