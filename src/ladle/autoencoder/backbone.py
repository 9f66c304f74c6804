"""The encoder-decoder that reads and writes text, with its tokenizer: pre-trained, or small with random weights.

The interface is that of transformers (`AutoModelForSeq2SeqLM`, `encoder_outputs=`). BART, T5 and mT5 train and
generate from a memory tensor without changes, so one class serves all of them.
"""

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator
from torch import Tensor, nn

from ladle.autoencoder.lexicon import Lexicon
from ladle.autoencoder.loop import stepper_of, write
from ladle.autoencoder.phrases import Phrases
from ladle.autoencoder.signs import literal, written
from ladle.config import Config
from ladle.errors import UserError
from ladle.hub import loading
from ladle.layers import sinusoids

PLAIN: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}  # how models of transformers are made
# A tokenizer keeps the length of its last call, so that threads would cut texts at each other's. (Not one lock for each
# tokenizer: a model can be pickled.)
_TOKENIZING = threading.Lock()
DRAFTED_ROWS = 4  # of a batch at most: with 8 rows longer passes cost what fewer passes save
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<mask>")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GENERATION_TOKENS = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip


class PretrainedBackboneConfig(Config):
    """A pre-trained encoder-decoder of transformers."""

    pretrained: str = Field(min_length=1)
    """A folder or a hub id, such as facebook/bart-base."""


class SmallBackboneConfig(Config):
    """The sizes of a small encoder-decoder that starts from random weights."""

    pretrained: None = None
    """A folder or a hub id of a pre-trained encoder-decoder. It brings its own sizes, so give none of those below."""
    vocab_size: int = Field(6144, ge=300)
    """Largest size of the vocabulary, which is made from the texts."""
    width: int = Field(256, ge=8)
    """Channels of the token states."""
    num_encoder_layers: int = Field(3, ge=1)
    """Layers of the encoder."""
    num_decoder_layers: int = Field(2, ge=1)
    """Layers of the autoregressive decoder."""
    num_heads: int = Field(4, ge=1)
    """Attention heads, here and in the bottleneck. `width` must be a multiple of this number."""

    @field_validator("num_heads")
    @classmethod
    def _divides_the_width(cls, num_heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width")  # absent: said to be wrong already
        if width is not None and width % num_heads:
            raise ValueError(f"it must divide the width, {width}")
        return num_heads


class LanguageBackboneConfig(Config):
    """The sizes of Ladle's own encoder-decoder for plan latents: a sentence encoder and a language decoder."""

    kind: Literal["language"]
    """`language`: Ladle's own decoder, which reads plan latents, and a sentence encoder. Leave it out for an
    encoder-decoder of transformers."""
    vocab_size: int = Field(12288, ge=300)
    width: int = Field(320, ge=8)
    num_decoder_layers: int = Field(8, ge=1)
    num_heads: int = Field(5, ge=1)
    encoder_width: int = Field(384, ge=8)
    """Channels of the sentence encoder: as many as a plan has (`language`)."""
    num_encoder_layers: int = Field(0, ge=0)

    @property
    def pretrained(self) -> None:
        """Not one of transformers."""
        return None

    @field_validator("num_heads")
    @classmethod
    def _halves_the_width(cls, num_heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width")
        if width is not None and width % (2 * num_heads):
            raise ValueError(f"twice this number must divide the width, {width}")
        return num_heads


def _which(given: Any) -> str:
    def value(name: str) -> Any:
        return given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)

    if value("kind") is not None:
        return "language"
    return "small" if value("pretrained") is None else "pretrained"


BackboneConfig = Annotated[
    Annotated[SmallBackboneConfig, Tag("small")]
    | Annotated[PretrainedBackboneConfig, Tag("pretrained")]
    | Annotated[LanguageBackboneConfig, Tag("language")],
    Discriminator(_which),
]


class Backbone(nn.Module):
    """An encoder-decoder of transformers with its tokenizer. Callers exchange memory tensors with it.

    model: any `AutoModelForSeq2SeqLM`. tokenizer: with a padding and an end-of-text token. max_tokens: length of the
    longest text, in tokens, end token included; longer texts are cut. alphabet: the signs that it has learnt and may
    write; None if they are not known. lexicon: the words that it may write; None for any. phrases: drafts of small
    batches are made of them, if the decoder can use drafts.
    """

    alphabet: frozenset[str] | None = None
    lexicon: Lexicon | None = None
    phrases: Phrases | None = None
    model: Any  # transformers' own types say less than is known here

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int):
        super().__init__()
        self.model, self.tokenizer, self.max_tokens = model, literal(tokenizer), max_tokens
        # The special tokens only: a summariser's habits (no repeated trigrams, a least length) would change the text.
        given = model.generation_config
        tokens = {name: getattr(given, name) for name in GENERATION_TOKENS if getattr(given, name) is not None}
        model.generation_config = type(given)(**tokens)

    @classmethod
    def build(cls, config: BackboneConfig, max_tokens: int, tokenizer: Any = None) -> "Backbone":
        """Load `config.pretrained`, or build a new model for `tokenizer` (made by `train_tokenizer`)."""
        if isinstance(config, PretrainedBackboneConfig):
            return cls.from_pretrained(config.pretrained, max_tokens)
        tokens = {
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.bos_token_id,
        }  # fmt: skip
        if isinstance(config, LanguageBackboneConfig):
            from ladle.autoencoder.language_model import LanguageConfig, LanguageModel

            sizes = LanguageConfig(
                vocab_size=len(tokenizer), hidden_size=config.width, num_hidden_layers=config.num_decoder_layers,
                num_attention_heads=config.num_heads, max_position_embeddings=max_tokens,
                encoder_hidden_size=config.encoder_width, num_encoder_layers=config.num_encoder_layers, **tokens,
            )  # fmt: skip
            return cls(LanguageModel(sizes), tokenizer, max_tokens)
        from transformers import MBartConfig, MBartForConditionalGeneration

        # mBART's layers are pre-norm, which trains from nothing without care; sizes are ours.
        model = MBartForConditionalGeneration(
            MBartConfig(
                vocab_size=len(tokenizer), d_model=config.width, max_position_embeddings=max_tokens,
                encoder_layers=config.num_encoder_layers, decoder_layers=config.num_decoder_layers,
                encoder_attention_heads=config.num_heads, decoder_attention_heads=config.num_heads,
                encoder_ffn_dim=4 * config.width, decoder_ffn_dim=4 * config.width, dropout=0.0,
                attention_dropout=0.0, activation_dropout=0.0, scale_embedding=True, forced_eos_token_id=None,
                attn_implementation="eager", **tokens,
            )
        )  # fmt: skip
        _start_aligned(model)
        return cls(model, tokenizer, max_tokens)

    @classmethod
    def from_pretrained(cls, source: str | Path, max_tokens: int, *, weights: bool = True) -> "Backbone":
        """Load with transformers from a folder or a hub id; only safetensors weights are read. Without `weights` they
        are random.

        Raises:
            UserError: no such model, or one that is not an encoder-decoder.
        """
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

        with loading("encoder-decoder", source):
            if weights:
                model = AutoModelForSeq2SeqLM.from_pretrained(source, use_safetensors=True, **PLAIN)
            else:
                model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(source), **PLAIN)
            tokenizer = AutoTokenizer.from_pretrained(source)
        return cls(model, tokenizer, max_tokens)

    @property
    def width(self) -> int:
        """W, channels of the token states."""
        return self.model.config.hidden_size

    @property
    def encoder_width(self) -> int:
        """Channels of the encoder's states, where they differ from the decoder's."""
        return int(getattr(self.model.config, "encoder_hidden_size", self.width))

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer."""
        return self.model.config.num_attention_heads

    @property
    def embedding(self) -> Tensor:
        """[V, W], the vectors of the tokens, which all decoders share."""
        return self.model.get_input_embeddings().weight

    @property
    def banned(self) -> list[int]:
        """The tokens that are never written: a special token inside a text would vanish, and join what stands around
        it."""
        end = self.model.generation_config.eos_token_id
        return [token for token in self.tokenizer.all_special_ids if token != end]

    def tokenize(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """texts -> input_ids [B, S] and attention_mask [B, S] (bool), cut at `max_tokens`, end token kept."""
        return padded_tokens(self.tokenizer, texts, self.max_tokens)

    def detokenize(self, ids: Tensor, *, any_sign: bool = False) -> list[str]:
        """ids [B, S] -> texts, without special tokens and (unless `any_sign`) without signs that are not in the
        alphabet."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        alphabet = None if any_sign else self.alphabet
        return [written(text.strip(), alphabet).strip() for text in texts]

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids [B, S], attention_mask [B, S] -> token states [B, S, W]."""
        encoder = self.model.get_encoder()
        if encoder is None:
            what = "this model has no encoder of its own"
            raise UserError(f"{what}; give autoencoder.bottleneck.sentence_encoder or backbone.num_encoder_layers")
        return encoder(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state

    def decode_logits(self, labels: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Teacher forcing: labels [B, S] (padded), memory [B, N, W], memory_mask [B, N] -> logits [B, S, V]."""
        return self._forced(labels, memory, memory_mask).logits

    def decode_loss(self, labels: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Teacher forcing: the mean cross-entropy, a scalar, of the texts labels [B, S] with mask [B, S], from memory
        [B, N, W] with memory_mask [B, N]. The model's own loss, which may need no logits of the whole batch."""
        loss: Tensor = self._forced(labels, memory, memory_mask, labels=labels.masked_fill(~mask, -100)).loss
        return loss

    def _forced(self, ids: Tensor, memory: Tensor, memory_mask: Tensor, **options: Any) -> Any:
        start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
        written = torch.cat([start, ids[:, :-1]], dim=1)
        return self.model(**_encoded(memory, memory_mask), decoder_input_ids=written, use_cache=False, **options)

    def write(self, memory: Tensor, memory_mask: Tensor, **options: Any) -> Tensor:
        """Autoregressive decoding from memory [B, N, W] -> ids [B, S], without the start token; `options` are those of
        `loop.write`."""
        tokens = self.model.generation_config
        options = {"max_tokens": self.max_tokens, "banned": self.banned, "first": tokens.forced_bos_token_id, **options}
        start, end = tokens.decoder_start_token_id, tokens.eos_token_id
        if options.get("drafts") is None and self.phrases is not None and len(memory) <= DRAFTED_ROWS:
            options["drafts"] = [partial(self.phrases.draft, start)] * len(memory)
        return write(stepper_of(self.model), memory, memory_mask, start=start, end=end, **options)

    @torch.no_grad()
    def search(self, memory: Tensor, memory_mask: Tensor, num_beams: int) -> Tensor:
        """Beam search by transformers from memory [B, N, W] -> ids [B, S], without the start token."""
        # synced_gpus: else, in sharded training, the one process that samples would wait for the others.
        options = {"max_new_tokens": self.max_tokens, "do_sample": False, "num_beams": num_beams, "synced_gpus": False}
        ids: Tensor = self.model.generate(**_encoded(memory, memory_mask), **options)
        return ids[:, 1:]


def padded_tokens(tokenizer: Any, texts: Iterable[str], max_tokens: int) -> dict[str, Tensor]:
    """texts -> input_ids [B, S] and attention_mask [B, S] (bool), cut at `max_tokens`, end token kept."""
    with _TOKENIZING:
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"].bool()}


def _encoded(memory: Tensor, mask: Tensor) -> dict[str, Any]:
    """A memory in the form that transformers takes. Each call makes a new one, because beam search changes it."""
    from transformers.modeling_outputs import BaseModelOutput

    return {"encoder_outputs": BaseModelOutput(last_hidden_state=memory), "attention_mask": mask.long()}


@torch.no_grad()
def _start_aligned(model: Any) -> None:
    """Give a new model position codes, and cross-attention that first looks at the decoder's own position.

    Decoder and memory get the same sinusoids, and query and key maps are equal. So the scores are largest on the
    diagonal from the first step. From random maps a small decoder needs thousands of steps to find the diagonal.
    """
    for half in (model.get_encoder(), model.get_decoder()):
        table, offset = half.embed_positions.weight, half.embed_positions.offset
        table.zero_()
        table[offset:].copy_(sinusoids(table.shape[0] - offset, table.shape[1]))
    for layer in model.get_decoder().layers:
        attention = layer.encoder_attn
        nn.init.orthogonal_(attention.q_proj.weight)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer from the user's texts: any language, no unknown token.

    Words are split as in GPT-2, except that each digit is a token of its own, so that numbers need no entries. A text
    begins with a space, so that a word is the same token at every place.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    # Its own prefix space would go before every piece, and turn "20" into "2 0".
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    end = SPECIAL_TOKENS[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>"
    )
