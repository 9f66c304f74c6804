"""Is a latent space fit for diffusion? What `ladle inspect --health` measures before any long training."""
