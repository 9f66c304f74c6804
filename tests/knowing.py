"""A tiny plan model whose decoder has learnt eight sentences by heart, at every noise level: its texts can be told."""

import copy
from functools import cache

import torch

import memorised
import tiny
from ladle.autoencoder.encoding import fit_normaliser
from ladle.autoencoder.plan_loss import plan_decoding_loss
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.schedule import ScheduleConfig, build_schedule
from ladle.evaluation.judge import fit_own
from ladle.storage.parts import ModelParts

EIGHT = memorised.EIGHT


@cache
def _learn() -> ModelParts:
    parts = tiny.tiny_plan_parts(labels=tiny.LABELS, source=False)
    autoencoder = parts.autoencoder
    batch = autoencoder.backbone.tokenize(EIGHT)
    fit_normaliser(autoencoder, EIGHT)
    z0 = autoencoder.encode_texts(EIGHT).values.detach()
    schedule = build_schedule(ScheduleConfig())
    optimizer = torch.optim.Adam(autoencoder.backbone.model.get_decoder().parameters(), lr=5e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(200):
            level = schedule.level(torch.rand(len(z0)))
            unlabelled = RawCondition(torch.full((len(z0),), -1))
            read = autoencoder.condition(unlabelled, len(z0), autoencoder.backbone.embedding)
            loss, _ = plan_decoding_loss(
                autoencoder, z0, batch["input_ids"], batch["attention_mask"], level, torch.randn_like(z0), read
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return parts


def knowing(*, judged: bool = False) -> ModelParts:
    """A copy of it. judged: with a judge that finds texts about a cat good and those about a dog bad."""
    parts = copy.deepcopy(_learn())
    if judged:
        words = (("cat", "good"), ("dog", "bad"))
        parts.judge = fit_own([{"text": f"the {w} {n}", "label": own} for w, own in words for n in range(40)], [])
    return parts
