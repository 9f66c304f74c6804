"""Changes texts in latent space: blend, vary, paraphrase, edit, fill in. Each call says what it kept and changed."""
