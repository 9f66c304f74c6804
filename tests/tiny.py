"""Tiny real components for the tests: 32 wide, from configs, with a tokenizer trained on made sentences."""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import AutoencoderConfig, TextAutoencoder, Trained
from ladle.autoencoder.backbone import Backbone, train_tokenizer
from ladle.autoencoder.encoding import fit_normaliser
from ladle.autoencoder.language import LanguageDecoder
from ladle.autoencoder.latents import Latents
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.decoder import attach
from ladle.conditioning.source_text import SourceReader
from ladle.diffusion.model import DiffusionConfig, LatentDiffusionModel
from ladle.sampling.options import SamplingOptions
from ladle.storage.parts import ModelParts

MAX_TOKENS = 24
SENTENCES = [
    f"the {adjective} {animal} {verb} {place}."
    for (adjective, animal), (verb, place) in itertools.product(
        [
            ("old", "cat"),
            ("red", "fox"),
            ("shy", "owl"),
            ("big", "dog"),
            ("wet", "hen"),
            ("sad", "cow"),
            ("mad", "bee"),
        ],
        [
            ("sat", "on a mat"),
            ("ran", "to the sea"),
            ("hid", "in 12 trees"),
            ("ate", "at noon"),
            ("sang", "for us"),
            ("slept", "a lot"),
            ("met", "the king"),
        ],
    )
]
LABELS = ("bad", "good")


@cache
def _tokenizer_json(vocab_size: int) -> str:
    return train_tokenizer(SENTENCES, vocab_size).backend_tokenizer.to_str()


def tiny_tokenizer(vocab_size: int = 320) -> Any:
    """A new byte-level tokenizer, trained on the made sentences."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_tokenizer_json(vocab_size)), **special)


def tiny_bart_tokenizer() -> Any:
    """BART's class of tokenizer with the entries of `tiny_tokenizer`."""
    from transformers import BartTokenizer

    model = json.loads(_tokenizer_json(320))["model"]
    return BartTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def tiny_t5_tokenizer() -> Any:
    """T5's class of tokenizer: pieces with scores, an unknown token, no mask token."""
    from transformers import T5Tokenizer

    words = {"▁" + word for sentence in SENTENCES for word in sentence.replace(".", "").split()}
    letters = {letter for sentence in SENTENCES for letter in sentence if letter != " "}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(piece, -3.0) for piece in sorted(words)] + [(piece, -5.0) for piece in sorted(letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=2)


def tiny_autoencoder_config(
    kind: str = "aligned", *, parallel: bool = True, regulariser: str = "norm", **backbone: Any
) -> AutoencoderConfig:
    """The settings of `tiny_autoencoder`; `backbone` fields may be given (`pretrained`, `width`)."""
    sizes = {"vocab_size": 320, "width": 32, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
    number = {"tokens_per_latent": 3} if kind == "aligned" else {"num_latents": 6}
    values = {
        "max_tokens": MAX_TOKENS,
        "backbone": backbone if backbone.get("pretrained") else sizes | backbone,
        "bottleneck": {"kind": kind, "latent_dim": 16, **number, "num_layers": 1, "regulariser": regulariser},
        "parallel_layers": int(parallel),
    }
    return AutoencoderConfig.parse(values)


def tiny_autoencoder(
    kind: str = "aligned",
    *,
    parallel: bool = True,
    regulariser: str = "norm",
    trained: Trained = "none",
    seed: int = 0,
    **backbone: Any,
) -> TextAutoencoder:
    """A new autoencoder in evaluation mode, with a normaliser that is not the identity.

    trained: what of a pre-trained backbone is.
    """
    config = tiny_autoencoder_config(kind, parallel=parallel, regulariser=regulariser, **backbone)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = None if config.backbone.pretrained else tiny_tokenizer()
        autoencoder = TextAutoencoder(config, Backbone.build(config.backbone, config.max_tokens, tokenizer)).eval()
        if config.backbone.pretrained:
            autoencoder.freeze_backbone(trained)
        autoencoder.normaliser.mean.normal_()
        autoencoder.normaliser.std.uniform_(0.5, 2.0)
    return autoencoder


def tiny_diffusion(
    autoencoder: TextAutoencoder,
    *,
    labels: tuple[str, ...] = LABELS,
    source: bool = True,
    attributes: dict[str, tuple[str, ...]] | None = None,
    source_memory: str = "states",
    max_latents: int | None = None,
    seed: int = 0,
    **denoiser: Any,
) -> LatentDiffusionModel:
    """A new diffusion model over the autoencoder's latents, in evaluation mode, with an output that is not zero."""
    reads = {"memory": source_memory, "max_tokens": MAX_TOKENS} if source else None
    condition = ConditionConfig.parse({"labels": labels, "source": reads, "attributes": attributes or {}})
    config = DiffusionConfig.parse({"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1} | denoiser})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        source_dim = SourceReader(autoencoder, condition).dim
        diffusion = LatentDiffusionModel(autoencoder, config, condition, source_dim, max_latents).eval()
        torch.nn.init.normal_(diffusion.denoiser.output.weight, std=0.2)
    return diffusion


def tiny_parts(kind: str = "aligned", *, name: str = "tiny", seed: int = 0, **backbone: Any) -> ModelParts:
    """A whole tiny model with labels and a source."""
    autoencoder = tiny_autoencoder(kind, seed=seed, **backbone)
    sampling = SamplingOptions(num_inference_steps=4, guidance_scale=1.5)
    return ModelParts(name, autoencoder, tiny_diffusion(autoencoder, seed=seed), sampling, {"rows": len(SENTENCES)})


PLAN_SIZES: dict[str, Any] = {
    "max_tokens": MAX_TOKENS,
    "backbone": {
        "kind": "language", "vocab_size": 320, "width": 32, "num_decoder_layers": 2, "num_heads": 2,
        "encoder_width": 32, "num_encoder_layers": 1,
    },
    "bottleneck": {"kind": "plan", "num_latents": 4, "latent_dim": 8},
}  # fmt: skip


@torch.no_grad()
def roughen(decoder: LanguageDecoder) -> LanguageDecoder:
    """Random weights everywhere: what a new decoder writes does not depend on what it reads."""
    torch.nn.init.normal_(decoder.embedding.weight, std=0.3)
    for block in decoder.blocks:
        torch.nn.init.normal_(block.output.weight)
        torch.nn.init.normal_(block.down.weight)
    return decoder


def tiny_decoder(vocab_size: int = 12, max_tokens: int = MAX_TOKENS, seed: int = 0) -> LanguageDecoder:
    """A language decoder with random weights, 32 wide, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return roughen(LanguageDecoder(vocab_size, 32, 2, 2, max_tokens)).eval()


def tiny_plan_autoencoder(*, rough: bool = True, seed: int = 0, **bottleneck: Any) -> TextAutoencoder:
    """A new autoencoder with plan latents, in evaluation mode, with a fitted normaliser. rough: see `roughen`."""
    config = AutoencoderConfig.parse(PLAN_SIZES | {"bottleneck": PLAN_SIZES["bottleneck"] | bottleneck})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder = TextAutoencoder(config, Backbone.build(config.backbone, MAX_TOKENS, tiny_tokenizer())).eval()
        if rough:
            roughen(autoencoder.backbone.model.get_decoder())
    fit_normaliser(autoencoder, SENTENCES)
    return autoencoder


def tiny_plan_parts(
    *,
    labels: tuple[str, ...] = LABELS,
    source: bool = True,
    attributes: dict[str, tuple[str, ...]] | None = None,
    seed: int = 0,
) -> ModelParts:
    """A whole tiny model with plan latents, whose decoder reads labels and sources."""
    autoencoder = tiny_plan_autoencoder(seed=seed)
    reads = {"memory": "latents", "max_tokens": MAX_TOKENS} if source else None
    condition = ConditionConfig.parse({"labels": labels, "source": reads, "attributes": attributes or {}})
    denoiser = {"kind": "perceptron", "width": 32, "num_layers": 2}
    config = DiffusionConfig.parse({"denoiser": denoiser, "schedule": {"shift": 1.0}})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attach(autoencoder, condition)
        source_dim = SourceReader(autoencoder, condition).dim
        diffusion = LatentDiffusionModel(autoencoder, config, condition, source_dim).eval()
        torch.nn.init.normal_(diffusion.denoiser.output.weight, std=0.2)
    stop = {"stop_time": 0.3}
    sampling = SamplingOptions.parse(
        {
            "num_inference_steps": 4,
            "guidance_scale": 1.5,
            "temperature": 1.0,
            "conditional": stop,
            "unconditional": stop,
        }
    )
    return ModelParts("plan", autoencoder.eval(), diffusion, sampling, {"rows": len(SENTENCES)})


def bart_folder(path: Path, seed: int = 0) -> Path:
    """A random BART, 32 wide, with its tokenizer, as transformers saves it."""
    from transformers import BartConfig, BartForConditionalGeneration

    tokenizer = tiny_bart_tokenizer()
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id, forced_eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return _save_backbone(BartForConditionalGeneration, config, tokenizer, path, seed)


def t5_folder(path: Path, seed: int = 0) -> Path:
    """A random T5, 32 wide, with its tokenizer, as transformers saves it."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = tiny_t5_tokenizer()
    return _save_backbone(T5ForConditionalGeneration, T5Config(**_t5_sizes(tokenizer)), tokenizer, path, seed)


def mt5_folder(path: Path, seed: int = 0) -> Path:
    """A random mT5 (gated feed-forward, an output layer of its own), 32 wide, as transformers saves it."""
    from transformers import MT5Config, MT5ForConditionalGeneration

    tokenizer = tiny_t5_tokenizer()
    config = MT5Config(**_t5_sizes(tokenizer), tie_word_embeddings=False)
    return _save_backbone(MT5ForConditionalGeneration, config, tokenizer, path, seed)


def bert_folder(path: Path, seed: int = 0, places: int = 40) -> Path:
    """A random BERT, 24 wide: an encoder alone, of another width than all other tiny models."""
    from transformers import BertConfig, BertModel

    tokenizer = tiny_bart_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=places, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _save_backbone(BertModel, config, tokenizer, path, seed)


PRETRAINED = {"bart": bart_folder, "t5": t5_folder, "mt5": mt5_folder}


def tokens(autoencoder: TextAutoencoder, texts: list[str] | None = None) -> dict[str, Tensor]:
    """input_ids [B, S] and attention_mask [B, S] of seven of the made sentences, or of `texts`."""
    return autoencoder.backbone.tokenize(SENTENCES[::7] if texts is None else texts)


@torch.no_grad()
def latents(autoencoder: TextAutoencoder, texts: list[str] | None = None) -> Latents:
    """z0 of seven of the made sentences, or of `texts`."""
    return autoencoder.encode(**tokens(autoencoder, texts))


def _t5_sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 4,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }


def _save_backbone(cls: Any, config: Any, tokenizer: Any, path: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
        # A random model of this size writes one token over and over; larger embeddings make its texts differ.
        torch.nn.init.normal_(model.get_input_embeddings().weight)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
