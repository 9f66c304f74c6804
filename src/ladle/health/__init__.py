"""Is a latent space fit for diffusion? `ladle inspect --health` measures it before a long training."""
