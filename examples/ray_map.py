"""Encode and sample with Ray: each worker process loads the models once, and then takes batches of rows.

pip install 'ladle[ray]'; python examples/ray_map.py
"""

import ray.data

import ladle


class Ladle:
    """One worker's models. A text depends on its own seed alone, so that neither batches nor workers change it."""

    def __init__(self):
        self.encoder = ladle.LatentDiffusion.from_pretrained("base-en")
        self.generator = ladle.LatentDiffusion.from_pretrained("e2e")

    def __call__(self, rows):
        latents = self.encoder.encode(rows["text"])  # zero outside the mask
        rows["mean_latent"] = (latents.values.sum(1) / latents.mask.sum(1, keepdim=True)).numpy()
        rows["sample"] = self.generator.generate(seeds=rows["seed"], num_inference_steps=8, candidates=1)
        return rows


if __name__ == "__main__":
    rows = [{"seed": i, "text": f"The boats came home after {i} days at sea."} for i in range(1000)]
    workers = ray.data.ActorPoolStrategy(size=2)
    for row in ray.data.from_items(rows).map_batches(Ladle, batch_size=100, compute=workers).iter_rows():
        print(row["seed"], row["sample"])
